"""`make bench`: the product as shipped, each figure beside a yardstick of the same run; medians of pairs, and ratios.

    python -m bench [--pairs 5] [--count 500000] [--only live,drain,…] [--json FILE]

The machines are shared and noisy: quote the ratios. What each must reach is docs/performance.md.
"""

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import alerts, archive, backtest, measures, ota, reads
from bench.ground import Ground, prepared
from bench.measures import Figures

LIVE_MESSAGES = 200_000
BATCHES = 3_000
PER_MESSAGE = 100
WAITING = 1_000_000
RATE = 5_000.0
MEASURES = (
    "live",
    "drain",
    "duplicates",
    "write_path",
    "batches",
    "latency",
    "memory",
    "alerts",
    "storm",
    "burst",
    "evaluation",
    "thresholds",
    "backtest",
    "ota",
    "archive",
    "queries",
)


class Bench:
    """Runs pairs and keeps every figure."""

    def __init__(self, ground: Ground, pairs: int, count: int) -> None:
        self.ground = ground
        self.pairs = pairs
        self.count = count
        self.results: dict[str, dict[str, object]] = {}
        self.runs: dict[str, list[Figures]] = {}

    async def live(self) -> None:
        """Live QoS 1 throughput beside a null subscriber."""
        await self._pair(
            "live",
            lambda: measures.live_product(self.ground, LIVE_MESSAGES),
            lambda: measures.live_null(self.ground, LIVE_MESSAGES),
            goal=0.9,
        )

    async def drain(self) -> None:
        """A queue drained, beside raw binary COPY of the same rows, and beside a null subscriber: the broker's own limit."""
        ours, copies, nulls = [], [], []
        for number in range(self.pairs):
            ours.append(await measures.drain_product(self.ground, self.count))
            copies.append(await measures.raw_copy(self.ground))
            nulls.append(await measures.drain_null(self.ground, self.count))
            rates = f"{ours[-1]['rate']:,.0f}/s beside COPY {copies[-1]['rate']:,.0f}/s, null {nulls[-1]['rate']:,.0f}/s"
            print(f"  drain {number + 1}/{self.pairs}: {rates}", flush=True)
        self._keep("drain", ours, copies)
        to_copy = statistics.median(mine["rate"] / other["rate"] for mine, other in zip(ours, copies, strict=True))
        to_null = statistics.median(mine["rate"] / other["rate"] for mine, other in zip(ours, nulls, strict=True))
        rate, null = _medians(ours)["rate"], _medians(nulls)["rate"]
        beyond_broker = null < 0.5 * _medians(copies)["rate"]  # COPY is so fast that the broker cannot feed half of it
        self.results["drain"] |= {"ratio": to_copy, "ratio_to_null": to_null, "null": _medians(nulls), "null_runs": nulls}
        if beyond_broker:
            self.results["drain"] |= {"goal": "0.5 of COPY is beyond the broker: 0.9 of a null subscriber, and 120,000/s"}
            self.results["drain"]["reached"] = to_null >= 0.9 and rate >= 120_000
        else:
            self.results["drain"] |= {"goal": "0.5 of COPY", "reached": to_copy >= 0.5}

    async def duplicates(self) -> None:
        """1 % repetitions beside none."""
        await self._pair(
            "duplicates",
            lambda: measures.drain_product(self.ground, self.count // 2, repeat_every=100),
            lambda: measures.drain_product(self.ground, self.count // 2),
            goal=0.8,
        )

    async def write_path(self) -> None:
        """Both ways into the table, end to end: the merging upsert (unnest … ON CONFLICT) beside COPY."""
        await self._pair(
            "write_path",
            lambda: measures.drain_product(self.ground, self.count // 2),
            lambda: measures.drain_product(self.ground, self.count // 2, late=True),
            goal=1.0,
        )

    async def batches(self) -> None:
        """Batches of 100 readings per message, in readings per second, beside a null subscriber."""
        await self._pair(
            "batches",
            lambda: measures.live_product(self.ground, BATCHES, PER_MESSAGE),
            lambda: measures.live_null(self.ground, BATCHES, PER_MESSAGE),
            goal=0.0,
        )
        rate = statistics.median(run["rate"] for run in self.runs["batches"])
        self.results["batches"] |= {"goal": "150,000 readings/s", "reached": rate >= 150_000}

    async def latency(self) -> None:
        """Publish → commit at a steady rate, beside the trips and the fsync that nobody can avoid."""
        ours, theirs = [], []
        for _ in range(self.pairs):
            ours.append(await measures.paced_latency(self.ground, RATE, 10))
            theirs.append(await measures.trips(self.ground, RATE, 4))
        self._keep("latency", ours, theirs)
        ratio = statistics.median(mine["p99_ms"] / other["sum_ms"] for mine, other in zip(ours, theirs, strict=True))
        p99 = statistics.median(mine["p99_ms"] for mine in ours)
        goal = "p99 <= 5 x (fsync + round trips) and <= 25 ms"
        self.results["latency"] |= {"ratio": ratio, "goal": goal, "reached": ratio <= 5 and p99 <= 25}

    async def memory(self) -> None:
        """Peak memory with a million messages waiting."""
        run = await measures.drain_product(self.ground, WAITING)
        self._keep("memory", [run], [])
        self.results["memory"] |= {"goal": "peak_mb <= 200", "reached": run["peak_mb"] <= 200}

    async def alerts(self) -> None:
        """From a crossing to the operator's event, at a steady rate, beside commit and broker of the same run."""
        runs = [await alerts.alert_latency(self.ground, RATE, 10) for _ in range(self.pairs)]
        self._keep("alerts", runs, [])
        ratio = statistics.median(run["p99_ms"] / run["sum_ms"] for run in runs)
        p99 = statistics.median(run["p99_ms"] for run in runs)
        goal = "p99 <= 3 x (commit + round trip) and <= 30 ms"
        self.results["alerts"] |= {"ratio": ratio, "goal": goal, "reached": ratio <= 3 and p99 <= 30}

    async def storm(self) -> None:
        """10,000 transitions: every fourth message one, for eight seconds; all told, and ingest beside its figure before."""
        await self._storm("storm", 4)

    async def burst(self) -> None:
        """The same at once: every message one, for two seconds."""
        await self._storm("burst", 1)

    async def _storm(self, name: str, every: int) -> None:
        runs = [await alerts.storm(self.ground, RATE, every) for _ in range(self.pairs)]
        self._keep(name, runs, [])
        ratio = statistics.median(run["during_p99_ms"] / run["before_p99_ms"] for run in runs)
        told = max(run["all_published_s"] for run in runs)
        goal = "all published within 10 s; ingest p99 <= 2 x before"
        self.results[name] |= {"ratio": ratio, "goal": goal, "reached": ratio <= 2 and told <= 10}

    async def evaluation(self) -> None:
        """CPU of the daemon per message while every metric of every device is watched (6,000 thresholds), beside none."""
        ours, theirs = [], []
        for _ in range(self.pairs):
            ours.append(await alerts.drain_cpu(self.ground, self.count, alerts.EVERY_METRIC))
            theirs.append(await alerts.drain_cpu(self.ground, self.count, alerts.NO_LIMIT))
        self._keep("evaluation", ours, theirs)
        ratio = statistics.median(mine["cpu_us"] / other["cpu_us"] for mine, other in zip(ours, theirs, strict=True))
        self.results["evaluation"] |= {"ratio": ratio, "goal": "<= 1.15 x the CPU without", "reached": ratio <= 1.15}

    async def thresholds(self) -> None:
        """50,000 thresholds: loaded, and one of them changed under load."""
        runs = [await alerts.load_thresholds(self.ground) for _ in range(self.pairs)]
        self._keep("thresholds", runs, [])
        medians = _medians(runs)
        goal = "loaded within 1 s, in effect within 1 s"
        self.results["thresholds"] |= {"goal": goal, "reached": medians["load_s"] <= 1 and medians["in_effect_s"] <= 1}

    async def backtest(self) -> None:
        """`threshold try` over ten million readings, beside PostgreSQL looking at each of them once."""
        run = await backtest.measure(self.ground)
        self._keep("backtest", [run], [])
        slowest = max(run["temperature_s"], run["torque_s"])
        self.results["backtest"] |= {"goal": "<= 10 s", "reached": slowest <= 10}

    async def ota(self) -> None:
        """Telemetry while 10,000 live deployments report every two seconds, beside the same with silent ones."""
        await self._pair(
            "ota",
            lambda: ota.telemetry_beside_reports(self.ground),
            lambda: ota.telemetry_alone(self.ground),
            goal=0.85,
        )

    async def archive(self) -> None:
        """A day of four million readings to Parquet and back, beside COPY of the same rows; ingest meanwhile."""
        runs = [await archive.measure(self.ground) for _ in range(min(self.pairs, 3))]
        self._keep("archive", runs, [])
        medians = _medians(runs)
        ratios = {
            "ratio": statistics.median(run["rate"] / run["copy_to_rate"] for run in runs),
            "ratio_restore": statistics.median(run["restore_rate"] / run["copy_from_rate"] for run in runs),
            "ratio_ingest": statistics.median(run["p99_during_ms"] / run["p99_before_ms"] for run in runs),
        }
        good = (
            min(medians["rate"], medians["paced_rate"]) >= 200_000
            and ratios["ratio"] >= 0.5
            and ratios["ratio_restore"] >= 0.5
            and ratios["ratio_ingest"] <= 2
            and medians["share_of_heap"] <= 0.15
            and max(medians["peak_mb"], medians["restore_peak_mb"]) <= 300
        )
        goal = ">= 200,000/s and 0.5 of COPY TO; restore 0.5 of COPY; 15 % of the heap; 300 MB; ingest p99 <= 2 x before"
        self.results["archive"] |= {**ratios, "goal": goal, "reached": good}

    async def queries(self) -> None:
        """The reads that must be fast, on ten million readings and their roll-ups: medians of 200 on one warm connection."""
        run = await asyncio.to_thread(reads.measure, self.ground)
        self._keep("queries", [run], [])
        goal = ", ".join(f"{name} <= {limit:g} ms" for name, limit in reads.LIMITS_MS.items())
        reached = all(run[f"{name}_ms"] <= limit for name, limit in reads.LIMITS_MS.items())
        self.results["queries"] |= {"goal": goal, "reached": reached}

    async def _pair(
        self,
        name: str,
        product: Callable[[], Awaitable[Figures]],
        yardstick: Callable[[], Awaitable[Figures]],
        goal: float,
    ) -> None:
        ours: list[Figures] = []
        theirs: list[Figures] = []
        for number in range(self.pairs):
            sides = [(product, ours), (yardstick, theirs)]
            for measure, figures in sides if number % 2 == 0 else reversed(sides):  # a drifting machine favours nobody
                figures.append(await measure())
            rates = f"{ours[-1]['rate']:,.0f}/s beside {theirs[-1]['rate']:,.0f}/s"
            print(f"  {name} {number + 1}/{self.pairs}: {rates}", flush=True)
        self._keep(name, ours, theirs)
        ratio = statistics.median(mine["rate"] / other["rate"] for mine, other in zip(ours, theirs, strict=True))
        self.results[name] |= {"ratio": ratio, "goal": goal, "reached": ratio >= goal}

    def _keep(self, name: str, ours: list[Figures], theirs: list[Figures]) -> None:
        self.runs[name] = ours
        result: dict[str, object] = {"factoryd": _medians(ours), "runs": ours}
        if theirs:
            result |= {"yardstick": _medians(theirs), "yardstick_runs": theirs}
        self.results[name] = result


def _medians(runs: list[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def show(results: dict[str, dict[str, object]]) -> None:
    """Prints what a person wants to know."""
    for name, result in results.items():
        print(f"\n{name}: {'reached' if result.get('reached', True) else 'MISSED'}  goal {result.get('goal', '-')}")
        for ratio in (key for key in result if key.startswith("ratio")):
            print(f"  {ratio:<13} {result[ratio]:.2f}")
        for side in ("factoryd", "yardstick", "null"):
            figures = result.get(side)
            if isinstance(figures, dict):
                print(f"  {side:<10} " + "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))


async def run(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Runs the chosen measurements on fresh servers."""
    with tempfile.TemporaryDirectory(prefix="factoryd-bench-") as directory:
        async with prepared(Path(directory), options.postgres) as ground:
            bench = Bench(ground, options.pairs, options.count)
            for name in options.only.split(","):
                print(f"{name}: {getattr(bench, name).__doc__}", flush=True)
                await getattr(bench, name)()
            return bench.results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--count", type=int, default=500_000, help="messages of the drain")
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--postgres", type=Path, help="directory of PostgreSQL's programs, to measure another version")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    options = parser.parse_args()
    results = asyncio.run(run(options))
    show(results)
    if options.json:
        machine = {"python": sys.version.split()[0], "system": platform.platform()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    if not all(result.get("reached", True) for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
