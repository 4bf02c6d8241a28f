"""The work on an order: fetch, verify, install, reboot, confirm. Every step is on disk before anybody hears of it."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from simulator.ota_command import COMMITTED
from simulator.ota_download import CHUNK_BYTES, Failed, download
from simulator.ota_faults import Faults
from simulator.ota_memory import Ended, Notebook, Order
from simulator.ota_slots import Image, Slots
from simulator.ota_voice import Voice

PERCENT = {"downloaded": 80, "verifying": 85, "installing": 88, "installed": 95, "rebooting": 95, "confirming": 98}
REPORT_PERCENT = 5
"""Least step between two reports of a download."""


class Reboot(Exception):
    """The device starts anew, on purpose."""


class Cancelled(Exception):
    """Somebody has asked to stop, and it is not too late."""


class Work:
    """One boot's worth of work; `run` it, and `wake` it when the order has changed."""

    def __init__(
        self,
        folder: Path,
        notebook: Notebook,
        slots: Slots,
        voice: Voice,
        faults: Faults,
        slot_bytes: int,
        pace_s: float = 0.0,
        chunk_bytes: int = CHUNK_BYTES,
        has_clock: bool = True,
    ) -> None:
        self._file = folder / "download.bin"
        self._notebook = notebook
        self._slots = slots
        self._voice = voice
        self._faults = faults
        self._slot_bytes = slot_bytes
        self._pace_s = pace_s
        self._chunk_bytes = chunk_bytes
        self._has_clock = has_clock
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something has changed: an order, its URL, or a wish to stop."""
        self._news.set()

    async def run(self) -> None:
        """Works until the device reboots.

        Raises:
            Reboot: into what was installed.
            PowerCut: as the faults say.
        """
        last = self._notebook.memory.last
        if last is not None and not last.told:
            await self._voice.tell_end(last)
        while True:
            self._news.clear()
            order = self._notebook.memory.active
            if order is not None:
                await self._attempt(order)
            await self._news.wait()

    async def _attempt(self, order: Order) -> None:
        # The second: the power failed between the switch of slots and the note of it.
        booted = order.phase in COMMITTED or self._slots.running.digest == order.digest
        try:
            await (self._settle(order) if booted else self._advance(order))
        except Cancelled:
            await self._end("cancelled")
        except Failed as failure:
            if self._order.url != order.url:
                return  # a newer command came meanwhile: what failed was the old one's way
            if failure.code == "url_expired":
                await self._ask_for_url(str(failure))
            else:
                await self._end("failed", failure.code, str(failure))

    async def _advance(self, order: Order) -> None:
        await self._fetch(order)
        await self._enter("verifying")
        await asyncio.to_thread(self._verify, order)
        await self._install(order)
        await self._enter("installed")
        await self._enter("rebooting")
        raise Reboot

    async def _fetch(self, order: Order) -> None:
        if self._notebook.memory.download_digest != order.digest:
            self._file.unlink(missing_ok=True)
            self._notebook.change(download_digest=order.digest)
        self._stop_if_cancelled()
        self._fail_if_due("acknowledged")
        self._notebook.change_order(phase="downloading")
        await self._report()
        self._check_url(order)
        async for there in download(order.url, self._file, order.size, self._slot_bytes, self._chunk_bytes):
            self._stop_if_cancelled()
            self._faults.strike("downloading")
            self._fail_if_due("downloading")
            if self._faults.network_errors > 0:
                self._faults.network_errors -= 1
                raise Failed("network", "the line broke")
            await self._note_progress(there, order.size)
        self._spoil()
        await self._enter("downloaded")

    def _check_url(self, order: Order) -> None:
        """A device with a clock need not ask a server to know that the time is over."""
        expires = order.url_expires_at
        if self._has_clock and expires is not None and datetime.fromisoformat(expires) <= datetime.now(UTC):
            raise Failed("url_expired", f"the URL expired at {expires}")

    async def _note_progress(self, there: int, size: int | None) -> None:
        percent = PERCENT["downloaded"] * there // size if size else 0
        if percent >= self._order.percent + REPORT_PERCENT:
            self._notebook.change_order(percent=percent)
            await self._report(bytes_done=there)
        await asyncio.sleep(self._pace_s)

    def _verify(self, order: Order) -> None:
        size = self._file.stat().st_size
        wrong = ("size_mismatch", f"{size} bytes, not {order.size}") if order.size not in {None, size} else None
        if wrong is None and order.sha256 is not None and (found := _sha256(self._file)) != order.sha256:
            wrong = ("digest_mismatch", f"sha256 {found}, not {order.sha256}")
        if wrong is not None:
            self._file.unlink()  # another attempt begins afresh
            raise Failed(*wrong)

    async def _install(self, order: Order) -> None:
        await self._enter("installing")
        await asyncio.to_thread(self._slots.write, self._file)
        self._stop_if_cancelled()
        self._slots.commit(order.deployment_id, Image(order.version, order.digest))
        self._notebook.change_order(phase="installed")  # before anything else runs: from here on a cancel comes too late

    async def _settle(self, order: Order) -> None:
        """After the reboot: which of the two has started?"""
        if self._slots.running.digest != order.digest:
            code = order.failure or "boot_failed"
            await self._end("rolled_back", code, f"{order.version} did not stay; {self._slots.running.version} runs")
            return
        try:
            await self._enter("confirming")
        except Failed as failure:
            self._notebook.change_order(failure=failure.code)
            self._slots.give_up()
            raise Reboot from failure
        self._slots.confirm()
        if order.manifest_seq is not None:
            self._notebook.change(manifest_seq=order.manifest_seq, manifest_digest=order.digest)
        await self._end("succeeded")

    async def _enter(self, phase: str) -> None:
        if phase not in COMMITTED:
            self._stop_if_cancelled()
        self._notebook.change_order(phase=phase, percent=max(self._order.percent, PERCENT[phase]))
        await self._report()
        self._faults.strike(phase)
        self._fail_if_due(phase)
        await asyncio.sleep(self._pace_s)

    async def _report(self, **more: object) -> None:
        order = self._order
        await self._voice.report(order.deployment_id, order.attempt, order.phase, progress_percent=order.percent, **more)

    async def _ask_for_url(self, why: str) -> None:
        self._notebook.change_order(needs_url=True)
        order = self._order
        why_not = {"error_code": "url_expired", "error_message": why, "progress_percent": order.percent}
        await self._voice.report(order.deployment_id, order.attempt, "failed", **why_not)

    async def _end(self, outcome: str, code: str | None = None, message: str | None = None) -> None:
        ended = ended_of(self._order, outcome, code, message)
        self._notebook.change(active=None, last=ended)
        self._faults.strike("ended")
        await self._voice.tell_end(ended)
        await self._voice.state()

    def _fail_if_due(self, phase: str) -> None:
        if (code := self._faults.failures.get(phase)) is not None:
            raise Failed(code, f"it was to fail in {phase}")

    def _stop_if_cancelled(self) -> None:
        if self._order.cancelled:
            raise Cancelled

    def _spoil(self) -> None:
        if self._faults.spoiled_downloads > 0:
            self._faults.spoiled_downloads -= 1
            content = bytearray(self._file.read_bytes())
            content[0] ^= 0xFF
            self._file.write_bytes(content)

    @property
    def _order(self) -> Order:
        order = self._notebook.memory.active
        assert order is not None, "there is an update in work"
        return order


def ended_of(order: Order, outcome: str, code: str | None = None, message: str | None = None) -> Ended:
    """Returns how an order has ended."""
    return Ended(
        deployment_id=order.deployment_id,
        attempt=order.attempt,
        outcome=outcome,
        phase=order.phase,
        percent=100 if outcome == "succeeded" else order.percent,
        error_code=code,
        error_message=message,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
