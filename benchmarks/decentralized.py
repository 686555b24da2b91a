"""What does a step of many agents cost, what do they send, how fast do they agree, and what does a network make of it?

    uv run python -m benchmarks.decentralized                                      # 1 to 2 min on 2 cores
    uv run python -m benchmarks.decentralized --networks resnet20 --agents 16      # on a GPU
    uv run python -m benchmarks.decentralized --run runs/decentralized/1           # and the time to an accuracy
    expected: all agents as one program several times faster than one after the other; bytes and rates as the formulas

Step: one dispatched step of D-PSGD and NGC on a ring, in turns with the peer. The released scripts run one process a
GPU with blocking sends; on one device a plain loop stands for them: agent after agent, a compiled gradient for each
model that it needs, averages in NumPy. Beside it the gradient of one agent alone and of one network on all samples.
Every way must end at the same parameters. Bytes: as the methods count them, by a closed formula, and as the arrays that
`ppermute` takes in the traced program; all must be equal. Graphs: the squared distance from the mean shrinks by rho^2 a
round of real gossip. Links: seconds = passes * gradient + 2 * (messages * latency + bytes / bandwidth), where 2 stands
for sending and receiving one after the other; what compression computes is not counted.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.decentralized_counts import GRAPHS, LR, NETWORKS, SENDERS, Problem, graphs, one_step, problem, traffic
from benchmarks.table import Ratio, Summary, curve, header, run, show
from subspace_jax.core import exchange, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import gossip, ngc
from subspace_jax.typing import PyTree

STEPS = 10  # dispatched at once; about 100 abort a process with several simulated devices
AGREE = 1e-3  # of parameters after STEPS, with the TF32 of a GPU; a CPU stays below 1e-6
LINKS = {  # bytes a second, seconds
    "10 Gbit/s, 10 us": (1.25e9, 1e-5), "1 Gbit/s, 0.1 ms": (1.25e8, 1e-4), "100 Mbit/s, 1 ms": (1.25e7, 1e-3),
    "10 Mbit/s, 10 ms": (1.25e6, 1e-2), "1 Mbit/s, 50 ms": (1.25e5, 5e-2),
}  # fmt: skip
PRESETS = {
    "cpu": {"agents": [4, 8, 16], "repeats": 3},
    "gpu": {"networks": ["resnet20"], "agents": [4, 8, 16], "devices": 1},
}


def ours(make: Callable, given: Problem, weights: np.ndarray, comm: Comm, runner: Callable) -> Callable:
    """STEPS steps of all agents; their parameters."""
    step, start = one_step(make, given, comm, weights)
    start, batch, run = exchange.place(start, comm), exchange.place(given.batch, comm), jax.jit(runner(step, comm))

    def call():
        state = start
        for _ in range(STEPS):
            state, _ = run(state, batch)
        return jax.block_until_ready(state.params)

    return call


def one_after_the_other(given: Problem, weights: np.ndarray, gradient: Callable, *, cross: bool) -> Callable:
    """The same by a loop over agents; x_i <- sum_j w_ij x_j - lr g_i, averages in NumPy."""
    agents, shares = range(len(weights)), weights.astype(np.float32)
    heard = [np.flatnonzero(row).tolist() for row in weights]
    start, batches = ([jax.tree.map(lambda leaf, i=i: leaf[i], part) for i in agents] for part in given[1:])
    batches = jax.device_put(batches)

    def average(i, trees):
        return jax.tree.map(
            lambda *leaves: sum(shares[i, j] * a for j, a in zip(heard[i], leaves, strict=True)), *trees
        )

    def step(models):
        pairs = [(i, j) for i in agents for j in (heard[i] if cross else [i])]
        grads = jax.device_get({(i, j): gradient(models[j], batches[i]) for i, j in pairs})
        new = []
        for i in agents:
            mixed = average(i, [models[j] for j in heard[i]])
            direction = average(i, [grads[j, i] for j in heard[i]]) if cross else grads[i, i]
            new.append(jax.tree.map(lambda x, g: x - np.float32(LR) * g, mixed, direction))
        return new

    def call():
        models = start
        for _ in range(STEPS):
            models = step(models)
        return models

    return call


def repeated(gradient: Callable, params: PyTree, batch: PyTree) -> Callable:
    params, batch = jax.device_put((params, batch))
    return lambda: jax.block_until_ready([gradient(params, batch) for _ in range(STEPS)])


def ways(name: str, given: Problem, agents: int, devices: int) -> dict[str, Callable]:
    """Every implementation of the steps of a method on a ring, and the gradients they are compared with."""
    weights, cross = topology.weights("ring", agents), name == "ngc"
    make = functools.partial(ngc.ngc, self_grad_at="sent") if cross else gossip.d_psgd
    in_turn, alone = functools.partial(make, loop="map"), exchange.spread(agents, 1)
    gradient = jax.jit(jax.grad(lambda params, batch: given.loss(params, {}, batch, jax.random.key(0))[0]))
    params, batch = jax.tree.map(lambda leaf: leaf[0], (given.params, given.batch))
    everything = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), given.batch)
    found = {
        "vmap": ours(make, given, weights, alone, exchange.vmap),
        "map": ours(in_turn, given, weights, alone, exchange.vmap),
        "loop": one_after_the_other(given, weights, gradient, cross=cross),
        "gradient": repeated(gradient, params, batch),
        "all_samples": repeated(gradient, params, everything),
    }
    if devices > 1:
        found["shard_map"] = ours(make, given, weights, exchange.spread(agents, devices), exchange.shard_map)
    return found


def timings(calls: dict[str, Callable], repeats: int) -> dict[str, np.ndarray]:
    """Seconds a step, in turns; the first turn compiles, and says whether all ways end at the same place."""
    ends = {name: call() for name, call in calls.items()}
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *ends["loop"])
    for name in ends.keys() & {"vmap", "map", "shard_map"}:
        away = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), exchange.fetch(ends[name]), stacked)
        if not max(jax.tree.leaves(away)) < AGREE:
            raise AssertionError(f"{name} ends {max(jax.tree.leaves(away))} from the loop over agents.")
    seconds = {name: np.zeros(repeats) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name][turn] = (time.perf_counter() - started) / STEPS
    return seconds


def step_time(network: str, counts: list[int], batch: int, devices: int, repeats: int) -> dict[str, dict]:
    """Milliseconds of a step by every runner, against the number of agents."""
    tables: dict[str, dict] = {f"{name}, {network}, milliseconds a step": {} for name in ("d_psgd", "ngc")}
    for agents in counts:
        given = problem(network, agents, batch)
        for title, rows in tables.items():
            seconds = timings(ways(title.split(",")[0], given, agents, devices), repeats)
            median = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
            rows[f"{agents} agents"] = {
                "vmap": median["vmap"], "map": median["map"], "shard_map": median.get("shard_map"),
                "loop_over_agents": median["loop"],
                "vmap_times_faster": float(np.median(seconds["loop"] / seconds["vmap"])),
                "vmap_per_agent": median["vmap"] / agents, "gradient_of_one_agent": median["gradient"],
                "one_network_on_all_samples": median["all_samples"],
            }  # fmt: skip
    return tables


def on_links(passes: float, messages: float, sent: float, gradient: float) -> dict[str, float]:
    """Seconds of a step of one agent on a device of its own, by link."""
    return {
        name: passes * gradient + 2 * (messages * latency + sent / bandwidth)
        for name, (bandwidth, latency) in LINKS.items()
    }


def a_step(rows: dict[str, dict], gradient: float) -> dict[str, dict]:
    """Milliseconds of a step of each method by link, from its bytes."""
    steps = {
        name: on_links(row["backward_passes"], row["messages"], 1e3 * row["by_formula"], gradient)
        for name, row in rows.items()
    }
    return {name: {link: 1e3 * seconds for link, seconds in step.items()} for name, step in steps.items()}


def read(run: pathlib.Path) -> tuple[dict[str, np.ndarray], float]:
    """The curves of a finished run, one row a trial, seed, evaluation and agent, and the neighbours of an agent."""
    if not (run / "agents.npz").exists():
        raise ValueError(f"{run} holds no agents.npz: give the folder of a finished run of experiments.decentralized.")
    config = json.loads((run / "config.json").read_text())
    weights = topology.weights(config["topology"], config["agents"])
    with np.load(run / "agents.npz") as columns:
        return dict(columns), float((weights > 0).sum(-1).mean() - 1)


def to_accuracy(table: dict[str, np.ndarray], degree: float, target: float, gradient: float) -> dict[str, dict]:
    """Steps, mean over the seeds, and seconds by link until the agents' own models reach a mean accuracy.

    None where one of the seeds never gets there. Trials that send nothing are left out.
    """
    rows: dict[str, dict] = {}
    for name in dict.fromkeys(table["trial"].tolist()):
        own = {column: values[table["trial"] == name] for column, values in table.items()}
        seeds = [own["seed"] == seed for seed in np.unique(own["seed"])]
        steps = float(np.mean([first_step(own["step"][k], own["accuracy"][k], target) for k in seeds]))
        end = own["step"] == own["step"].max()
        passes, model, cross = (
            float((own[kind][end] / own["step"][end]).mean())
            for kind in ("backward_passes", "bytes_model", "bytes_cross")
        )
        if model + cross:
            seconds = on_links(passes, degree * (1 + (cross > 0)), model + cross, gradient)
            row = {"steps": steps} | {link: steps * value for link, value in seconds.items()}
            rows[name] = row if np.isfinite(steps) else dict.fromkeys(row)
    return rows


def first_step(steps: np.ndarray, accuracy: np.ndarray, target: float) -> float:
    """The first evaluated step whose mean over the agents is at least the target; infinite where none is."""
    means = {step: accuracy[steps == step].mean() for step in np.unique(steps)}
    return min((float(step) for step, mean in means.items() if mean >= target), default=np.inf)


def main(args: argparse.Namespace) -> dict:
    devices, network = min(args.devices, jax.device_count()), args.networks[0]
    for agents in args.agents:
        exchange.spread(agents, devices)  # refuses before anything is measured
    curves = read(args.run) if args.run else None
    report = header("decentralized", args) | {"step": {}}
    report["graphs"] = {"gossip": graphs(args.graph_agents)}
    for name in args.networks:
        report["step"] |= step_time(name, args.agents, args.batch, devices, args.repeats)
    gradient = 1e-3 * next(iter(next(iter(report["step"].values())).values()))["gradient_of_one_agent"]
    sent = {graph: traffic(network, graph) for graph in GRAPHS}
    report["bytes"] = {f"{network}, {graph} of {SENDERS}, kilobytes a step and agent": sent[graph] for graph in GRAPHS}
    report["links"] = {f"{network}, ring, model of the milliseconds of a step": a_step(sent["ring"], gradient)}
    if curves:
        rows = to_accuracy(*curves, args.target, gradient)
        report["accuracy"] = {f"model of the seconds to accuracy {args.target:g} of the agents' own models": rows}
    for part in ("step", "bytes", "graphs", "links", "accuracy"):
        for title, rows in report.get(part, {}).items():
            show(title, rows)
    return report


def summary(report: Mapping[str, Any]) -> Summary:
    """Rows of the table of all benchmarks."""
    ratios, curves = [], []
    for title, rows in report["step"].items():
        step = title.removesuffix(", milliseconds a step")
        for name, row in rows.items():
            what, most = f"a step of {step}, {name}", row["one_network_on_all_samples"] / row["vmap"]
            ratios.append(Ratio(what, "plain", "agent after agent", row["vmap"], row["vmap_times_faster"]))
            ratios.append(Ratio(what, "plain", "one gradient of all samples", row["vmap"], most))
        curves += curve(f"a step of {step}", "agents", rows, "vmap")
    return Summary(ratios, curves)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # fmt: off
    found.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mlp"], help="bytes and links: the first")
    found.add_argument("--agents", nargs="+", type=int, default=[4, 8, 16, 32], help="multiples of --devices")
    found.add_argument("--batch", type=int, default=32, help="samples per agent and step (%(default)s)")
    found.add_argument("--devices", type=int, default=4, help="of shard_map, on a CPU simulated (%(default)s)")
    found.add_argument("--graph-agents", type=int, default=16, help="of graphs of any size (%(default)s)")
    found.add_argument("--run", type=pathlib.Path, help="folder of experiments.decentralized, of that network")
    found.add_argument("--target", type=float, default=0.9, help="accuracy to be reached in it (%(default)s)")
    found.add_argument("--repeats", type=int, default=7, help="turns of the timing; medians are shown (%(default)s)")
    # fmt: on
    return found


if __name__ == "__main__":
    run(main, parser(), PRESETS, summary, devices=lambda args: max(args.devices, SENDERS))
