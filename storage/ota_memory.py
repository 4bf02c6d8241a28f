"""What we wrote last of deployments under way: a report is reduced against it, and the row is not read again."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ota.deployment import Deployment
from ota.draft import Draft

MOST = 50_000


class Recalled(NamedTuple):
    """Deployments by number, and the transactions that have written them."""

    deployments: Mapping[int, Deployment]
    seen: Mapping[int, str]


class Remembered:
    """Rows as we wrote them; whoever writes on their strength makes sure that nobody else has written since."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Deployment, str]] = {}

    def recall(self, numbers: Iterable[int]) -> Recalled | None:
        """Returns these deployments, or None if one of them is not remembered."""
        try:
            rows = {number: self._rows[number] for number in numbers}
        except KeyError:
            return None
        deployments = {number: deployment for number, (deployment, _) in rows.items()}
        return Recalled(deployments, {number: seen for number, (_, seen) in rows.items()})

    def keep(self, draft: Draft, written: str | None) -> None:
        """Takes what a committed draft has written: those with a device, the others are forgotten."""
        if len(self._rows) > MOST:
            self._rows.clear()
        for number, deployment in draft.changed.items():
            if written is not None and deployment.holds_device:
                self._rows[number] = deployment, written
            else:
                self._rows.pop(number, None)

    def forget(self, numbers: Iterable[int]) -> None:
        """Somebody else has changed some of these."""
        for number in numbers:
            self._rows.pop(number, None)
