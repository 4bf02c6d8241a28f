"""What the reference device takes, and what it refuses and why: its checks, one by one and in order."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from simulator.ota_command import MOST_COMMAND_BYTES, Cancel, Decision, Facts, Query, Update, Verb, decide, read_command
from simulator.ota_manifest import MOST_SIGNATURES, PAYLOAD_TYPE, pre_authentication_encoding
from simulator.ota_memory import ATTEMPTS_KEPT, Ended, Memory, Notebook, Order, with_attempt
from simulator.ota_versions import is_older

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
FACTS = Facts("press-7", "gw/c", "2.3.0", slot_bytes=4096, trusted_keys=(KEY.public_key().public_bytes_raw(),))
UNSIGNED = Facts("press-7", "gw/c", "2.3.0", slot_bytes=4096)
SHA = hashlib.sha256(b"firmware").hexdigest()
MANIFEST = {
    "spec": 1,
    "seq": 1042,
    "version": "2.4.1",
    "hardware": ["gw/b", "gw/c"],
    "min_version": "2.2.0",
    "size": 4096,
    "sha256": SHA,
    "format": "raw",
    "issued_at": "2026-11-22T09:00:00Z",
    "expires_at": "2027-05-22T10:00:00Z",
}
INSTALLED = Memory(manifest_seq=1041, manifest_digest="of 1041")


def envelope(
    facts: dict[str, Any] | bytes, *keys: Ed25519PrivateKey, kind: str = PAYLOAD_TYPE, signed_as: str = PAYLOAD_TYPE
) -> dict[str, Any]:
    """Returns a DSSE envelope; `signed_as`: the type under the signature, `kind`: the one beside it."""
    payload = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    message = pre_authentication_encoding(signed_as, payload)
    signatures = [{"keyid": "hint", "sig": base64.b64encode(key.sign(message)).decode()} for key in keys or (KEY,)]
    return {"payloadType": kind, "payload": base64.b64encode(payload).decode(), "signatures": signatures}


def command(manifest: dict[str, Any] | None = None, **changes: Any) -> Update:
    body: dict[str, Any] = {
        "v": 1,
        "type": "update",
        "device": "press-7",
        "deployment_id": 184,
        "attempt": 2,
        "version": "2.4.1",
        "firmware_url": "https://files.example/2.4.1.bin?signature=a",
        "issued_at": "2026-11-22T09:59:00Z",
        "expires_at": "2026-11-22T10:10:00Z",
        "manifest": envelope(MANIFEST) if manifest is None else manifest,
    }
    read = read_command(json.dumps(body | changes).encode())
    assert isinstance(read, Update)
    return read


def of(**changes: Any) -> dict[str, Any]:
    """Returns an envelope around a manifest with changes, rightly signed."""
    return envelope(MANIFEST | changes)


def answer(update: Update, memory: Memory = INSTALLED, facts: Facts = FACTS, now: datetime | None = NOW) -> Decision:
    return decide(update, memory, facts, now)


def test_what_passes_all_checks_is_accepted_with_the_signed_facts() -> None:
    decision = answer(command(size_bytes=1, sha256="00"))
    assert (decision.verb, decision.error_code) == (Verb.ACCEPT, None)
    order = decision.order
    assert order is not None
    assert (order.deployment_id, order.attempt, order.version, order.manifest_seq) == (184, 2, "2.4.1", 1042)
    assert (order.size, order.sha256) == (4096, SHA), "what stands beside the manifest does not count"
    assert (order.phase, order.percent, order.needs_url, order.cancelled) == ("acknowledged", 0, False, False)


REFUSALS: list[tuple[str, Update, str]] = [
    ("re-addressed", command(device="press-8"), "wrong_device"),
    ("expired", command(expires_at="2026-11-22T09:59:59Z"), "command_expired"),
    ("expires now", command(expires_at="2026-11-22T10:00:00Z"), "command_expired"),
    ("unsigned", command(envelope(MANIFEST) | {"signatures": []}), "signature_invalid"),
    ("bad signature", command(envelope(MANIFEST, OTHER_KEY)), "signature_invalid"),
    ("a changed manifest", command(of() | {"payload": of(seq=9999)["payload"]}), "signature_invalid"),
    ("no base64", command(of() | {"payload": "{}"}), "signature_invalid"),
    ("wrong type", command(envelope(MANIFEST, kind="text/plain", signed_as="text/plain")), "signature_invalid"),
    ("another type's signature", command(envelope(MANIFEST, signed_as="text/plain")), "signature_invalid"),
    ("its signature is the ninth", command(envelope(MANIFEST, *[OTHER_KEY] * MOST_SIGNATURES, KEY)), "signature_invalid"),
    ("signed nonsense", command(envelope(b"[]")), "unknown"),
    ("a later spec", command(of(spec=2)), "unknown"),
    ("another format", command(of(format="delta")), "unknown"),
    ("wrong hardware", command(of(hardware=["gw/a"])), "wrong_hardware"),
    ("no hardware", command(of(hardware=[])), "wrong_hardware"),
    ("expired manifest", command(of(expires_at="2026-11-22T09:59:59Z")), "manifest_expired"),
    ("an older manifest", command(of(seq=1040)), "sequence_too_old"),
    ("another manifest of the same number", command(of(seq=1041)), "sequence_too_old"),
    ("downgraded", command(of(version="2.2.9"), version="2.2.9"), "sequence_too_old"),
    ("min_version", command(of(min_version="2.3.1")), "min_version"),
    ("another version than is signed", command(of(version="2.4.0")), "signature_invalid"),
    ("too large", command(of(size=4097)), "no_space"),
]


@pytest.mark.parametrize(("update", "code"), [each[1:] for each in REFUSALS], ids=[each[0] for each in REFUSALS])
def test_refused(update: Update, code: str) -> None:
    decision = answer(update)
    assert (decision.verb, decision.error_code, decision.order) == (Verb.REFUSE, code, None)
    assert decision.reason


def test_a_device_with_keys_takes_nothing_without_a_manifest() -> None:
    update = replace(command(), manifest=None)
    assert answer(update).error_code == "signature_invalid"
    assert answer(update, facts=UNSIGNED).verb is Verb.ACCEPT


def test_a_device_without_keys_reads_the_manifest_all_the_same() -> None:
    assert answer(command(envelope(MANIFEST, OTHER_KEY)), facts=UNSIGNED).verb is Verb.ACCEPT
    assert answer(command(of(hardware=["gw/a"])), facts=UNSIGNED).error_code == "wrong_hardware"


def test_one_good_signature_among_others_is_enough() -> None:
    assert answer(command(envelope(MANIFEST, OTHER_KEY, KEY))).verb is Verb.ACCEPT


def test_a_downgrade_that_is_meant_as_one_is_taken() -> None:
    assert answer(command(of(version="2.2.9", downgrade=True), version="2.2.9")).verb is Verb.ACCEPT


def test_without_a_clock_expiry_is_skipped_and_nothing_else() -> None:
    late = command(of(expires_at="2026-01-01T00:00:00Z"), expires_at="2026-01-01T00:00:00Z")
    assert answer(late, now=None).verb is Verb.ACCEPT
    assert answer(late, Memory(manifest_seq=2000), now=None).error_code == "sequence_too_old"


def wrongs() -> Iterator[tuple[Callable[[dict[str, Any]], dict[str, Any]], dict[str, Any], str]]:
    """Yields what can be wrong, in the order of the checks: with the manifest, with the command, and the code."""
    yield lambda facts: facts, {"device": "press-8"}, "wrong_device"
    yield lambda facts: facts, {"expires_at": "2026-11-22T09:00:00Z"}, "command_expired"
    yield lambda facts: facts | {"spec": 2}, {}, "unknown"
    yield lambda facts: facts | {"hardware": ["gw/a"]}, {}, "wrong_hardware"
    yield lambda facts: facts | {"expires_at": "2026-01-01T00:00:00Z"}, {}, "manifest_expired"
    yield lambda facts: facts | {"seq": 1}, {}, "sequence_too_old"
    yield lambda facts: facts | {"min_version": "9.0.0"}, {}, "min_version"
    yield lambda facts: facts | {"size": 9999}, {}, "no_space"


@pytest.mark.parametrize(("first", "second"), list(pairwise(wrongs())), ids=lambda each: each[2])
def test_of_two_wrongs_the_first_in_order_is_told(first: Any, second: Any) -> None:
    update = command(envelope(second[0](first[0](MANIFEST))), **second[1] | first[1])
    assert answer(update).error_code == first[2]


def test_the_signature_is_checked_before_anything_is_read() -> None:
    assert answer(command(envelope(b"not json", OTHER_KEY))).error_code == "signature_invalid"


class TestFence:
    """By deployment and attempt."""

    ORDER = answer(command()).order
    assert ORDER is not None
    WORKING = Memory(attempts={"184": 2}, active=ORDER)
    ENDED = Memory(
        attempts={"184": 2},
        last=Ended(deployment_id=184, attempt=2, outcome="failed", phase="downloading", percent=40, error_code="network"),
    )

    @pytest.mark.parametrize("memory", [WORKING, ENDED], ids=["in work", "ended"])
    @pytest.mark.parametrize("attempt", [1, 2])
    def test_replayed(self, memory: Memory, attempt: int) -> None:
        assert answer(command(attempt=attempt), memory).verb is Verb.REPEAT

    @pytest.mark.parametrize("memory", [WORKING, ENDED], ids=["in work", "ended"])
    def test_a_late_copy_of_what_was_accepted_does_not_end_it(self, memory: Memory) -> None:
        assert answer(command(expires_at="2026-11-22T09:00:00Z"), memory).verb is Verb.REPEAT

    def test_a_newer_attempt_of_what_is_in_work_is_adopted(self) -> None:
        decision = answer(command(attempt=3, firmware_url="https://files.example/b"), self.WORKING)
        assert decision.verb is Verb.ADOPT
        assert decision.order is not None
        assert (decision.order.attempt, decision.order.url) == (3, "https://files.example/b")

    def test_a_newer_attempt_that_has_expired_is_not(self) -> None:
        assert answer(command(attempt=3, expires_at="2026-11-22T09:00:00Z"), self.WORKING).error_code == "command_expired"

    def test_a_newer_attempt_of_what_has_ended_begins_anew(self) -> None:
        assert answer(command(attempt=3), self.ENDED).verb is Verb.ACCEPT

    def test_other_firmware_under_the_same_number_waits(self) -> None:
        assert answer(command(of(seq=1043), attempt=3), self.WORKING).error_code == "busy_with_other"

    def test_another_deployment_waits(self) -> None:
        assert answer(command(deployment_id=185), self.WORKING).error_code == "busy_with_other"

    def test_a_fresh_url_is_taken_by_who_asked_for_it(self) -> None:
        assert self.ORDER is not None
        asked = replace(self.WORKING, active=replace(self.ORDER, needs_url=True))
        fresh = command(firmware_url="https://files.example/fresh")
        assert answer(fresh, asked).verb is Verb.ADOPT
        assert answer(command(), asked).verb is Verb.REPEAT, "the stale one again"
        assert answer(fresh, self.WORKING).verb is Verb.REPEAT, "nobody asked"

    def test_the_next_attempt_brings_a_fresh_url_too(self) -> None:
        assert self.ORDER is not None
        asked = replace(self.WORKING, active=replace(self.ORDER, needs_url=True))
        assert answer(command(attempt=3), asked).verb is Verb.ADOPT

    def test_attempts_count_from_one(self) -> None:
        assert answer(command(attempt=0)).verb is Verb.REPEAT

    def test_what_runs_already_is_not_installed_again(self) -> None:
        runs = replace_version("2.4.1")
        assert answer(command(), facts=runs).verb is Verb.ALREADY
        assert answer(command(of(hardware=["gw/a"])), facts=runs).verb is Verb.REFUSE
        assert answer(command(), self.WORKING, facts=runs).verb is Verb.REPEAT

    def test_the_same_manifest_again_is_no_step_back(self) -> None:
        installed = Memory(manifest_seq=1042, manifest_digest=command().digest)
        assert answer(command(deployment_id=185), installed).verb is Verb.ACCEPT
        assert answer(command(of(sha256="11" * 32), deployment_id=185), installed).error_code == "sequence_too_old"

    def test_a_number_may_be_text(self) -> None:
        assert answer(command(deployment_id="184"), self.WORKING).verb is Verb.REPEAT


class TestCancel:
    CANCEL = Cancel(deployment_id=184, attempt=2, device="press-7")

    def test_stops_what_is_in_work(self) -> None:
        assert decide(self.CANCEL, TestFence.WORKING, FACTS, NOW).verb is Verb.STOP

    @pytest.mark.parametrize("phase", ["installed", "rebooting", "confirming"])
    def test_comes_too_late(self, phase: str) -> None:
        assert TestFence.ORDER is not None
        memory = replace(TestFence.WORKING, active=replace(TestFence.ORDER, phase=phase))
        assert decide(self.CANCEL, memory, FACTS, NOW).verb is Verb.TOO_LATE

    @pytest.mark.parametrize(
        ("cancel", "memory", "verb"),
        [
            (replace(CANCEL, device="press-8"), TestFence.WORKING, Verb.IGNORE),
            (replace(CANCEL, attempt=1), TestFence.WORKING, Verb.REPEAT),
            (replace(CANCEL, attempt=3), TestFence.WORKING, Verb.STOP),
            (CANCEL, TestFence.ENDED, Verb.REPEAT),
            (CANCEL, Memory(), Verb.NOTHING_TO_STOP),
            (replace(CANCEL, deployment_id=9), TestFence.WORKING, Verb.NOTHING_TO_STOP),
        ],
        ids=["re-addressed", "an older attempt", "a newer attempt", "what has ended", "nothing", "another"],
    )
    def test_of(self, cancel: Cancel, memory: Memory, verb: Verb) -> None:
        assert decide(cancel, memory, FACTS, NOW).verb is verb

    def test_a_query_is_answered_by_who_is_asked(self) -> None:
        assert decide(Query(), Memory(), FACTS, NOW).verb is Verb.REPEAT
        assert decide(Query(device="press-8"), Memory(), FACTS, NOW).verb is Verb.IGNORE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 5000,
        b'{"type":"reboot","deployment_id":1,"attempt":1}',
        b'{"deployment_id":1,"attempt":1}',
        b'{"type":"update","deployment_id":1,"version":"1","firmware_url":"u"}',
        b'{"type":"update","deployment_id":[1],"attempt":1,"version":"1","firmware_url":"u"}',
        b'{"type":"update","deployment_id":1,"attempt":1,"version":"1","firmware_url":"u","expires_at":"2026-01-01T00:00:00"}',
        b'{"type":"query"}' + b" " * MOST_COMMAND_BYTES,
    ],
    ids=["empty", "list", "no utf-8", "deep", "unknown type", "no type", "no attempt", "odd number", "naive time", "too large"],
)
def test_what_is_no_command_is_ignored(payload: bytes) -> None:
    assert read_command(payload) is None
    assert decide(None, Memory(), FACTS, NOW).verb is Verb.IGNORE


def test_commands_can_grow() -> None:
    assert read_command(b'{"type":"query","device":"press-7","later":{"a":1}}') == Query(device="press-7")


class TestMemory:
    def test_it_outlives_a_power_cut(self, tmp_path: Path) -> None:
        notebook = Notebook(tmp_path / "new")
        assert notebook.next_seq() == 1
        notebook.change(active=TestFence.ORDER, attempts={"184": 2})
        notebook.change_order(phase="installing", percent=85)
        again = Notebook(tmp_path / "new")
        assert again.memory == notebook.memory
        assert again.next_seq() == 2
        assert isinstance(again.memory.active, Order)
        assert (again.memory.active.phase, again.memory.active.percent) == ("installing", 85)

    def test_a_cut_while_writing_leaves_the_old_whole(self, tmp_path: Path) -> None:
        Notebook(tmp_path).next_seq()
        (tmp_path / "memory.new").write_bytes(b'{"seq":')
        assert Notebook(tmp_path).memory.seq == 1

    def test_the_oldest_attempts_are_forgotten_first(self) -> None:
        memory = Memory()
        for number in range(ATTEMPTS_KEPT + 2):
            memory = replace(memory, attempts=with_attempt(memory, number, 1))
        memory = replace(memory, attempts=with_attempt(memory, 2, 5))
        assert len(memory.attempts) == ATTEMPTS_KEPT
        assert (memory.attempt_of(1), memory.attempt_of(2), memory.attempt_of(ATTEMPTS_KEPT + 1)) == (None, 5, 1)


@pytest.mark.parametrize(
    "ordered",
    [["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0"]],
)
def test_versions_are_ordered_as_semver_says(ordered: list[str]) -> None:
    for older, newer in pairwise(ordered):
        assert is_older(older, newer)
        assert not is_older(newer, older)
    assert not is_older("1.0.0+a", "1.0.0+b")


@pytest.mark.parametrize(("version", "than"), [("2", "1.0.0"), ("1.0.0", "two"), ("", "")])
def test_what_cannot_be_compared_counts_as_older(version: str, than: str) -> None:
    assert is_older(version, than)


def replace_version(version: str) -> Facts:
    return Facts(FACTS.device, FACTS.hardware, version, FACTS.slot_bytes, FACTS.trusted_keys)


def test_a_day_is_enough_for_a_manifest_to_be_taken_or_not() -> None:
    update = command(expires_at=None)
    end = datetime(2027, 5, 22, 10, 0, tzinfo=UTC)
    assert answer(update, now=end - timedelta(days=1)).verb is Verb.ACCEPT
    assert answer(update, now=end).error_code == "manifest_expired"
