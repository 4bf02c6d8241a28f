"""OTA bodies: what devices may send, in which words, up to which size; and what they are sent."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.deployment import Phase
from ota.payloads import MAX_BYTES, BadBody, Order, cancel, read_report, read_state, update
from ota.reports import Ending, Hello, Report, Work
from tests.unit.ota_plant import START, TARGET, at

quick = settings(derandomize=True, deadline=None, max_examples=300, database=None)
ORDER = Order(device="press-1", deployment_id=5, attempt=2, version=TARGET)
DEVICE_WORDS = [
    "acknowledged", "deferred", "downloading", "downloaded", "verifying", "installing", "installed", "rebooting", "confirming",
]  # fmt: skip
ENDINGS = ["succeeded", "failed", "rejected", "cancelled", "rolled_back", "too_late"]


def body(**fields: object) -> bytes:
    return json.dumps({"deployment_id": 5, "status": "in_progress"} | fields).encode()


def state(payload: bytes, *, retained: bool = False, repeated: bool = False) -> Hello:
    hello = read_state(payload, retained=retained, repeated=repeated)
    assert hello is not None
    return hello


class TestAReport:
    def test_of_a_simple_device(self) -> None:
        payload = b'{"deployment_id": 5, "status": "in_progress", "progress_percent": 40, "error_message": null}'
        assert read_report(payload) == Report(deployment_id=5, said=None, progress_percent=40)

    def test_of_a_device_that_says_all_it_can(self) -> None:
        full = body(
            phase="failed", attempt=2, seq=9, progress_percent=71.9, bytes_done=1000, bytes_total=2000, version=TARGET,
            error_code="network", error_message="reset by peer", retryable=True, retry_after_s=30, boot_id="a", ts="?", eta_s=4,
        )  # fmt: skip
        assert read_report(full) == Report(
            deployment_id=5, said=Ending.FAILED, attempt=2, seq=9, progress_percent=71, bytes_done=1000, version=TARGET,
            error_code="network", error_message="reset by peer", retryable=True, retry_after_s=30.0,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("status", "said"),
        [("pending", Phase.ACKNOWLEDGED), ("in_progress", None), ("completed", Ending.SUCCEEDED), ("failed", Ending.FAILED)],
    )
    def test_status_is_enough(self, status: str, said: Phase | Ending | None) -> None:
        assert read_report(body(status=status)).said is said
        assert read_report(body(status=f" {status.upper()} ")).said is said

    @pytest.mark.parametrize("word", [*DEVICE_WORDS, *ENDINGS])
    def test_phase_wins_over_status(self, word: str) -> None:
        assert read_report(body(phase=word, status="failed")).said == word
        assert read_report(body(phase=word, status=None)).said == word
        assert read_report(body(phase=f" {word.title()}")).said == word

    @pytest.mark.parametrize("word", ["queued", "backoff", "sent", "done", "", "late_success", "timed_out", "x" * 5000])
    def test_what_only_we_may_say_is_no_phase(self, word: str) -> None:
        with pytest.raises(BadBody, match="is none of") as refused:
            read_report(body(phase=word))
        assert len(str(refused.value)) < 400

    @pytest.mark.parametrize("fields", [{"status": None}, {"status": "done"}, {"status": ""}])
    def test_without_a_status_or_a_phase_says_nothing(self, fields: dict[str, Any]) -> None:
        with pytest.raises(BadBody, match="status"):
            read_report(body(**fields))

    @pytest.mark.parametrize(("wire", "number"), [(5, 5), ("5", 5), ("0005", 5), (2**53 - 1, 2**53 - 1)])
    def test_a_number_may_be_a_text(self, wire: int | str, number: int) -> None:
        assert read_report(body(deployment_id=wire)).deployment_id == number

    @pytest.mark.parametrize(
        "wire",
        [0, -1, 2**53, 2**64, 10**30, True, None, 1.5, 5.0, "", " 5", "-5", "5e3", "0x5", "\u0665", "9" * 17, "9" * 4500, [5]],
    )
    def test_of_no_number_is_refused(self, wire: object) -> None:
        with pytest.raises(BadBody):
            read_report(body(deployment_id=wire))

    @pytest.mark.parametrize(
        ("name", "wire"),
        [
            ("seq", -1), ("seq", 2**53 + 1), ("seq", 10**30), ("seq", 1.5), ("seq", "7"), ("attempt", -1), ("attempt", True),
            ("attempt", 1_000_001), ("retryable", "yes"), ("version", 2), ("error_message", ["x"]), ("status", 1),
            ("phase", {}), ("progress_percent", "40"),
        ],
    )  # fmt: skip
    def test_of_another_shape_is_refused(self, name: str, wire: object) -> None:
        with pytest.raises(BadBody):
            read_report(body(**{name: wire}))

    @pytest.mark.parametrize(
        ("wire", "percent"), [(-5, 0), (0, 0), (99.9, 99), (100, 100), (1e300, 100), (10**30, 100), (None, None)]
    )
    def test_percent_is_clamped(self, wire: float | None, percent: int | None) -> None:
        assert read_report(body(progress_percent=wire)).progress_percent == percent

    @pytest.mark.parametrize(("wire", "count"), [(-1, None), (0, 0), (1.9, 1), (1e300, 2**53), (10**30, 2**53)])
    def test_bytes_fit_the_column(self, wire: float, count: int | None) -> None:
        assert read_report(body(bytes_done=wire)).bytes_done == count

    @pytest.mark.parametrize(("wire", "seconds"), [(-1, None), (0, None), (30, 30.0), (1e300, 86_400.0), (10**30, 86_400.0)])
    def test_a_deferral_is_at_most_a_day(self, wire: float, seconds: float | None) -> None:
        assert read_report(body(retry_after_s=wire)).retry_after_s == seconds

    def test_texts_are_cut_and_fit_the_database(self) -> None:
        said = read_report(body(error_message="x" * 5000, error_code="y" * 5000, version="z" * 5000))
        assert [len(text or "") for text in (said.error_message, said.error_code, said.version)] == [1000, 100, 100]
        assert read_report(body(error_message="a\0b")).error_message == "a\ufffdb"
        assert read_report(body(error_message="  ", version="")).version is None

    def test_has_at_most_sixteen_kibibytes(self) -> None:
        fits = body(pad="")
        fits = body(pad="x" * (MAX_BYTES - len(fits)))
        assert len(fits) == 16_384
        assert read_report(fits).deployment_id == 5
        with pytest.raises(BadBody, match="16385 bytes"):
            read_report(fits + b" ")


HOSTILE = [
    b"", b" ", b"null", b"[]", b"5", b'"x"', b"{", b"{}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN", b"\0" * 100,
    b'{"deployment_id":5,"status":"failed","error_message":"\xff"}',
    b'{"deployment_id":5,"status":"failed","error_message":"\\ud800 alone"}',
    b'{"deployment_id":5,"status":"failed","progress_percent":1e999}',
    b'{"deployment_id":5,"status":"failed","progress_percent":NaN}',
    b'{"deployment_id":5,"status":"failed","bytes_done":-1e999}',
    b'{"deployment_id":5,"status":"failed","retry_after_s":Infinity}',
    b'{"deployment_id":1' + b"0" * 9000 + b',"status":"failed"}',
    b'{"deployment_id":5,"status":"failed","seq":1' + b"0" * 9000 + b"}",
    b'{"deployment_id":5,"status":"failed","x":' + b"[" * 8000 + b"]" * 8000 + b"}",
    b'{"deployment_id":5,"status":"failed","x":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_reports_are_refused_in_words(payload: bytes) -> None:
    with pytest.raises(BadBody) as refused:
        read_report(payload)
    assert 0 < len(str(refused.value)) < 400


@pytest.mark.parametrize("payload", [each for each in HOSTILE if each not in {b"", b"{}"}], ids=lambda each: repr(each[:30]))
def test_hostile_states_say_nothing_of_work(payload: bytes) -> None:
    with suppress(BadBody):
        hello = state(payload)
        assert (hello.version, hello.active, hello.last) == (None, None, None)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from([
    "deployment_id", "status", "phase", "attempt", "seq", "progress_percent", "bytes_done", "version", "error_code",
    "error_message", "retryable", "retry_after_s", "hardware", "boot_id", "last_manifest_seq", "active", "last",
])  # fmt: skip
words = st.sampled_from([*DEVICE_WORDS, *ENDINGS, "in_progress", "sent"])
objects = st.dictionaries(names, values | words, max_size=8)
works = st.dictionaries(names, st.integers(-1, 9) | words, max_size=4).map(lambda each: {"deployment_id": 5} | each)


@quick
@given(st.binary(max_size=200) | objects.map(lambda each: json.dumps({"deployment_id": 5, "status": "failed"} | each).encode()))
def test_a_report_is_read_or_refused_and_fits_the_database(payload: bytes) -> None:
    with suppress(BadBody):
        said = read_report(payload)
        assert 0 < said.deployment_id < 2**53
        assert said.progress_percent is None or 0 <= said.progress_percent <= 100
        assert all(number is None or 0 <= number <= 2**53 for number in (said.attempt, said.seq, said.bytes_done))
        for text in (said.version, said.error_code, said.error_message):
            assert text is None or (0 < len(text) <= 1000 and "\0" not in text and text.encode())


@quick
@given(st.builds(lambda each, active, last: each | {"active": active, "last": last}, objects, works, works | st.none()))
def test_a_state_is_read_or_refused(each: dict[str, Any]) -> None:
    with suppress(BadBody):
        hello = state(json.dumps(each).encode())
        assert hello.active is not None
        assert hello.version is None or 0 < len(hello.version) <= 50


class TestAState:
    def test_says_what_runs_and_what_is_in_work(self) -> None:
        full = {
            "v": 1, "version": "2.3.0", "previous_version": "2.2.4", "hardware": "plc-gw/rev-c", "boot_id": "a91f",
            "uptime_s": 12, "last_manifest_seq": 1041, "seq": 17, "capabilities": {"resume": True}, "hold": None,
            "active": {"deployment_id": 184, "attempt": 2, "phase": "downloading", "progress_percent": 43},
            "last": {"deployment_id": "183", "attempt": 1, "outcome": "failed", "error_code": "network", "error_message": "no"},
        }  # fmt: skip
        assert state(json.dumps(full).encode()) == Hello(
            version="2.3.0", live=True, rebooted=False, hardware="plc-gw/rev-c", boot_id="a91f", seq=17, manifest_seq=1041,
            active=Work(184, 2, Phase.DOWNLOADING, 43), last=Work(183, 1, Ending.FAILED, None, "network", "no"),
        )  # fmt: skip

    def test_that_is_empty_was_cleared(self) -> None:
        assert read_state(b"", retained=True, repeated=False) is None

    @pytest.mark.parametrize(
        ("retained", "repeated", "rebooted"), [(False, False, True), (True, False, False), (False, True, False)]
    )
    def test_without_a_boot_id_tells_of_a_boot_when_it_is_said_first(
        self, retained: bool, repeated: bool, rebooted: bool
    ) -> None:
        said = state(b'{"version": "1.0.0"}', retained=retained, repeated=repeated)
        assert (said.live, said.rebooted) == (not retained, rebooted)
        with_boot = state(b'{"version": "1.0.0", "boot_id": 7}', retained=retained, repeated=repeated)
        assert (with_boot.boot_id, with_boot.rebooted) == ("7", False)

    @pytest.mark.parametrize("field", ["active", "last"])
    @pytest.mark.parametrize(
        "work", [{}, [], 5, {"deployment_id": 0}, {"deployment_id": 5, "phase": "sent"}, {"deployment_id": 5, "attempt": -1}]
    )
    def test_of_impossible_work_is_refused(self, field: str, work: object) -> None:
        with pytest.raises(BadBody):
            state(json.dumps({field: work}).encode())

    def test_of_work_without_a_word_is_in_progress(self) -> None:
        assert state(b'{"active": {"deployment_id": 5}}').active == Work(5, None, None, None)


class TestACommand:
    def test_to_install(self) -> None:
        facts = {"size_bytes": 9, "sha256": "00"}
        sent = json.loads(update(ORDER, "https://f/x?sig=1", at(60), START, at(300), facts))
        assert sent == {
            "v": 1, "type": "update", "device": "press-1", "deployment_id": 5, "attempt": 2, "version": TARGET,
            "firmware_url": "https://f/x?sig=1", "url_expires_at": "2026-03-02T12:01:00Z", "issued_at": "2026-03-02T12:00:00Z",
            "expires_at": "2026-03-02T12:05:00Z", "size_bytes": 9, "sha256": "00",
        }  # fmt: skip

    def test_to_install_from_a_url_that_lasts(self) -> None:
        assert "url_expires_at" not in json.loads(update(ORDER, "https://f/x", None, START, at(300), {}))

    def test_says_its_times_in_utc_whatever_ours(self) -> None:
        local = datetime(2026, 3, 2, 21, 30, tzinfo=timezone(timedelta(hours=9, minutes=30)))
        assert local == START.astimezone(UTC)
        assert json.loads(cancel("d", 5, 1, "x", local))["issued_at"] == "2026-03-02T12:00:00Z"

    def test_to_stop_is_short(self) -> None:
        sent = json.loads(cancel("press-1", 5, 2, "r" * 5000, START))
        assert sent.pop("reason") == "r" * 200
        assert sent == {
            "v": 1, "type": "cancel", "device": "press-1", "deployment_id": 5, "attempt": 2,
            "issued_at": "2026-03-02T12:00:00Z",
        }  # fmt: skip
