"""What does a simulated event cost, and how far is a run in threads from the clock it should show?

    uv run python -m benchmarks.asynchronous                               # 1 min on 2 cores
    uv run python -m benchmarks.asynchronous --workers 16 64 256 --out asynchronous.json
    expected: about 100,000 simulated events a second; threads within 1.3 times the simulated time

Simulator: NOTIFY-ACK on a ring with log-normal compute times; events are starts, ends, sends, reads and folds. Times
alone, and with models of --size numbers that are sent, read and folded. Beside it the recursion, which gives the same
end times (checked) and nothing else. Threads: the same worker by the real clock, sleeping --compute-ms in the mean;
without a step, so that what comes on top of the simulated time is the exchange, the sleep's own error, and Python.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.table import Ratio, Summary, curve, header, run, show, tell
from subspace_jax.core import topology
from subspace_jax.parallel import asap

TARGETS = {"simulated events a second, 16 workers, times alone": 50_000.0}
ROUNDING = 1e-9  # of times added in another order
PRESETS = {
    "cpu": {"threads": [2, 8], "events": 20_000, "iterations": 40, "repeats": 3},
    "gpu": {},  # events and threads are the host's
}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds)."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def keep(worker: int, iteration: int, model: np.ndarray) -> np.ndarray:
    """A step that costs nothing."""
    return model


def simulator(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Events a second by number of workers, medians over turns; seconds of the recursion beside it."""
    rows = {}
    for workers in args.workers:
        weights, adjacency = topology.weights("ring", workers), topology.ring(workers)
        times = asap.lognormal_times(jax.random.key(0), max(1, args.events // (7 * workers)), workers, sigma=1.0)
        models = np.zeros((workers, args.size), np.float32)
        given = {"weights": weights, "policy": asap.notify_ack(), "times": times}
        events = 0
        found: dict[str, list[float]] = {"alone": [], "models": [], "recursion": []}
        for _ in range(args.repeats):
            run, seconds = timed(lambda given=given: asap.simulate(None, None, **given))
            events = len(run.trace.time)
            found["alone"].append(seconds)
            found["models"].append(timed(lambda given=given, x=models: asap.simulate(keep, x, **given))[1])
            ends, seconds = timed(lambda t=times, a=adjacency: asap.makespan(t, a))
            found["recursion"].append(seconds)
            np.testing.assert_allclose(asap.when(run.trace, "fold", workers), ends, atol=ROUNDING)
        median = {name: float(np.median(seconds)) for name, seconds in found.items()}
        rows[f"{workers} workers"] = {
            "events": float(events), "events a second, times alone": events / median["alone"],
            "events a second, with models": events / median["models"],
            "simulated over recursion": median["alone"] / median["recursion"],
        }  # fmt: skip
    return rows


def threads(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Real over simulated time by number of threads, medians over turns that take both policies."""
    rows = {}
    for count in args.threads:
        weights, models = topology.weights("ring", count), np.zeros((count, args.size), np.float32)
        times = asap.lognormal_times(jax.random.key(1), args.iterations, count, sigma=0.5) * args.compute_ms / 1000
        ideal = {"notify_ack": asap.makespan(times, topology.ring(count)).max(), "bsp": asap.barriers(times)[-1]}
        wall: dict[str, list[float]] = {"notify_ack": [], "bsp": []}
        for _ in range(args.repeats):
            for name, policy in (("notify_ack", asap.notify_ack()), ("bsp", asap.bsp())):
                run = asap.run_threads(keep, models, weights, policy=policy, times=times)
                asap.check_trace(run.trace, weights, policy=policy)
                wall[name].append(run.seconds)
        median = {name: float(np.median(seconds)) for name, seconds in wall.items()}
        rows[f"{count} threads"] = {
            "NOTIFY-ACK, simulated s": float(ideal["notify_ack"]),
            "NOTIFY-ACK, real over it": float(median["notify_ack"] / ideal["notify_ack"]),
            "barrier, real over simulated": float(median["bsp"] / ideal["bsp"]),
            "barrier over NOTIFY-ACK, simulated": float(ideal["bsp"] / ideal["notify_ack"]),
            "barrier over NOTIFY-ACK, real": median["bsp"] / median["notify_ack"],
            "on top, ms an iteration": 1e3 * float(median["notify_ack"] - ideal["notify_ack"]) / args.iterations,
        }  # fmt: skip
    return rows


def claims(rows: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What must hold on a CPU, where sixteen workers were simulated."""
    if "16 workers" not in rows:
        return []
    ((name, least),) = TARGETS.items()
    value = rows["16 workers"]["events a second, times alone"]
    return [{"name": name, "value": value, "threshold": least, "holds": value >= least}]


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Both tables, printed; as JSON with --out."""
    report = header("asynchronous", args) | {"simulator": simulator(args), "threads": threads(args)}
    for name in ("simulator", "threads"):
        show(name, report[name])
    report["claims"] = claims(report["simulator"])
    tell(report["claims"])
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios = [
        Ratio(f"simulated clock, {name}", "plain", "the recursion of end times alone",
              1e3 * row["events"] / row["events a second, times alone"], 1 / row["simulated over recursion"])
        for name, row in report["simulator"].items()
    ] + [
        Ratio(f"NOTIFY-ACK, {name}", "limit", "the simulated time",
              1e3 * row["NOTIFY-ACK, simulated s"] * over, 1 / over)
        for name, row in report["threads"].items() for over in [row["NOTIFY-ACK, real over it"]]
    ]  # fmt: skip
    of_event = {name: {"ms": 1e7 / row["events a second, with models"]} for name, row in report["simulator"].items()}
    return Summary(ratios, curve("10,000 simulated events with models", "workers", of_event, "ms"))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--workers", type=int, nargs="+", default=[4, 16, 64], help="workers of the simulator")
    found.add_argument("--threads", type=int, nargs="+", default=[2, 4, 8, 16], help="workers in threads")
    found.add_argument("--events", type=int, default=40_000, help="of a simulation, about")
    found.add_argument("--size", type=int, default=5_000, help="numbers of a model")
    found.add_argument("--iterations", type=int, default=60, help="of the threads")
    found.add_argument("--compute-ms", type=float, default=10.0, help="mean time of a step, slept")
    found.add_argument("--repeats", type=int, default=5, help="turns")
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary)
