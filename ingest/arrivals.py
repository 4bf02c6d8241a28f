"""Sequence numbers of arriving messages: noted in the device's streams, counted, and used against repetitions."""

from ingest.batch import Batch
from ingest.devices import Device
from ingest.metrics import IngestMetrics
from ingest.reading import Sample, Wire
from ingest.sequences import Arrival, note_without_boot

Noted = dict[tuple[str | None, int], Arrival]
"""What the sequence numbers of one message told, by boot and seq: several readings may share one."""


class Arrivals:
    """Notes sequence numbers for the intake."""

    def __init__(self, metrics: IngestMetrics) -> None:
        self._metrics = metrics

    def is_repetition(self, batch: Batch, device: Device, wire: Wire | Sample, noted: Noted | None, *, dated: bool) -> bool:
        """Notes the sequence number; tells whether a reading without a time of its own has come before."""
        if wire.seq is None:
            return False
        arrival = self.note(batch, device, wire.boot_id, wire.seq, noted)
        if arrival is not Arrival.REPEATED or dated or wire.boot_id is None:
            return False
        batch.duplicates += 1
        batch.heard.add(device.id)
        return True

    def note(self, batch: Batch, device: Device, boot: str | None, seq: int, noted: Noted | None) -> Arrival:
        """Notes the sequence number, once per message that carries it."""
        if noted is not None and (boot, seq) in noted:
            return noted[boot, seq]
        stream = device.stream(boot or "")
        if stream is None:
            stream = device.begin_stream(boot or "", seq)
            arrival = Arrival.NEW
        else:
            last, first = stream.last, stream.first
            arrival = stream.note(seq) if boot is not None else note_without_boot(stream, seq)
            if seq > last + 1:
                self._metrics.missing.inc(seq - last - 1)
            elif arrival is Arrival.LATE and seq >= first:
                self._metrics.filled.inc()
            elif arrival is Arrival.LATE:  # it was not counted as missing; what lies between is
                self._metrics.missing.inc(first - seq - 1)
        batch.note(device.id, boot or "", stream, seq)
        if noted is not None:
            noted[boot, seq] = arrival
        return arrival
