"""The pure parts of a replay: columns, numbers, times and time zones, pace."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ledger import Acknowledged, FileLedger, read_ledger
from simulator.pace import Due, Pace, shift
from simulator.recording import BadRow, Layout, RecordingError, Row, parse_mappings, parse_number, read_rows
from simulator.timestamps import BadTime, Clock, NaiveTime, find_zone

T0 = datetime(2026, 11, 23, 10, tzinfo=UTC)


def rows(text: str, **layout: Any) -> list[Row | BadRow]:
    options: dict[str, Any] = {"mapping": {"temp": "temperature"}, "device": "m-1", "timezone": "UTC"}
    return list(read_rows(text.splitlines(keepends=True), Layout(**options | layout)))


def good(found: list[Row | BadRow]) -> list[Row]:
    assert all(isinstance(row, Row) for row in found), found
    return [row for row in found if isinstance(row, Row)]


def bad(found: list[Row | BadRow]) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in found if isinstance(row, BadRow)]


class TestColumns:
    def test_any_names_become_metrics_and_devices(self) -> None:
        text = "When;Anlage;Öl °C;Tür\n2026-11-23 10:00:00;press:7;71,5;true\n"
        layout = {"device": None, "device_column": "Anlage", "time_columns": ("When",), "decimal_comma": True}
        (row,) = good(rows(text, mapping={"Öl °C": "temperature", "Tür": "door_open"}, **layout))
        assert row == Row(2, "press:7", T0, {"temperature": 71.5, "door_open": True})

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_the_delimiter_is_found(self, delimiter: str) -> None:
        text = "time,temp,note\n2026-11-23T10:00:00Z,20.5,x\n".replace(",", delimiter)
        assert good(rows(text))[0].values == {"temperature": 20.5}

    def test_quotes_line_breaks_byte_order_mark_and_blank_lines(self) -> None:
        text = '\ufeff\n"Time","note","temp"\n2026-11-23 10:00,"a ""b""\nc",1\n\n2026-11-23 10:01,,2,\n'
        assert [(row.line, row.values["temperature"]) for row in good(rows(text))] == [(4, 1.0), (6, 2.0)]

    def test_a_date_and_a_time_column(self) -> None:
        text = "Date,Time,temp\n23.11.2026,10:00:00,20\n"
        options: dict[str, Any] = {"time_columns": ("Date", "Time"), "time_format": "%d.%m.%Y %H:%M:%S"}
        assert good(rows(text, **options))[0].recorded_at == T0

    def test_absent_cells_are_left_out(self) -> None:
        text = "time,temp,rpm\n2026-11-23 10:00,NaN,5\n2026-11-23 10:01,3,\n2026-11-23 10:02,,null\n"
        found = rows(text, mapping={"temp": "temperature", "rpm": "rpm"})
        assert [dict(row.values) for row in found if isinstance(row, Row)] == [{"rpm": 5.0}, {"temperature": 3.0}]
        assert bad(found) == [(4, "no value in any mapped column")]

    def test_bad_rows_carry_their_line_and_do_not_stop_the_rest(self) -> None:
        text = (
            "time,temp,dev\n2026-11-23 10:00,x,a\n2026-11-23 10:00,1\nsoon,1,a\n2026-11-23 10:00,1,a/b\n2026-11-23 10:00,1,a\n"
        )
        found = rows(text, device=None, device_column="dev")
        assert bad(found) == [
            (2, "column 'temp': 'x' is not a number"),
            (3, "2 fields under 3 column names"),
            (4, "time 'soon' is not ISO 8601 or an epoch number"),
            (5, "'a/b' cannot be a device id"),
        ]
        assert isinstance(found[-1], Row)

    def test_a_known_metric_is_never_a_boolean(self) -> None:
        assert bad(rows("time,temp\n2026-11-23 10:00,true\n")) == [(2, "column 'temp': 'true' is not a number")]

    @pytest.mark.parametrize(
        ("text", "layout", "message"),
        [
            ("", {}, "the recording is empty"),
            ("time,Temp\n", {}, "column 'temp' is not in the recording; its columns are 'time', 'Temp'"),
            ("time,temp,temp\n", {}, "column 'temp' stands twice in the recording"),
            ("a,temp\n", {}, "no time column found: name it with --time-column; its columns are 'a', 'temp'"),
            ("time,temp\n", {"mapping": {}}, "map at least one column"),
            ("time,temp\n", {"device": None}, "name either one device"),
            ("time,temp\n", {"device_column": "temp"}, "name either one device"),
            ("time,temp\n", {"device": "a b"}, "'a b' cannot be a device id"),
            ("time,temp\n", {"timezone": "Mars/Base"}, "time zone 'Mars/Base' is not known"),
            ("time,\ufffdl\n", {}, "name the file's encoding with --encoding"),
            ("time,temp\n2026-11-23 10:00,1\n", {"timezone": None}, "line 2: .* name its time zone with --timezone"),
        ],
    )
    def test_what_would_spoil_every_row_is_an_error(self, text: str, layout: dict[str, Any], message: str) -> None:
        with pytest.raises(RecordingError, match=message):
            rows(text, **layout)

    def test_one_local_time_among_good_ones_is_a_bad_row(self) -> None:
        found = rows("time,temp\n2026-11-23T10:00Z,1\n2026-11-23 10:00,1\n", timezone=None)
        assert bad(found) == [(3, "time '2026-11-23 10:00:00' has no offset from UTC")]

    def test_rows_are_streamed(self) -> None:
        def endless() -> Any:
            yield "time,temp\n"
            while True:
                yield "2026-11-23 10:00,1\n"

        stream = read_rows(endless(), Layout({"temp": "temperature"}, device="m-1", timezone="UTC"))
        assert isinstance(next(stream), Row)

    def test_mappings(self) -> None:
        assert parse_mappings(["a=b = temperature", "rpm=rpm"]) == {"a=b": "temperature", "rpm": "rpm"}
        for texts in (["temp"], ["=rpm"], ["a=b c"], ["a=seq"], ["a=rpm", "b=rpm"], ["a=rpm", "a=pressure"]):
            with pytest.raises(RecordingError, match="mapping"):
                parse_mappings(texts)


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "comma", "number"),
        [
            ("71.5", False, 71.5), ("-.5", False, -0.5), ("1e3", False, 1000.0), ("1\u00a0234.5", False, 1234.5),
            ("71,5", False, None), ("1_000", False, None), ("inf", False, None), ("1e999", False, None), ("0x10", False, None),
            ("71,5", True, 71.5), ("1.234,5", True, 1234.5), ("1.234.567", True, 1234567.0), ("5", True, 5.0),
            ("71.5", True, None), ("1.23,4", True, None), (",", True, None),
        ],
    )  # fmt: skip
    def test_cells(self, text: str, comma: bool, number: float | None) -> None:
        assert parse_number(text, decimal_comma=comma) == number

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_every_float_survives_its_text(self, number: float) -> None:
        assert parse_number(repr(number), decimal_comma=False) == number
        assert parse_number(repr(number).replace(".", ","), decimal_comma=True) == number


class TestTimes:
    @pytest.mark.parametrize(
        "text",
        [
            "2026-11-23T10:00:00Z", "2026-11-23 11:00:00+01:00", "20261123T100000Z",
            "1795428000", "1795428000.0", "1795428000000", "1795428000000000", "1795428000000000000",
        ],
    )  # fmt: skip
    def test_one_moment_in_many_ways(self, text: str) -> None:
        assert Clock(None, None).read("d", text) == T0

    def test_epoch_numbers_keep_their_microseconds(self) -> None:
        assert Clock(None, None).read("d", "1795428000000017") == T0 + timedelta(microseconds=17)

    @pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30 10:00", "10:00", "9" * 20])
    def test_what_is_no_time(self, text: str) -> None:
        with pytest.raises(BadTime):
            Clock(None, "UTC").read("d", text)

    def test_summer_and_winter_time(self) -> None:
        clock = Clock(None, "Europe/Berlin")
        assert clock.read("d", "2026-07-01 12:00").hour == 10
        assert clock.read("d", "2026-12-01 12:00").hour == 11

    @pytest.mark.parametrize("step_minutes", [10, 30, 60])
    def test_the_repeated_hour_is_read_in_the_files_order(self, step_minutes: int) -> None:
        zone, clock = find_zone("Europe/Berlin"), Clock(None, "Europe/Berlin")
        start = datetime(2026, 10, 24, 23, tzinfo=UTC)
        true = [start + timedelta(minutes=step_minutes * n) for n in range(240 // step_minutes)]
        local = [at.astimezone(zone).replace(tzinfo=None).isoformat() for at in true]
        assert len(set(local)) < len(local), "the night has a repeated hour"
        assert [clock.read("d", text) for text in local] == true

    def test_devices_do_not_disturb_each_other_in_the_repeated_hour(self) -> None:
        clock = Clock(None, "Europe/Berlin")
        first = clock.read("a", "2026-10-25 02:30")
        assert clock.read("b", "2026-10-25 02:30") == first == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        assert clock.read("a", "2026-10-25 02:30") == first + timedelta(hours=1)

    def test_the_skipped_hour_never_was_but_a_fixed_offset_knows_it(self) -> None:
        with pytest.raises(BadTime, match="never was in Europe/Berlin"):
            Clock(None, "Europe/Berlin").read("d", "2026-03-29 02:30")
        assert Clock(None, "+01:00").read("d", "2026-03-29 02:30").hour == 1

    def test_a_local_time_needs_a_zone(self) -> None:
        with pytest.raises(NaiveTime, match="has no offset"):
            Clock(None, None).read("d", "2026-11-23 10:00")

    @pytest.mark.parametrize("name", ["Nowhere/Land", "", "../etc/passwd", "+99:00", "Europe"])
    def test_unknown_zones(self, name: str) -> None:
        with pytest.raises(BadTime, match="is not known"):
            find_zone(name)


class TestPace:
    def dues(self, pace: Pace, *seconds: float) -> list[float]:
        return [pace.due(T0 + timedelta(seconds=s)).after_s for s in seconds]

    def test_own_pace_faster_and_at_once(self) -> None:
        assert self.dues(Pace(1.0), 0, 5, 60) == [0, 5, 60]
        assert self.dues(Pace(10.0), 0, 5, 60) == [0, 0.5, 6]
        assert self.dues(Pace(0.0), 0, 5, 60) == [0, 0, 0]

    def test_a_late_row_is_due_at_once_and_keeps_its_distance(self) -> None:
        pace = Pace(2.0)
        pace.due(T0)
        pace.due(T0 + timedelta(seconds=10))
        assert pace.due(T0 + timedelta(seconds=4)) == Due(5.0, 2.0)
        assert pace.due(T0 + timedelta(seconds=12)) == Due(6.0, 6.0)

    def test_long_gaps_are_cut(self) -> None:
        assert self.dues(Pace(1.0, longest_pause_s=3.0), 0, 2, 36_000, 36_001) == [0, 2, 5, 6]

    def test_shifted_rows_carry_the_time_they_are_played(self) -> None:
        pace, started = Pace(10.0), T0 + timedelta(days=400)
        assert [shift(started, pace.due(T0 + timedelta(seconds=s))) for s in (0, 20)] == [
            started,
            started + timedelta(seconds=2),
        ]

    @pytest.mark.parametrize(("speed", "pause"), [(-1.0, None), (float("inf"), None), (float("nan"), None), (1.0, -1.0)])
    def test_impossible_paces(self, speed: float, pause: float | None) -> None:
        with pytest.raises(ValueError, match="is not possible"):
            Pace(speed, pause)

    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.1, 1000))
    def test_moments_never_step_back(self, seconds: list[float], speed: float) -> None:
        after = self.dues(Pace(speed), *seconds)
        assert after == sorted(after)


def test_a_ledger_file_is_read_back_without_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    entries = [Acknowledged("a", "b1", 1, T0), Acknowledged("ü", "b1", 2, T0 + timedelta(microseconds=1))]
    for entry in entries:
        with FileLedger(path) as ledger:
            ledger(entry)
    with path.open("a") as torn:
        torn.write('["a", "b1", 3, "2026-')
    assert list(read_ledger(path)) == entries
