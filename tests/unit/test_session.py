"""The protocol half of the receiver, byte for byte: docs/mqtt.md, session rules 1 to 4, without a socket."""

import random

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import ConnAckPacket, ConnAckReasonCode, DisconnectReasonCode, PublishPacket, QoS, SubAckPacket, SubAckReasonCode

from mqtt.session import (
    Connected,
    ProtocolError,
    Publish,
    Session,
    SessionOptions,
    State,
    Subscribed,
    Subscription,
    announced_size,
    stored_publish,
)

quick = settings(derandomize=True, deadline=None, max_examples=400, database=None)
# The codec panics on text that is not UTF-8: it reports the cause as "unraisable" before it raises.
codec_may_panic = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
FILTERS = (Subscription("a/+"), Subscription("b", retained=True))
OPTIONS = SessionOptions("c", FILTERS, max_packet_bytes=1000)
CONNACK = bytes.fromhex("20 03 00 00 00")
SUBACK = bytes.fromhex("90 05 0001 00 01 01")
SUBSCRIBE = bytes.fromhex("82 0d 0001 00 0003 612f2b 21 0001 62 01")


def connecting(options: SessionOptions = OPTIONS) -> Session:
    session = Session(options)
    session.connect()
    session.outgoing.clear()
    return session


def ready() -> Session:
    session = connecting()
    assert session.feed(memoryview(CONNACK + SUBACK)) == ([], len(CONNACK + SUBACK))
    assert session.state is State.READY
    session.outgoing.clear()
    session.events.clear()
    return session


def message(number: int, payload: bytes = b"p", qos: QoS = QoS.AT_LEAST_ONCE) -> bytes:
    return PublishPacket("a/b", payload, qos=qos, packet_id=number if qos is QoS.AT_LEAST_ONCE else None).write()


def fed(session: Session, data: bytes) -> list[Publish]:
    publishes, used = session.feed(memoryview(data))
    assert used == len(data)
    return publishes


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


# What a broker must not do


BROKEN: dict[str, tuple[bytes, str]] = {
    "reserved type": (b"\x00\x00", "malformed"),
    "length without an end": (b"\x32\xff\xff\xff\xff\x01", "malformed"),
    "QoS 3": (b"\x36\x07\x00\x01t\x00\x05\x00p", "malformed"),
    "topic longer than the packet": (b"\x32\x04\x00\xfft\x00", "malformed"),
    "topic that is not UTF-8": (b"\x32\x07\x00\x01\xff\x00\x05\x00p", "malformed"),
    "content type that is not UTF-8": (b"\x32\x0b\x00\x01t\x00\x05\x04\x03\x00\x01\xffp", "malformed"),
    "larger than announced": (b"\x32\xe8\x07" + bytes(10), "larger than the 1000 we announced"),
    "four megabytes announced": (b"\x32\xff\xff\xff\x01", "larger than the 1000 we announced"),
    "CONNACK again": (CONNACK, "unexpected ConnAckPacket while ready"),
    "SUBACK again": (SUBACK, "unexpected SubAckPacket while ready"),
    "PUBACK": (mqtt5.PubAckPacket(1).write(), "unexpected PubAckPacket while ready"),
    "CONNECT": (mqtt5.ConnectPacket("x").write(), "unexpected ConnectPacket while ready"),
    "SUBSCRIBE": (mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("x")]).write(), "unexpected SubscribePacket while ready"),
    "PINGREQ": (mqtt5.PingReqPacket().write(), "unexpected PingReqPacket while ready"),
    "AUTH": (mqtt5.AuthPacket().write(), "unexpected AuthPacket while ready"),
    "DISCONNECT": (mqtt5.DisconnectPacket(reason_code=DisconnectReasonCode.SESSION_TAKEN_OVER).write(), "session taken over"),
}


@codec_may_panic
@pytest.mark.parametrize("name", BROKEN)
def test_the_broker_breaks_the_protocol(name: str) -> None:
    data, words = BROKEN[name]
    session = ready()
    with pytest.raises(ProtocolError, match=words):
        session.feed(memoryview(data))
    assert session.state is State.CLOSED


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (message(1), "unexpected PublishPacket while connecting"),
        (SUBACK, "unexpected SubAckPacket while connecting"),
        (b"\xd0\x00", "unexpected PingRespPacket while connecting"),
        (ConnAckPacket(reason_code=ConnAckReasonCode.NOT_AUTHORIZED, reason_str="no").write(), r"not authorized \(no\)"),
        (ConnAckPacket(reason_code=ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD).write(), "bad user name or password"),
        (b"\x20\x02\x00\x01", "malformed"),  # an MQTT 3.1.1 broker refuses version 5
    ],
)
def test_a_bad_answer_to_connect(data: bytes, words: str) -> None:
    session = connecting()
    with pytest.raises(ProtocolError, match=words):
        session.feed(memoryview(data))
    assert session.state is State.CLOSED
    assert session.outgoing == b""


GRANTED, QOS_0 = SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([GRANTED, QOS_0], "did not grant QoS 1 on 'b'"),
        ([SubAckReasonCode.NOT_AUTHORIZED, GRANTED], "did not grant QoS 1 on 'a/[+]': not authorized; check the access rules"),
        ([GRANTED], "SUBACK answers 1 filters of 2"),
        ([GRANTED] * 3, "SUBACK answers 3 filters of 2"),
    ],
)
def test_a_bad_answer_to_subscribe(codes: list[SubAckReasonCode], words: str) -> None:
    session = connecting()
    fed(session, CONNACK)
    with pytest.raises(ProtocolError, match=words):
        session.feed(memoryview(SubAckPacket(1, codes).write()))
    assert session.state is State.CLOSED
    assert Subscribed() not in session.events


# Fuzz


PACKETS = [
    CONNACK,
    SUBACK,
    ConnAckPacket(session_present=True, server_keep_alive=5, reason_str="why", user_properties=[("a", "b")]).write(),
    PublishPacket("t/x", b"load", qos=QoS(1), packet_id=5, content_type="json", user_properties=[("a", "b")]).write(),
    message(1),
    message(0, b"x", QoS.AT_MOST_ONCE),
    b"\xd0\x00",
    mqtt5.DisconnectPacket(reason_code=DisconnectReasonCode.SERVER_BUSY, reason_str="later").write(),
    mqtt5.PubAckPacket(1).write(),
    mqtt5.AuthPacket().write(),
]


def survives(session: Session, data: bytes) -> None:
    """Only ProtocolError comes out, and no whole packet is left waiting for bytes that never come."""
    try:
        publishes, used = session.feed(memoryview(data))
    except ProtocolError:
        assert session.state is State.CLOSED
        return
    assert 0 <= used <= len(data)
    size = announced_size(memoryview(data[used:]))
    assert size is None or size > len(data) - used
    assert all(isinstance(publish, PublishPacket) for publish in publishes)


@codec_may_panic
@quick
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes(data: bytes, is_ready: bool) -> None:
    survives(ready() if is_ready else connecting(), data)


@codec_may_panic
@pytest.mark.parametrize("seed", range(4))
def test_mutated_packets(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(seed)
    for _ in range(2000):
        data = bytearray(b"".join(chance.choices(PACKETS, k=chance.randint(1, 3))))
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        survives(ready() if chance.random() < 0.5 else connecting(), bytes(data))
    capfd.readouterr()  # the codec prints where it found text that is not UTF-8


# Replay


def test_a_stored_message_is_as_it_came() -> None:
    publish = stored_publish("a/b", b"x", "application/msgpack", 1)
    assert (publish.topic, publish.payload, publish.content_type) == ("a/b", b"x", "application/msgpack")
    assert publish.packet_id is not None
    assert not publish.retain
    assert stored_publish("a/b", b"", None, 0).packet_id is None
