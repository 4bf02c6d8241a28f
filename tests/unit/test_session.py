"""The protocol half of the receiver, byte for byte: docs/mqtt.md, session rules 1 to 4, without a socket."""

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import ConnAckPacket, QoS

from mqtt.session import (
    Connected,
    ProtocolError,
    Publish,
    Session,
    SessionOptions,
    State,
    Subscribed,
    announced_size,
)
from tests.unit.sessions import CONNACK, FILTERS, SUBACK, SUBSCRIBE, connecting, fed, message, ready

quick = settings(derandomize=True, deadline=None, max_examples=400, database=None)


# Rules 1 and 2


def test_connect_byte_for_byte() -> None:
    session = Session(SessionOptions("c", FILTERS, username="u", password=b"p"))
    session.connect()
    assert session.outgoing == bytes.fromhex(
        "10 21 0004 4d515454 05"  # MQTT 5
        "c0"  # user name and password; clean start 0, no will
        "001e"  # keep-alive 30 s
        "0d 11 00093a80"  # session expiry: 7 days
        "21 4000"  # receive maximum 16384
        "27 00100000"  # maximum packet size 1 MiB
        "0001 63 0001 75 0001 70"
    )


@pytest.mark.parametrize("window", [1, 20, 16384, 65534])
def test_the_receive_maximum_is_always_said(window: int) -> None:
    session = Session(SessionOptions("c", FILTERS, receive_maximum=window))
    session.connect()
    assert b"\x21" + window.to_bytes(2, "big") in session.outgoing
    (connect, _) = mqtt5.read(memoryview(session.outgoing))
    assert isinstance(connect, mqtt5.ConnectPacket)
    assert not connect.clean_start
    assert connect.session_expiry_interval == 7 * 86400
    assert connect.receive_max == window


@pytest.mark.parametrize("window", [65535, 0, -1, 65536])
def test_the_receive_maximum_that_the_codec_omits_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="receive_maximum must be 1 to 65534"):
        SessionOptions("c", FILTERS, receive_maximum=window)


def test_disconnect_leaves_the_session_expiry_as_it_is() -> None:
    session = ready()
    session.disconnect()
    assert session.outgoing == bytes.fromhex("e0 00")
    assert session.state is State.CLOSED


# Rule 3


@pytest.mark.parametrize("present", [False, True])
def test_subscribes_after_every_connack(present: bool) -> None:
    session = connecting()
    assert fed(session, bytes([0x20, 3, present, 0, 0])) == []
    assert session.outgoing == SUBSCRIBE
    assert session.events == [Connected(session_present=present, keep_alive_s=30)]
    assert fed(session, SUBACK) == []
    assert session.events[1:] == [Subscribed()]
    assert session.state is State.READY


def test_retained_messages_only_where_asked_for() -> None:
    session = connecting()
    fed(session, CONNACK)
    (subscribe, _) = mqtt5.read(memoryview(session.outgoing))
    assert isinstance(subscribe, mqtt5.SubscribePacket)
    handling = [(wanted.pattern, wanted.retain_handling, wanted.max_qos) for wanted in subscribe.topic_filters]
    at_least_once = QoS.AT_LEAST_ONCE
    assert handling == [
        ("a/+", mqtt5.RetainHandling.SEND_NEVER, at_least_once),
        ("b", mqtt5.RetainHandling.SEND_ALWAYS, at_least_once),
    ]


@pytest.mark.parametrize(("said", "used"), [(None, 30), (7, 7), (0, 30)])
def test_the_brokers_keep_alive_counts(said: int | None, used: int) -> None:
    session = connecting()
    fed(session, ConnAckPacket(server_keep_alive=said).write())
    assert session.events == [Connected(session_present=False, keep_alive_s=used)]


# Rule 4


def test_acknowledgements_in_the_order_given() -> None:
    assert ready().acknowledge([1, 65535, 2]) == bytes.fromhex("40020001 4002ffff 40020002")
    assert ready().acknowledge([]) == b""
    for number in (1, 258, 65535):
        (packet, size) = mqtt5.read(memoryview(ready().acknowledge([number])))
        assert isinstance(packet, mqtt5.PubAckPacket)
        assert (packet.packet_id, packet.reason_code, size) == (number, mqtt5.PubAckReasonCode.SUCCESS, 4)


def test_messages_in_order_of_arrival() -> None:
    found = fed(ready(), message(3, b"x") + message(1, b"y") + message(1, b"z", QoS.AT_MOST_ONCE))
    assert [(publish.packet_id, publish.payload, publish.topic) for publish in found] == [
        (3, b"x", "a/b"),
        (1, b"y", "a/b"),
        (None, b"z", "a/b"),
    ]


def test_messages_before_suback_are_handed_over() -> None:
    session = connecting()
    found = fed(session, bytes.fromhex("20 03 01 00 00") + message(1) + message(2) + SUBACK + message(3))
    assert [publish.packet_id for publish in found] == [1, 2, 3]
    assert session.state is State.READY


def test_ping() -> None:
    session = ready()
    session.ping()
    assert session.outgoing == bytes.fromhex("c0 00")
    assert fed(session, bytes.fromhex("d0 00")) == []


# What arrives in pieces


STREAM = (
    bytes.fromhex("20 03 01 00 00") + message(1, b"x" * 200) + SUBACK + message(2, b"") + bytes.fromhex("d0 00") + message(3)
)


def in_pieces(session: Session, stream: bytes, sizes: list[int]) -> list[Publish]:
    """Feeds as a connection does: what was not used comes again, longer."""
    found: list[Publish] = []
    rest, position = b"", 0
    for size in sizes:
        rest, position = rest + stream[position : position + size], position + size
        publishes, used = session.feed(memoryview(rest))
        found += publishes
        rest = rest[used:]
    assert position >= len(stream)
    assert rest == b""
    return found


def seen(publishes: list[Publish]) -> list[tuple[int | None, bytes]]:
    return [(publish.packet_id, bytes(publish.payload)) for publish in publishes]


def test_byte_by_byte() -> None:
    session = connecting()
    assert seen(in_pieces(session, STREAM, [1] * len(STREAM))) == [(1, b"x" * 200), (2, b""), (3, b"p")]
    assert session.outgoing == SUBSCRIBE
    assert session.events == [Connected(session_present=True, keep_alive_s=30), Subscribed()]


@quick
@given(st.lists(st.integers(1, 60), min_size=len(STREAM), max_size=len(STREAM)))
def test_any_pieces(sizes: list[int]) -> None:
    assert seen(in_pieces(connecting(), STREAM, sizes)) == [(1, b"x" * 200), (2, b""), (3, b"p")]


def test_nothing_to_read() -> None:
    assert ready().feed(memoryview(b"")) == ([], 0)


@pytest.mark.parametrize(
    ("data", "size"),
    [("", None), ("32", None), ("3280", None), ("3205", 7), ("328001", 131), ("32ffffff", None), ("32ffffff7f", 268435460)],
)
def test_announced_size(data: str, size: int | None) -> None:
    assert announced_size(memoryview(bytes.fromhex(data))) == size


def test_a_length_without_an_end() -> None:
    with pytest.raises(ProtocolError, match="variable byte integer"):
        announced_size(memoryview(bytes.fromhex("32ffffffff")))
