"""What a simulation or a replay has done so far, for its caller to read at any time."""

from dataclasses import dataclass


@dataclass(slots=True)
class Statistics:
    """Counts since the start; one object is shared by all machines of a factory (one event loop, no lock needed)."""

    readings: int = 0
    """Readings measured."""
    published: int = 0
    """Telemetry messages handed to a connection, repetitions included."""
    acknowledged: int = 0
    """Telemetry messages with a good PUBACK."""
    readings_acknowledged: int = 0
    """Readings inside the acknowledged messages."""
    refused: int = 0
    """Messages the broker acknowledged with a failure code; not sent again."""
    dropped: int = 0
    """Readings thrown away because a device's buffer was full."""
    rejections: int = 0
    """Notices received on the devices' rejected topics."""
    reconnects: int = 0
    """Connections after each machine's first."""
    connected: int = 0
    """Machines connected now."""
    last_error: str = ""
    """The newest failure to connect or deliver, in words."""
