"""What the session tests share: a session in each state, and the bytes that lead there."""

from mqtt5 import PublishPacket, QoS

from mqtt.session import Publish, Session, SessionOptions, State, Subscription

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
