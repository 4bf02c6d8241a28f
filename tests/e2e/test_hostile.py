"""Nothing that anybody publishes stops the daemon, or the reading after it."""

import json

from tests.e2e.client import Message
from tests.e2e.conftest import ROOT, Plant, at, dated, status, telemetry, until

SOURCES = [
    {"name": "agents", "filter": f"{ROOT}/telegraf/#", "format": "telegraf", "device_field": "host"},
    {"name": "tasmota", "filter": f"{ROOT}/tele/{{device}}/SENSOR", "time_field": "Time", "timezone": "Europe/Berlin"},
]
MSGPACK = "application/msgpack"


def body(**values: object) -> bytes:
    return json.dumps(values).encode()


def _hostile() -> list[Message]:
    agents = f"{ROOT}/telegraf/hall"
    payloads = [
        b"[" + b",".join(b'{"rpm":1,"seq":1,"boot_id":"b%d"}' % n for n in range(100)) + b"]",
        b"[" * 20_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[]",
        b"",
        b"null",
        b'[[],{},null,true,1,"x"]',
        b"[" + b",".join([b'{"rpm":1}'] * 1_000) + b"]",
        b"[" + b",".join([b'{"rpm":1,"seq":5}'] * 1_000) + b"]",
        b"[" + b",".join([b'{"rpm":1}'] * 1_001) + b"]",
        b"[" + b",".join([b'{"recorded_at":"%s","rpm":1}' % at(5).encode()] * 1_000) + b"]",
        *(b'{"rpm":1,"seq":%d,"boot_id":"b"}' % seq for seq in (2**63 - 1, 0, 2**63, -1, 10**300, 2**63 - 2)),
        *(b'{"rpm":1,"seq":%d}' % seq for seq in (2**63 - 1, 0, 2**63 - 1, 1, 2**62)),
        b'{"rpm":1,"boot_id":"a\\u0000b","seq":1}',
        b'{"rpm":1,"note\\u0000":1}',
        b'{"rpm":1,"note":"\\u0000\\ud800"}',
        b'{"rpm":1,"device_id":"\\u0000"}',
        b'{"rpm":1,"recorded_at":"\\u0000"}',
        b'{"rpm":1,"recorded_at":"9999-12-31T23:59:59-23:59"}',
        b'{"rpm":1,"recorded_at":"0001-01-01T00:00:00+23:59"}',
        b'{"rpm":1,"ts":1e308}',
        b'{"rpm":' + b"9" * 5_000 + b"}",
        b'{"big":' + b"9" * 300 + b"}",
        b'{"small":1e-400,"rpm":-0.0}',
        b"\xff\xfe\x00",
        b"x" * 70_000,
    ]
    garbage = [
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 5_000,
        b"\x81\xa1a\xd6\xff\xff\xff\xff\xff",
        b"\x81\x80\x80",
        b"\xc7",
    ]
    telegraf = [
        body(metrics=[{"name": "m", "tags": {"host": host}, "fields": {"rpm": 1}, "timestamp": 1}])
        for host in ("bad-1", "\0", "", "a/b", 7, None, ["bad-1"])
    ]
    shapes = [b'{"metrics":{}}', b'{"metrics":[]}', b'{"metrics":[1,null,{"tags":[],"fields":3}]}', b'{"fields":{"rpm":1}}']
    bodies = [b"{", b"on", b"\xff", b'{"status":"\\u0000"}', b"[" * 3_000, b"x" * 5_000, b'{"status":7}', b'"']
    words = [b'{"status":"error","reason":"\\u0000\\u0000","version":1e308}', b'{"status":"offline","session":"\\ud800"}', b""]
    leaves = ["rejected", "ota/state", "telemetry/x", "x/telemetry", "status/x"]
    own = [Message(f"{ROOT}/daemon/main/token", data) for data in (b"", b"\xff", b"9" * 5_000, b"{}")]
    odd = ["", " ", "\u00e9", "x" * 300, "a'b", "+bad"[1:] + "\u202e"]
    return [
        *telemetry("bad-1", *payloads),
        *telemetry("bad-1", *payloads[:5], qos=0),
        *(Message(f"{ROOT}/devices/bad-1/telemetry", data, content_type=MSGPACK) for data in garbage),
        Message(f"{ROOT}/devices/bad-1/telemetry", b"{}", content_type="é; " * 500),
        *(Message(agents, data) for data in [*telegraf, *shapes, *garbage]),
        *(Message(f"{ROOT}/tele/bad-1/SENSOR", data) for data in (b'{"Time":"2026-03-29T02:30:00","rpm":1}', b'{"Time":{}}')),
        *(Message(f"{ROOT}/devices/{name}/telemetry", b'{"rpm":1}') for name in odd),
        *(status("bad-1", data) for data in [*bodies, *words]),
        *(Message(f"{ROOT}/devices/{name}/status", b"online") for name in odd),
        *(Message(f"{ROOT}/devices/bad-1/{leaf}", b"{") for leaf in leaves),
        *(Message(f"{ROOT}/{topic}", b"{") for topic in ("", "devices", "devices/", "$SYS", "alerts/x", "daemon/main")),
        *own,
    ]


async def test_no_message_stops_the_daemon(plant: Plant) -> None:
    await plant.register("bad-1", "good-1")
    async with plant.client() as client, plant.running(ingest={"source": SOURCES}) as running:
        leading = running.daemon.active
        for number, message in enumerate(_hostile()):
            good = telemetry("good-1", *dated(1, number))
            await client.publish(message, *good)
        await plant.until_sql(
            "SELECT count(*) FROM sensor_readings r JOIN devices d ON d.id = r.device_id WHERE d.device_id = 'good-1'",
            number + 1,
        )
        assert running.ready
        assert running.daemon.active is leading, "leadership was lost meanwhile"
        assert running.count("ingest_quarantined_total", reason="refused") == 0
        assert running.count("ingest_batch_retries_total") == 0
        await until(lambda: running.received > 0 and not running.count("ingest_readings_in_flight"))
