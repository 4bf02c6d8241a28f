"""A device that updates itself: python ota_device.py BROKER PORT DEVICE FOLDER. Whatever ends it: start it again."""

import hashlib
import json
import queue
import sys
import urllib.request
from pathlib import Path

import paho.mqtt.client as mqtt

host, port, device, folder = sys.argv[1:]
part, disk, inbox = Path(folder, "download.bin"), Path(folder, "note.json"), queue.SimpleQueue()
note = {"version": "1.0.0", "boots": 0, "seq": 0, "seen": {}, "order": {}, "active": None, "last": None}
note |= json.loads(disk.read_text()) if disk.exists() else {}


def tell(phase, end=False, **more):  # on disk first (firmware syncs here), then to the broker; a boot begins with the state
    work = note["active"] and note["active"] | {"phase": phase}
    note.update({"active": None, "last": work or note["last"]} if end else {"active": work}, seq=note["seq"] + 2)
    disk.with_suffix(".new").write_text(json.dumps(note))
    disk.with_suffix(".new").replace(disk)
    said = [("state", {"active": note["active"], "last": note["last"]}), ("progress", work and work | more)]
    for seq, (leaf, body) in enumerate(reversed(said) if end else said, note["seq"]):
        if body:  # an end is reported with its reason before the state says that it is one
            body |= {"seq": seq, "version": note["version"], "boot_id": str(note["boots"])}
            client.publish(f"factory/devices/{device}/ota/{leaf}", json.dumps(body), 1, leaf == "state").wait_for_publish(30)


def update(there):
    tell("downloading")
    try:
        asked = {"Range": f"bytes={there}-"} if there else {}
        request = urllib.request.Request(note["order"]["firmware_url"], headers=asked)
        with urllib.request.urlopen(request) as answer, part.open("ab" if answer.status == 206 else "wb") as file:
            file.writelines(answer)
    except OSError as error:  # also an expired URL: the next attempt has a fresh one
        return tell("failed", end=True, error_code="network", error_message=str(error))
    if hashlib.sha256(part.read_bytes()).hexdigest() != note["order"]["sha256"]:
        return tell("failed", end=True, error_code="digest_mismatch")
    tell("installing", progress_percent=90)
    part.replace(Path(folder, "firmware.bin"))  # firmware: into the slot that does not run
    tell("rebooting", progress_percent=95)
    return sys.exit()


client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, device, clean_session=False, manual_ack=True)
client.on_message = lambda _client, _userdata, message: inbox.put(message)
client.connect(host, int(port))
client.loop_start()
booted = note["active"] and note["active"]["phase"] == "rebooting"
note.update(boots=note["boots"] + 1, version=note["order"]["version"] if booted else note["version"])
tell("confirming" if booted else "downloading")
client.subscribe(f"factory/devices/{device}/ota/command", 1)
if booted:
    tell("succeeded", end=True, progress_percent=100)
elif note["active"]:
    update(part.stat().st_size if part.exists() else 0)
while True:
    order = json.loads((message := inbox.get()).payload)
    number, attempt, start = str(order["deployment_id"]), order["attempt"], order["type"] == "update"
    if order["device"] == device and attempt > note["seen"].get(number, 0):  # else it is a copy, and the state answers it
        work = {"deployment_id": order["deployment_id"], "attempt": attempt}
        note.update(order=order, active=work, seen=note["seen"] | {number: attempt})
    tell("acknowledged" if start else "cancelled", end=not start)
    client.ack(message.mid, message.qos)
    if note["active"]:
        update(0)
