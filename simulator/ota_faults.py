"""PURE. What can be made to go wrong with one device's updates."""

from dataclasses import dataclass, field


class PowerCut(Exception):
    """The device is dark from here on; what is on disk is all it knows at its next boot."""


@dataclass(slots=True)
class Faults:
    """Faults to come; those that are counted wear off as they happen."""

    power_cuts: list[str] = field(default_factory=list)
    """Phases in which the power fails, once each time it is named; also `heard`: before an accepted command is on disk,
    `acknowledged`: before its PUBACK, and `ended`: before the terminal report leaves."""
    network_errors: int = 0
    """So many downloads break off."""
    spoiled_downloads: int = 0
    """So many downloads get a wrong byte."""
    failures: dict[str, str] = field(default_factory=dict)
    """Error codes by phase, up to `installing`: so it fails there. In `confirming` the new firmware gives itself up."""
    boot_failed: bool = False
    """What is installed does not start."""
    silent: bool = False
    """Never reports; its hellos still come."""
    loses_success: bool = False
    """The report of success gets lost on the way."""

    def strike(self, phase: str) -> None:
        """Cuts the power, if that is due in this phase.

        Raises:
            PowerCut: it was due.
        """
        if phase in self.power_cuts:
            self.power_cuts.remove(phase)
            raise PowerCut(phase)
