"""The protocol half of the receiver when the broker breaks the protocol: only ProtocolError comes out. Fuzzed, too."""

import random

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import ConnAckPacket, ConnAckReasonCode, DisconnectReasonCode, PublishPacket, QoS, SubAckPacket, SubAckReasonCode

from mqtt.session import (
    ProtocolError,
    Session,
    State,
    Subscribed,
    announced_size,
    stored_publish,
)
from tests.unit.sessions import CONNACK, SUBACK, connecting, fed, message, ready

quick = settings(derandomize=True, deadline=None, max_examples=400, database=None)
# The codec panics on text that is not UTF-8: it reports the cause as "unraisable" before it raises.
codec_may_panic = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

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
