"""Log lines: their shape, and what never gets into them."""

import ast
import io
import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from config.settings import LogSettings
from factoryd.logs import configure_logging
from factoryd.safe_text import MASK, MAX_TEXT, printable, safe_field, without_secrets

ROOMS = ("alerting", "config", "console", "factoryd", "ingest", "mqtt", "ota", "simulator", "storage")
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
IRREGULAR = {
    "lost",
    "begun",
    "found",
    "sent",
    "kept",
    "made",
    "taken",
    "left",
    "reset",
    "read",
    "known",
    "gone",
    "fed",
    "written",
}

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    return stream


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


class TestShape:
    def test_json_with_utc_time_level_and_logger(self, lines: Lines) -> None:
        structlog.get_logger("ingest.pipeline").info("batch_committed", readings=12, seconds=0.5)
        [line] = lines()
        written_at = datetime.fromisoformat(line.pop("timestamp"))
        assert abs((datetime.now(UTC) - written_at).total_seconds()) < 10
        assert line == {
            "event": "batch_committed",
            "readings": 12,
            "seconds": 0.5,
            "level": "info",
            "logger": "ingest.pipeline",
        }

    def test_level(self, lines: Lines) -> None:
        structlog.get_logger().debug("nothing_noted")
        assert lines() == []

    def test_libraries_join_with_their_text_as_a_field(self, lines: Lines) -> None:
        logging.getLogger("some.library").warning("cannot reach %s", "postgresql://me:hunter2@db/x")
        logging.getLogger("some.library").info("chatter")
        [line] = lines()
        assert (line["event"], line["logger"], line["level"]) == ("library_message_logged", "some.library", "warning")
        assert line["text"] == f"cannot reach postgresql://me:{MASK}@db/x"

    def test_debug_hears_libraries_from_info_up(self) -> None:
        stream = io.StringIO()
        configure_logging(LogSettings(level="debug"), stream)
        logging.getLogger("some.library").info("chatter")
        logging.getLogger("some.library").debug("noise")
        assert len(stream.getvalue().splitlines()) == 1

    def test_warnings_are_lines_too(self, lines: Lines) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(capture=True)
            warnings.warn("old way", DeprecationWarning, stacklevel=1)
            logging.captureWarnings(capture=False)
        assert lines()[0]["logger"] == "py.warnings"

    def test_a_traceback_keeps_its_lines_and_shows_no_variables(self, stream: io.StringIO) -> None:
        stream.truncate(0)
        configure_logging(LogSettings(format="console"), stream)
        try:
            password = "hunter2"
            raise ConnectionError("postgresql://me:" + password + "@db/x refused")
        except ConnectionError:
            structlog.get_logger().exception("batch_failed")
        text = stream.getvalue()
        assert "Traceback (most recent call last):\n" in text
        assert f"postgresql://me:{MASK}@db/x refused" in text
        assert "hunter2'" not in text.replace('password = "hunter2"', "")

    def test_console_lines_for_people(self, stream: io.StringIO) -> None:
        stream.truncate(0)
        configure_logging(LogSettings(format="console"), stream)
        structlog.get_logger().warning("broker_lost", reason="gone\x1b[2J")
        assert "broker_lost" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("postgresql://me:hunter2@db:5432/x", f"postgresql://me:{MASK}@db:5432/x"),
            ("mqtts://:hunter2@broker", f"mqtts://:{MASK}@broker"),
            ("at MQTT://me:hun/ter@2@broker now", f"at MQTT://me:{MASK}@broker now"),
            ("host=db password=hunter2 user=me", f"host=db password={MASK} user=me"),
            ("password = 'hunter 2' user=me", f"password = {MASK} user=me"),
            ("https://x/?token=hunter2&a=1", f"https://x/?token={MASK}&a=1"),
            ("http://127.0.0.1:9464/metrics", "http://127.0.0.1:9464/metrics"),
            ("mqtt://me@broker:1883", "mqtt://me@broker:1883"),
        ],
    )
    def test_masked_in_any_text(self, text: str, shown: str) -> None:
        assert without_secrets(text) == shown

    @pytest.mark.parametrize(
        "value",
        [
            "mqtt://me:hunter2@b",
            ["mqtt://me:hunter2@b"],
            {"a": {"b": ("mqtt://me:hunter2@b",)}},
            {"password": "hunter2"},
            b"mqtt://me:hunter2@b",
            ConnectionError("mqtt://me:hunter2@b"),
            SecretStr("hunter2"),
            {1: [[[[[["mqtt://me:hunter2@b"]]]]]]},
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_masked_at_any_depth(self, value: object, stream: io.StringIO) -> None:
        structlog.get_logger().info("settings_loaded", value=value)
        assert "hunter2" not in stream.getvalue()
        assert "settings_loaded" in stream.getvalue()

    def test_a_telling_name_hides_the_whole_value(self) -> None:
        assert safe_field("owner_password", 12345) == MASK

    @pytest.mark.parametrize("hostile", ["a://b:" * 20_000, "a." * 60_000, "token=" * 20_000, "password='" * 10_000 + "://"])
    def test_a_hostile_text_does_not_make_it_slow(self, hostile: str) -> None:
        started = time.perf_counter()
        without_secrets(hostile)
        assert time.perf_counter() - started < 2


class TestTextFromDevices:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain Grüße 温度", "plain Grüße 温度"),
            ("two\nlines\t", r"two\x0alines\x09"),
            ("\x1b[31mred\x9b", r"\x1b[31mred\x9b"),
            ("\u202eright to left", r"\u202eright to left"),
            ("\ud800", r"\ud800"),
            ("x" * (MAX_TEXT + 7), "x" * MAX_TEXT + "… (7 more)"),
        ],
    )
    def test_escaped_and_cut(self, text: str, shown: str) -> None:
        assert printable(text) == shown

    @given(
        st.recursive(st.text() | st.binary() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
    )
    def test_any_value_becomes_one_valid_json_line(self, value: object) -> None:
        line = json.dumps(safe_field("payload", value), allow_nan=False, ensure_ascii=False)
        assert len(line.splitlines()) == 1
        line.encode()


def test_events_are_past_tense_words() -> None:
    root = Path(__file__).parents[2]
    events = [event for room in ROOMS for path in (root / room).rglob("*.py") for event in _events(path)]
    assert len(events) > 5
    for event, where in events:
        words = event.split("_")
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", event), f"{where}: {event!r} is not snake_case"
        assert any(word.endswith("ed") or word in IRREGULAR for word in words), f"{where}: {event!r} is not past tense"


def _events(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=[first, *_]) if method in METHODS:
                assert isinstance(first, ast.Constant), f"{path}:{node.lineno}: the event is not a constant"
                yield str(first.value), f"{path}:{node.lineno}"


def test_the_mqtt_room_is_heard() -> None:
    """A library's logger has our room's name, and a level of its own."""
    configure_logging(LogSettings(level="info"))
    import_module("factoryd.daemon")
    assert logging.getLogger("mqtt.receiver").isEnabledFor(logging.INFO)
