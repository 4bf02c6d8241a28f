"""sd_notify over real datagram sockets, and when the watchdog is fed."""

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from factoryd.notify import Notifier, Progress, Signs, feed_watchdog

IDLE = Signs(loop_lag_s=0, settled=0, waiting=0, database_away=False)


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    async def hear(self, text: str) -> None:
        while True:
            if (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode() == text:
                return


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@factoryd-test-{secrets.token_hex(8)}"
    manager = Manager(address)
    yield manager
    manager.socket.close()


class TestNotifier:
    def test_says_each_thing_once(self, manager: Manager) -> None:
        notifier = Notifier(manager.address)
        for _ in range(2):
            notifier.ready()
            notifier.status("active:\n 12 readings/s")
        assert manager.heard() == ["READY=1", "STATUS=active: 12 readings/s"]

    def test_asks_for_time_except_while_running(self, manager: Manager) -> None:
        notifier = Notifier(manager.address, watchdog_s=30)
        notifier.alive()
        notifier.ready()
        notifier.alive()
        notifier.stopping()
        notifier.alive()
        assert manager.heard() == [
            "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=45000000",
            "READY=1",
            "WATCHDOG=1",
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000",
            "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=45000000",
        ]

    def test_without_a_watchdog_it_is_not_fed(self, manager: Manager) -> None:
        notifier = Notifier(manager.address)
        notifier.ready()
        notifier.alive()
        assert manager.heard() == ["READY=1"]

    def test_without_a_manager_nothing_happens(self) -> None:
        notifier = Notifier.from_environment({})
        notifier.ready()
        assert not notifier.enabled

    def test_a_manager_that_is_gone_is_no_reason_to_fail(self, tmp_path: Path) -> None:
        notifier = Notifier(str(tmp_path / "nobody"))
        with capture_logs() as events:
            notifier.ready()
            notifier.stopping()
        assert [event["event"] for event in events] == ["service_manager_not_reached"]

    @pytest.mark.parametrize(
        ("pid", "watchdog_s"), [(None, 30.0), (str(os.getpid()), 30.0), ("1", None)], ids=["unnamed", "ours", "another"]
    )
    def test_reads_the_environment(self, pid: str | None, watchdog_s: float | None) -> None:
        environment = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000"} | ({"WATCHDOG_PID": pid} if pid else {})
        notifier = Notifier.from_environment(environment)
        assert notifier.enabled
        assert notifier.watchdog_s == watchdog_s


class TestProgress:
    def test_nothing_waiting_is_fine_for_ever(self) -> None:
        progress = Progress(stall_s=60)
        assert all(progress.seen(at_s, IDLE)[0] for at_s in range(0, 1000, 15))

    def test_waiting_readings_must_move(self) -> None:
        progress, stuck = Progress(stall_s=60), IDLE._replace(waiting=5, settled=100)
        assert [progress.seen(at_s, stuck)[0] for at_s in (0, 15, 59, 60, 75)] == [True, True, True, False, False]
        assert progress.seen(90, stuck) == (False, "5 readings have been waiting for 90 s and no batch was tried")
        assert progress.seen(105, stuck._replace(settled=101)) == (True, "")
        assert progress.seen(160, stuck._replace(settled=101))[0]

    def test_a_database_that_is_away_excuses(self) -> None:
        progress, away = Progress(stall_s=60), IDLE._replace(waiting=5, database_away=True)
        assert all(progress.seen(at_s, away)[0] for at_s in range(0, 1000, 15))
        back = away._replace(database_away=False)
        assert progress.seen(1000, back)[0], "the stall counts from its return"
        assert not progress.seen(1060, back)[0]

    def test_a_held_event_loop_is_no_progress(self) -> None:
        assert Progress(stall_s=60).seen(0, IDLE._replace(loop_lag_s=61)) == (False, "the event loop was held for 61 s")


class TestFeeding:
    async def test_feeds_while_there_is_progress_and_stops_without(self, manager: Manager) -> None:
        notifier = Notifier(manager.address, watchdog_s=0.02)
        notifier.ready()
        signs = IDLE
        looks = 0
        starved = asyncio.Event()

        def look() -> Signs:
            nonlocal looks
            looks += 1
            if looks == 3:
                starved.set()
            return signs

        with capture_logs() as events:
            task = asyncio.create_task(feed_watchdog(notifier, look, lambda: "active", Progress(stall_s=0)))
            for text in ("READY=1", "STATUS=active", "WATCHDOG=1", "WATCHDOG=1"):
                await manager.hear(text)
            signs, looks = IDLE._replace(loop_lag_s=1), 0
            await starved.wait()
            task.cancel()
            await asyncio.wait({task})
        assert len(manager.heard()) <= 1, "at most the one that was under way"
        assert [event["event"] for event in events] == ["watchdog_starved"]

    async def test_only_waits_without_a_manager(self) -> None:
        task = asyncio.create_task(feed_watchdog(Notifier(), lambda: IDLE, lambda: ""))
        done, _ = await asyncio.wait({task}, timeout=0.01)
        assert not done
        task.cancel()
