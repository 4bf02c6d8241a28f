"""Two slots for firmware in a folder, and the boot loader's part: try a new one a few times, then fall back.

What is running is never written. The switch is one small file, replaced as a whole.
"""

import shutil
from pathlib import Path

import msgspec
from msgspec.structs import replace

from simulator.ota_memory import DeploymentId, write_whole

MOST_TRIES = 3
"""Boots that a new firmware gets to confirm itself."""


class Image(msgspec.Struct, frozen=True):
    """What lies in a slot; `digest` is the order's."""

    version: str
    digest: str = ""


class Install(msgspec.Struct, frozen=True):
    """One install that was completed."""

    deployment_id: DeploymentId
    version: str
    digest: str


class _Layout(msgspec.Struct, frozen=True, kw_only=True):
    images: dict[str, Image]
    good: str = "A"
    running: str = "A"
    trial: str | None = None
    tries: int = 0
    installs: tuple[Install, ...] = ()


class Slots:
    """The flash of one device."""

    def __init__(self, folder: Path, factory_version: str) -> None:
        """Reads what is in the folder; a new device has its factory's version in slot A."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / "slots.json"
        new = _Layout(images={"A": Image(factory_version)})
        self._layout = msgspec.json.decode(self._path.read_bytes(), type=_Layout) if self._path.exists() else new

    @property
    def running(self) -> Image:
        """What runs now."""
        return self._layout.images[self._layout.running]

    @property
    def slot(self) -> str:
        """Where it lies: A or B."""
        return self._layout.running

    @property
    def confirmed(self) -> bool:
        """False: on trial."""
        return self._layout.running == self._layout.good

    @property
    def installs(self) -> tuple[Install, ...]:
        """All that were ever completed, oldest first."""
        return self._layout.installs

    def write(self, source: Path) -> None:
        """Copies a file into the slot that does not run; until `commit` nothing boots it."""
        shutil.copyfile(source, self._folder / f"slot-{self._other}.bin")

    def commit(self, deployment_id: DeploymentId, image: Image) -> None:
        """Makes the next boot try the slot that was written: from here on there is no way back."""
        images = {**self._layout.images, self._other: image}
        done = (*self._layout.installs, Install(deployment_id, image.version, image.digest))
        self._store(replace(self._layout, images=images, trial=self._other, tries=0, installs=done))

    def boot(self, *, trial_fails: bool) -> None:
        """What the boot loader does: each try is counted before it is made."""
        while self._layout.trial is not None and self._layout.tries < MOST_TRIES:
            self._store(replace(self._layout, tries=self._layout.tries + 1, running=self._layout.trial))
            if not trial_fails:
                return
        self._store(replace(self._layout, trial=None, running=self._layout.good))

    def give_up(self) -> None:
        """Lets the next boot run what ran before."""
        self._store(replace(self._layout, trial=None))

    def confirm(self) -> None:
        """Keeps what runs."""
        self._store(replace(self._layout, good=self._layout.running, trial=None, tries=0))

    @property
    def _other(self) -> str:
        return "B" if self._layout.running == "A" else "A"

    def _store(self, layout: _Layout) -> None:
        self._layout = layout
        write_whole(self._path, msgspec.json.encode(layout))
