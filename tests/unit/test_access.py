"""The broker's password and access files, as text."""

from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from factoryd.embedded.mosquitto import changed_conf, conf_template
from mqtt.access import Account, hash_secret, render_acl, render_passwords

# What mosquitto_passwd 2.0.11 wrote for the password "geheim".
KNOWN = "$7$101$bas2v/v4OVRZQVFc$6SowhGDzYxjxBQjYtyEMTWoGOhg4PmbVvaZjNBhslAFI294epsoR5msSR8QbRaYhBXf8YU1DuGujbgMDgjiexQ=="
HASH = hash_secret("secret", bytes(12))
SHORT_SALT = f"$7$101${b64encode(bytes(11)).decode()}$AAAA"
REPOSITORY = Path(__file__).parents[2]


def test_a_secret_is_hashed_as_mosquitto_does_it() -> None:
    assert hash_secret("geheim", b64decode(KNOWN.split("$")[3])) == KNOWN


def test_two_hashes_of_one_secret_differ_by_their_salt() -> None:
    assert hash_secret("secret") != hash_secret("secret")


@pytest.mark.parametrize("length", [0, 11, 13])
def test_a_salt_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        hash_secret("secret", bytes(length))


def test_the_password_file_has_one_line_per_account() -> None:
    assert render_passwords([Account("press-1", HASH), Account("press-2", HASH)]) == f"press-1:{HASH}\npress-2:{HASH}\n"


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "a\nb", "a:b/c", "%u", "ä", "a" * 256])
def test_a_name_that_could_leave_its_topic_level_or_its_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be an account"):
        render_passwords([Account(name, HASH)])
    with pytest.raises(ValueError, match="cannot be an account"):
        render_acl("factory", "factoryd", None, [Account("gw-1", HASH, (name,))])


@pytest.mark.parametrize(
    "secret_hash",
    [
        "",
        "plain",
        "$6$abc$def",
        "$7$x$AAAAAAAAAAAAAAAA$AAAA",
        SHORT_SALT,
        HASH[:-8],
        HASH + "\nroot:",
    ],
)
def test_a_line_that_the_broker_could_not_read_is_refused(secret_hash: str) -> None:
    with pytest.raises(ValueError, match="press-1"):
        render_passwords([Account("press-1", secret_hash)])


def test_a_colon_which_ends_a_name_in_the_password_file_is_written_as_a_tilde() -> None:
    account = Account("aa:bb", HASH)
    assert render_passwords([account, Account("aa-bb", HASH)]) == f"aa~bb:{HASH}\naa-bb:{HASH}\n"
    assert "user aa~bb\ntopic write factory/devices/aa:bb/telemetry\n" in render_acl("factory", "factoryd", None, [account])


def test_an_account_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        render_passwords([Account("factoryd", HASH), Account("factoryd", HASH)])


def test_a_device_named_like_the_daemon_is_refused() -> None:
    with pytest.raises(ValueError, match="factoryd itself"):
        render_acl("factory", "factoryd", None, [Account("factoryd", HASH)])


def test_the_access_file_in_full() -> None:
    accounts = [Account("press-1", HASH), Account("gw-1", HASH, ("plc-7",))]
    assert render_acl("acme/hall-2", "factoryd", "tools", accounts, ["tele/{device}/SENSOR", "telegraf/#"]) == (
        "user factoryd\n"
        "topic read acme/hall-2/#\n"
        "topic read $SYS/#\n"
        "topic read tele/+/SENSOR\n"
        "topic read telegraf/#\n"
        "topic write acme/hall-2/devices/+/ota/command\n"
        "topic write acme/hall-2/devices/+/rejected\n"
        "topic write acme/hall-2/alerts/#\n"
        "topic write acme/hall-2/alert-events/#\n"
        "topic write acme/hall-2/alert-history/#\n"
        "topic write acme/hall-2/daemon/#\n"
        "topic write acme/hall-2/operators/+/responses/#\n"
        "\n"
        "user tools\n"
        "topic readwrite #\n"
        "topic readwrite $SYS/#\n"
        "\n"
        "user gw-1\n"
        "topic write acme/hall-2/devices/plc-7/telemetry\n"
        "topic write acme/hall-2/devices/plc-7/status\n"
        "topic write acme/hall-2/devices/plc-7/ota/progress\n"
        "topic write acme/hall-2/devices/plc-7/ota/state\n"
        "topic write tele/plc-7/SENSOR\n"
        "topic read acme/hall-2/devices/plc-7/ota/command\n"
        "topic read acme/hall-2/devices/plc-7/rejected\n"
        "\n"
        "pattern write acme/hall-2/devices/%u/telemetry\n"
        "pattern write acme/hall-2/devices/%u/status\n"
        "pattern write acme/hall-2/devices/%u/ota/progress\n"
        "pattern write acme/hall-2/devices/%u/ota/state\n"
        "pattern write tele/%u/SENSOR\n"
        "pattern read acme/hall-2/devices/%u/ota/command\n"
        "pattern read acme/hall-2/devices/%u/rejected\n"
    )


def test_the_packaged_mosquitto_conf_is_the_top_level_one() -> None:
    assert conf_template() == (REPOSITORY / "mosquitto.conf").read_text(encoding="utf-8")


def test_each_line_of_the_conf_is_changed_by_its_first_words() -> None:
    template = "# listener 1883\nlistener 1883\nlistener 1884 127.0.0.1\n"
    assert changed_conf(template, {"listener 1883": "listener 1"}) == "# listener 1883\nlistener 1\nlistener 1884 127.0.0.1\n"


@pytest.mark.parametrize(("start", "found"), [("listener", 2), ("absent", 0)])
def test_a_line_that_is_not_there_once_is_an_error(start: str, found: int) -> None:
    with pytest.raises(ValueError, match=f"{found} lines"):
        changed_conf("listener 1883\nlistener 1884\n", {start: "x"})
