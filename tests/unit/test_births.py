"""Status messages: every shape that a device may send, and every one that it may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.births import MAX_BYTES, BadReport, Report, Status, read_report

ONLINE, OFFLINE, ERROR = Status.ONLINE, Status.OFFLINE, Status.ERROR


@pytest.mark.parametrize(
    ("payload", "report"),
    [
        (b"online", Report(ONLINE)),
        (b"OFFLINE", Report(OFFLINE)),
        (b" Online\n", Report(ONLINE)),
        (b'"Online"', Report(ONLINE)),
        (b"error", Report(ERROR)),
        (b'{"status":"online"}', Report(ONLINE)),
        (b'{"status":"ONLINE","session":"a1","version":"1.4.2"}', Report(ONLINE, "a1", "1.4.2")),
        (b'{"status":"offline","session":17}', Report(OFFLINE, "17")),
        (b'{"status":"error","reason":"spindle jam"}', Report(ERROR, reason="spindle jam")),
        (b'{"status":"error","reason":"a\\u0000b"}', Report(ERROR, reason="a\ufffdb")),
        (b'{"status":"online","session":"","version":null}', Report(ONLINE)),
        (b'{"status":"online","version":2,"uptime":{"s":4}}', Report(ONLINE, version="2")),
        (b'{"status":"online","session":"%s"}' % (b"x" * 300), Report(ONLINE, "x" * 100)),
        (b"", None),
    ],
)
def test_what_a_status_says(payload: bytes, report: Report | None) -> None:
    assert read_report(payload) == report


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"on", "'on' is not online"),
        (b"   ", "'' is not online"),
        (b"\xff\xfe", "not a status"),
        (b"{", "not a status"),
        (b"[1]", "is not online"),
        (b'{"session":"x"}', "missing required field"),
        (b'{"status":true}', "not a status"),
        (b'{"status":"online","session":true}', "not a status"),
        (b'{"status":"sleeping"}', "'sleeping' is not online"),
        (b'{"status":"error","reason":"\\ud800"}', "not a status"),
        (b"x" * (MAX_BYTES + 1), "at most"),
        (b"[" * MAX_BYTES, "is not online"),
        (b'{"a":' + b"[" * 4000, "not a status"),
    ],
)
def test_what_is_not_a_status(payload: bytes, why: str) -> None:
    with pytest.raises(BadReport, match=why):
        read_report(payload)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_can_do_more_than_be_refused(payload: bytes) -> None:
    try:
        report = read_report(payload)
    except BadReport:
        return
    assert report is None or report.status in Status


@given(st.text(max_size=200), st.text(max_size=600))
def test_texts_always_fit_the_database(session: str, reason: str) -> None:
    import msgspec

    payload = msgspec.json.encode({"status": "error", "session": session, "reason": reason})
    report = read_report(payload)
    assert report is not None
    for text, limit in ((report.session, 100), (report.reason, 500)):
        assert text is None or (0 < len(text) <= limit and "\0" not in text)
        (text or "").encode()
