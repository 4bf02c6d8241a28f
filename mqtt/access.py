"""PURE. Writes the broker's password and access files: who may log in, and who may publish and read which topics.

The broker knows a device by its user name alone, so the topic a device may use is derived from that name (`%u`). Formats:
mosquitto-conf(5), `password_file` and `acl_file` of mosquitto 2.0 and 2.1.

mosquitto's rules for the access file: nothing is allowed that no line allows; a `pattern` line holds for every account; a
`topic` line holds for the account of the `user` line above it. A SUBSCRIBE is always granted: it is each message's delivery
that is checked.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import pbkdf2_hmac
from secrets import token_bytes

from mqtt import topics

ITERATIONS = 101
"""What mosquitto_passwd 2.0 takes. Few, as 10,000 devices reconnect at once; our secrets are 192 random bits, which no number
of guesses finds. A secret chosen by a person would need far more."""

SALT_BYTES = 12
"""mosquitto 2.0 accepts no other length."""

DEVICE_WRITES = ("telemetry", "status", "ota/progress", "ota/state")
DEVICE_READS = ("ota/command", "rejected")

DAEMON_WRITES = (
    "devices/+/ota/command",
    "devices/+/rejected",
    "alerts/#",
    "alert-events/#",
    "alert-history/#",
    "daemon/#",
    "operators/+/responses/#",
)
"""Below the root. `#` stands for the level above it as well (MQTT 5, 4.7.1.2)."""


@dataclass(frozen=True, slots=True)
class Account:
    """One login at the broker. A device's name is its device id; see `login_name`."""

    name: str
    secret_hash: str
    speaks_for: tuple[str, ...] = ()
    """Devices behind this one (a gateway) that it publishes and reads for."""


def login_name(device: str) -> str:
    """Returns the user name a device logs in with: its id, with `~` for each `:`, which ends the name in a password file.

    No device id holds a `~`, so two devices never share a login.
    """
    return device.replace(":", "~")


def hash_secret(secret: str, salt: bytes | None = None) -> str:
    """Returns a secret as mosquitto 2.0 keeps it: `$7$iterations$salt$hash`, PBKDF2 with SHA-512, 64 bytes, in base64.

    Args:
        secret: the password.
        salt: 12 bytes; default: random ones.
    """
    salt = token_bytes(SALT_BYTES) if salt is None else salt
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt must have {SALT_BYTES} bytes, this one has {len(salt)}")
    digest = pbkdf2_hmac("sha512", secret.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${b64encode(salt).decode()}${b64encode(digest).decode()}"


def render_passwords(accounts: Iterable[Account]) -> str:
    """Returns the text of the password file.

    Raises:
        ValueError: a name is no device id, is there twice, or its hash is none of mosquitto's.
    """
    lines: dict[str, str] = {}
    for account in accounts:
        _check_name(account.name)
        _check_hash(account)
        if account.name in lines:
            raise ValueError(f"account {account.name} is there twice; a device must not be named like an account of factoryd")
        lines[account.name] = f"{login_name(account.name)}:{account.secret_hash}\n"
    return "".join(lines.values())


def render_acl(
    root: str,
    daemon_user: str,
    tools_user: str | None,
    accounts: Iterable[Account],
    sources: Iterable[str] = (),
) -> str:
    """Returns the text of the access file.

    A device may publish and read its own topics only; a gateway also those of the devices it speaks for; factoryd reads
    everything below the root and publishes what is its to publish.

    Args:
        root: first levels of every topic.
        daemon_user: factoryd's own account.
        tools_user: an account that may do everything, for a person's tools; None in production.
        accounts: the devices' accounts.
        sources: templates of further telemetry topics, e.g. `tele/{device}/SENSOR`. One without a `{device}` level is only
            read by factoryd: nothing ties such a topic to an account, so who may publish there is not for us to say.

    Raises:
        ValueError: a name is no device id, or a device is named like one of factoryd's accounts.
    """
    templates = tuple(sources)
    blocks = [_daemon_block(root, daemon_user, templates)]
    if tools_user is not None:
        blocks.append([f"user {tools_user}", "topic readwrite #", "topic readwrite $SYS/#"])
    for account in accounts:
        if account.name in {daemon_user, tools_user}:
            raise ValueError(f"a device must not be named {account.name}: that is an account of factoryd itself")
        blocks.extend(_own_block(root, account, templates))
    blocks.append([f"pattern {line}" for line in _device_rules(root, "%u", templates)])
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks)


def _daemon_block(root: str, user: str, templates: Iterable[str]) -> list[str]:
    _check_name(user)
    return [
        f"user {user}",
        f"topic read {root}/#",
        "topic read $SYS/#",
        *(f"topic read {topics.source_filter(template)}" for template in templates),
        *(f"topic write {root}/{branch}" for branch in DAEMON_WRITES),
    ]


def _own_block(root: str, account: Account, templates: tuple[str, ...]) -> Iterator[list[str]]:
    _check_name(account.name)
    login = login_name(account.name)
    # The patterns know a login only; a device that is not called like its login needs rules of its own.
    devices = (*account.speaks_for, *([account.name] if login != account.name else []))
    for device in devices:
        _check_name(device)
    rules = [f"topic {rule}" for device in devices for rule in _device_rules(root, device, templates)]
    if rules:
        yield [f"user {login}", *rules]


def _device_rules(root: str, device: str, templates: Iterable[str]) -> Iterator[str]:
    for leaf in DEVICE_WRITES:
        yield f"write {topics.device_topic(root, device, leaf)}"
    for template in templates:
        if "{device}" in template.split("/"):
            yield f"write {template.replace('{device}', device)}"
    for leaf in DEVICE_READS:
        yield f"read {topics.device_topic(root, device, leaf)}"


def _check_name(name: str) -> None:
    if not topics.is_device_id(name):
        raise ValueError(f"{name!r} cannot be an account: use 1 to 255 of A-Z a-z 0-9 . _ : -")


def _check_hash(account: Account) -> None:
    """A broker that meets a bad line on reload ends (mosquitto 2.1)."""
    kind, iterations, salt, digest = (account.secret_hash.split("$")[1:] + [""] * 4)[:4]
    try:
        good = kind == "7" and iterations.isdigit() and len(b64decode(salt, validate=True)) == SALT_BYTES
        good = good and len(b64decode(digest, validate=True)) == 64
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"account {account.name}: its secret is not hashed in mosquitto's $7$ format; give it a new one")
