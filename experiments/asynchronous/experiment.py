"""What does training gain without barriers? NOTIFY-ACK, bounded staleness and free running beside synchronous SGD.

    uv run python -m experiments.asynchronous                    (digits, 16 workers on a ring, by three kinds of clock)
    uv run python -m experiments.asynchronous --runner simulate --graph regular --degree 4 --latency .1
    uv run python -m experiments.asynchronous --runner processes --processes 4
    expected: to .90 in 1.3 times less time by NOTIFY-ACK where times vary, no gain beside a worker that is 8 times
              slower; 4 times less by free running there, at a lower accuracy for equal samples; 3 to 5 min on 2 cores
    paper:    2-10 times faster convergence, up to 10 times less traffic (arXiv 1612.08608, abstract)

Settings: jitter (compute times are log-normal, mean 1), straggler (and worker 0 is --straggler times slower). All
methods run to the time at which bsp_<graph> has done --iterations. Accuracy is that of the mean of all models: of one
iteration, once the last worker has done it, where workers keep to iterations, else of what they hold at a time.
max_difference: the largest distance of a parameter from synchronous gossip, after a run by the real clock. There the
workers sleep where they would compute: they are more than the cores.
"""

import dataclasses
import functools
from typing import ClassVar, Literal

from experiments.asynchronous import methods, protocol, report
from experiments.harness import runner


@dataclasses.dataclass(frozen=True)
class Config(runner.Config):
    """Train one network by workers that average over a graph, with and without waiting."""

    loads: ClassVar[bool] = False
    samples: int | None = None
    """Number of training samples to use, the first ones; all when not given."""
    model: str = "mlp"
    """Network: any of nn.build without running statistics."""
    widths: tuple[int, ...] = (64,)
    """Hidden layers of an mlp."""
    batch: int = 32
    """Samples of a step, drawn with replacement from the worker's own."""
    lr: float = 0.1
    """Learning rate."""
    workers: int = 16
    """Number of workers in the training study."""
    graph: Literal["ring", "regular", "exponential", "full"] = "ring"
    """Over which workers average; regular: the best of 200 random graphs with --degree neighbours."""
    degree: int = 4
    """Neighbours of a worker in regular graphs."""
    policy: tuple[str, ...] = ("all",)
    """Policies beside bsp: notify_ack, asynchronous, ssp, bsp_all_reduce; all: each of them."""
    staleness: int = 4
    """Iterations that a worker of ssp may be ahead of the slowest when it starts one."""
    sigma: float = 0.5
    """Deviation of the logarithm of compute times."""
    straggler: float = 8.0
    """Factor of the compute times of worker 0 in the setting straggler."""
    iterations: int = 400
    """Iterations of bsp, whose end time is that of all."""
    every: int = 5
    """Iterations between two looks at the accuracy; asynchronous and ssp are looked at 120 times."""
    target: float = 0.9
    """Accuracy whose time is taken."""
    runner: Literal["simulate", "threads", "processes", "all"] = "all"
    """Clock: a simulated one, a thread or a process for each worker."""
    threads: tuple[int, ...] = (4, 8, 16)
    """Workers of the runs in threads."""
    processes: int = 4
    """Workers of the run in processes, one each; 0: none."""
    wall_iterations: int = 60
    """Iterations of the runs by the real clock."""
    compute_ms: float = 10.0
    """Mean time of a step by the real clock, slept, in milliseconds."""
    latency: float = 0.0
    """Of a simulated message, in mean compute times."""
    bandwidth: float = 0.0
    """Of a worker's simulated link, in models per mean compute time; 0: messages take the latency alone."""
    timeout: float = 20.0
    """Longest wait of a worker by the real clock, in seconds."""
    draws: int = 2000
    """Iterations over which makespans are compared without training, twice a seed."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=400, widths=(16,), workers=4, iterations=30, every=10, straggler=4.0, target=0.2,
        threads=(4,), processes=0, wall_iterations=10, compute_ms=1.0, draws=50,
    ),
    "cpu": Config(),
    "gpu": Config(
        data="mnist", widths=(256, 256), workers=32, batch=64, iterations=600, runner="simulate", seeds=1
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run the parts that were asked for and put the report together."""
    methods.check(config)
    shared = protocol.setup(config)
    compared = methods.methods(config) if config.runner in ("simulate", "all") else {}
    runs = {seed: one_seed(config, shared, compared, seed) for seed in runner.seeds(config)}
    each = [report.figures(config, compared, runs[seed]) for seed in runs]
    finite = [name for name in each[0] if all(abs(one[name]) < float("inf") for one in each)]
    own = [{name: one[name] for name in finite} for one in each]
    figures, std = runner.over_seeds(own)
    own = [one | report.speedups(config, compared, one) for one in own]
    figures |= report.speedups(config, compared, figures)
    rows = [{"seed": seed} | {name: one[name] for name in finite} for seed, one in zip(runs, each, strict=True)]
    sections = report.sections(config, compared, figures, runs[config.seed], protocol.graphs(config))
    return runner.Summary(figures, std, runner.judged(claims, config, figures, own), sections, rows)


def one_seed(config: Config, shared: protocol.Setup, compared: dict[str, methods.Method], seed: int) -> report.Parts:
    """Everything that was computed for one seed, by part; read back where it is there."""
    parts: report.Parts = {}
    if compared:
        parts["makespan"] = runner.stage(config, f"seed{seed}_makespan", lambda: protocol.makespans(config, seed))
    for setting in protocol.SETTINGS if compared else ():
        for name, method in compared.items():
            trained = functools.partial(protocol.trained, config, shared, seed, setting, method)
            parts[f"{name}/{setting}"] = runner.stage(config, f"seed{seed}_{setting}_{name}", trained)
    for kind, count in methods.clocks(config):
        timed = functools.partial(protocol.timed, config, shared, seed, kind, count)
        parts[f"{kind}_{count}"] = runner.stage(config, f"seed{seed}_{kind}_{count}", timed)
    return parts


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"], "timeout"):
        return []
    value = functools.partial(_value, figures)
    full = [abs(v - 1) for name, v in figures.items() if name.startswith("speedup_makespan/full_")]
    end, equal = (
        value(f"{kind}/asynchronous_ring/straggler") - value(f"{kind}/bsp_ring/straggler")
        for kind in ("accuracy_end", "accuracy_equal_samples")
    )
    to_target = {name: value(f"speedup_to_target/{name}") for name in (
        "notify_ack_ring/jitter", "notify_ack_ring/straggler", "asynchronous_ring/straggler", "ssp_ring/straggler",
    )}  # fmt: skip
    ring = value("speedup_makespan/ring_16/sigma_0.5")
    return [
        runner.Claim("minus oracle_difference", -value("oracle_difference"), -1e-9),
        runner.Claim("minus |speedup_makespan/ring_16/sigma_0.5 - 1.33|", -abs(ring - 1.33), -0.05),
        runner.Claim("minus |speedup_makespan/full - 1|, largest", -max(full), 0.0),
        runner.Claim("speedup_to_target/notify_ack_ring/jitter", to_target["notify_ack_ring/jitter"], 1.25),
        runner.Claim("minus speedup_to_target/notify_ack_ring/straggler", -to_target["notify_ack_ring/straggler"],
                     -1.05),
        runner.Claim("speedup_to_target/asynchronous_ring/straggler", to_target["asynchronous_ring/straggler"], 3.0),
        runner.Claim("minus speedup_to_target/ssp_ring/straggler", -to_target["ssp_ring/straggler"], -0.95),
        runner.Claim("accuracy_end of asynchronous_ring above bsp_ring, straggler", end, 0.01),
        runner.Claim("accuracy_equal_samples of bsp_ring above asynchronous_ring, straggler", -equal, 0.008),
        runner.Claim("minus max_difference/threads", -value("max_difference/threads"), 0.0),
        runner.Claim("minus max_difference/processes", -value("max_difference/processes"), 0.0),
        runner.Claim("speedup_wall/threads_16", value("speedup_wall/threads_16"), 1.1),
        runner.Claim("published: notify_ack_ring 2 times faster beside a straggler",
                     to_target["notify_ack_ring/straggler"], 2.0),
    ]  # fmt: skip


def _value(figures: dict[str, float], name: str) -> float:
    """A figure; NaN, with which no claim holds, where the target was never reached."""
    return figures.get(name, float("nan"))
