"""Status messages that are received and not yet stored: their packet ids, and the receiver that is held when they are many."""

from ingest.pipeline import Backpressure
from mqtt.connection import Deliveries, Receipt, acknowledge_receipts

MOST = 2_000
"""Messages; beyond it the receiver is held until half of them are stored."""


class Unacknowledged:
    """Bounded by `MOST` and what one read of the socket brings on top."""

    def __init__(self) -> None:
        self.source: Backpressure | None = None
        self.holding = False
        self._receipts: list[Receipt] = []
        self._messages = 0

    def __len__(self) -> int:
        """Returns the number of messages."""
        return self._messages

    def add(self, deliveries: Deliveries) -> None:
        """Keeps what the acknowledgement needs."""
        receipt = Receipt.of(deliveries)
        if receipt.packet_ids:
            self._receipts.append(receipt)
            self._messages += len(receipt.packet_ids)
        if self._messages > MOST and self.source is not None and not self.holding:
            self.holding = True
            self.source.pause()

    def all(self) -> list[Receipt]:
        """Returns what waits now, in order of arrival; it goes on waiting."""
        return self._receipts.copy()

    def stored(self, receipts: list[Receipt]) -> None:
        """Acknowledges the oldest ones, as `all` returned them."""
        del self._receipts[: len(receipts)]
        self._messages -= sum(len(receipt.packet_ids) for receipt in receipts)
        acknowledge_receipts(receipts)
        if self.holding and self._messages < MOST // 2 and self.source is not None:
            self.holding = False
            self.source.resume()
