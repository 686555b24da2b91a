"""Does a privacy budget cap memorization and curvature, and does curvature stand in for memorization?

    uv run python -m experiments.privacy_links                         (digits, 64 networks an epsilon, 3 seeds)
    uv run python -m experiments.privacy_links --bound tight --memorize rmsprop sgd
    expected: curvature rises with epsilon by RMSprop and falls by SGD; no sample above a bound; Pearson of curvature
              and memorization, means of 10 bins, >= .9; under 5 min on 2 cores
    paper:    CIFAR-100 and ImageNet, figures alone: curvature rises with epsilon (RMSprop) and saturates near 20 to 30;
              mean |memorization| far below 1 - e^-epsilon (ICML 2024, arXiv 2402.18726)

Three links. Curvature and memorization: ordinary networks, each on half of the samples, 10 % wrong labels. Privacy and
curvature: DP-SGD on true labels at several epsilons, by each optimiser. Privacy and memorization: many private networks
on independent random halves; the measured memorization of every sample against the bound of its epsilon. A table that
is planted above the bound shows that violations are found where there are some. links.csv holds memorization and
curvature of every sample.
"""

import dataclasses
import functools
import itertools
from typing import ClassVar, Literal

from experiments.families import classifier
from experiments.harness import runner
from experiments.privacy_links import methods, protocol, report
from subspace_jax.core import curvature


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train privately at several epsilons; compare curvature, memorization and what bounds them."""

    loads: ClassVar[bool] = False
    models: int = 64
    """Networks from which memorization is estimated: ordinary ones, and as many private ones an epsilon."""
    group: int = 64
    """Ordinary networks trained at a time."""
    epsilons: tuple[float, ...] = (0.5, 2.0, 8.0, 30.0)
    """Privacy budgets at which curvature is measured, ascending; without noise is always measured too."""
    memorization_epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 8.0)
    """Privacy budgets at which memorization is measured, ascending."""
    optimizers: tuple[methods.Name, ...] = ("rmsprop", "sgd")
    """Optimisers of the private networks whose curvature is measured."""
    memorize: tuple[methods.Name, ...] = ("rmsprop",)
    """Optimisers of the private networks whose memorization is measured: --models networks an epsilon for each."""
    bound: Literal["paper", "tight"] = "paper"
    """Bound that is drawn, and above which a table is planted: 1 - e^-epsilon, or ours, tanh(epsilon / 2)."""
    private_widths: tuple[int, ...] = (64,)
    """Hidden layers of the private networks."""
    private_network_args: tuple[str, ...] = ("activation=gelu",)
    """Further arguments of the private networks as NAME=VALUE, as --network-args for the ordinary ones."""
    private_batch: int = 150
    """EXPECTED samples per private step."""
    steps: int = 150
    """Private steps."""
    rmsprop_lr: float = 1e-3
    """Learning rate of RMSprop, whose squares decay by .99."""
    sgd_lr: float = 0.5
    """Learning rate of SGD, without momentum."""
    delta: float = 1e-4
    """Chance of no guarantee, below 1 / samples."""
    clip: float = 1.0
    """Norm to which the gradient of every sample is clipped."""
    accountant: Literal["pld", "rdp"] = "pld"
    """By privacy loss distributions, or the looser Renyi bound."""
    microbatch: int | None = None
    """Samples whose gradients are held at a time; all of a step when not given."""
    probes: int = 10
    """Random directions per sample for the curvature by finite differences."""
    step: float = 1e-3
    """Length of the finite difference, in units of the scaled inputs."""
    trace_samples: int = 300
    """Samples, the first ones, of which the exact trace of the Hessian is computed."""
    bins: int = 10
    """Bins of memorization in [0, 1]."""
    score_batch: int = 512
    """Samples per scoring call."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, widths=(16,), epochs=4, batch=32, models=4, group=4, epsilons=(0.5, 8.0),
        memorization_epsilons=(0.5, 8.0), private_widths=(16,), private_batch=40, steps=15, accountant="rdp",
        probes=2, trace_samples=20, bins=5,
    ),
    "cpu": Config(epochs=40, batch=32),
    "study": Config(
        data="mnist", samples=3000, model="lenet5", widths=(), lr=0.01, epochs=40, batch=32, models=32, group=32,
        epsilons=(1.0, 3.0, 8.0, 30.0), memorization_epsilons=(1.0, 8.0), private_widths=(), delta=1e-5,
        trace_samples=64, rmsprop_lr=3e-3, sgd_lr=0.5,  # all three rates: the best by test accuracy, seed 10
    ),
    "gpu": Config(
        seeds=1, data="cifar10", samples=10_000, model="cnn5", network_args=("norm=group",), epochs=40, batch=128,
        models=32, group=16, epsilons=(1.0, 5.0, 10.0, 20.0, 50.0, 100.0), memorization_epsilons=(1.0, 10.0, 50.0),
        private_widths=(), private_network_args=("filters=32,64,64,128", "norm=group", "activation=gelu"),
        private_batch=256, steps=800, delta=1e-5, trace_samples=32, score_batch=1024,
    ),
}  # fmt: skip
FREE = "group", "bound", "score_batch"  # no part of the recipe


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    shared = classifier.setup(config)
    methods.check(config, len(shared.columns["label"]))
    private = methods.private(config, shared)
    found = []
    for seed in runner.seeds(config):
        task = classifier.task(config, shared, seed)
        arrays = {}
        for name in config.optimizers:
            one = functools.partial(protocol.curvatures, config, shared, private, task, seed, name)
            arrays |= runner.stage(config, f"seed{seed}_curvature_{name}", one)
        ordinary = functools.partial(protocol.ordinary, config, shared, task, seed)
        arrays |= runner.stage(config, f"seed{seed}_ordinary", ordinary)
        for name in config.memorize:
            for epsilon in config.memorization_epsilons:
                one = functools.partial(protocol.memorized, config, shared, private, task, seed, name, epsilon)
                arrays |= runner.stage(config, f"seed{seed}_memorization_{name}_{methods.called(epsilon)}", one)
        arrays |= protocol.planted(config, task, seed)
        found.append((seed, task, arrays))
    runs = [report.judge(config, task, arrays) for _, task, arrays in found]
    runs = [{name: run[name] for name in runs[0] if all(name in other for other in runs)} for run in runs]
    figures, std = runner.over_seeds(runs)
    report.write_table(config, found)
    rows = [{"seed": seed} | run for (seed, *_), run in zip(found, runs, strict=True)]
    return runner.Summary(
        figures,
        std,
        runner.judged(claims, config, runs, [[run] for run in runs]),
        report.sections(config, figures, found),
        rows,
    )


def check(config: Config) -> None:
    """Refuse flags that have no use here, and numbers that there cannot be.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    if config.augment:
        raise ValueError("--augment has no use here: a sample enters a private step once, as it is.")
    if config.models % 2 or config.models < 4:
        raise ValueError(f"--models come in pairs, an even number from 4 on; got {config.models}.")
    if config.group < 1:
        raise ValueError(f"--group is the number of networks trained at a time, at least 1; got {config.group}.")
    if config.bins < 3 or config.trace_samples < 1 or config.steps < 1:
        raise ValueError(
            f"--bins are at least 3, --trace-samples and --steps at least 1; got {config.bins}, "
            f"{config.trace_samples} and {config.steps}."
        )
    curvature.check_settings(probes=config.probes, step=config.step)
    for flag, names in (("optimizers", config.optimizers), ("memorize", config.memorize)):
        if not names or len(set(names)) < len(names):
            raise ValueError(f"--{flag} names each optimiser once, at least one; got {' '.join(names) or 'none'}.")
    for flag, budgets, least in (("epsilons", config.epsilons, 2), ("memorization-epsilons",
                                 config.memorization_epsilons, 1)):  # fmt: skip
        if len(budgets) < least or list(budgets) != sorted(set(budgets)):
            said = " ".join(f"{epsilon:g}" for epsilon in budgets) or "none"
            raise ValueError(f"--{flag} ascend, at least {least}; got {said}.")


def claims(config: Config, runs: list[dict[str, float]]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show, by the worst seed where a direction is claimed."""
    if not runner.follows(config, PRESETS["cpu"], *FREE):
        return []
    mean, _ = runner.over_seeds(runs)
    named = [*map(methods.called, config.epsilons), "eps_inf"]

    def least_rise(kind: str, names: list[str]) -> float:
        return min(run[f"{kind}/{b}"] - run[f"{kind}/{a}"] for run in runs for a, b in itertools.pairwise(names))

    falling = [f"sgd/{name}" for name in reversed(named[:3])]
    rising = [f"rmsprop/{name}" for name in named]
    return [
        *(runner.Claim(f"{kind} rises with epsilon by RMSprop, least step", least_rise(kind, rising), 0.0)
          for kind in ("curvature", "trace")),
        runner.Claim("curvature falls by SGD up to eps_8, least step", least_rise("curvature", falling), 0.0),
        runner.Claim("violations, negated", -max(run["violations"] for run in runs), 0.0),
        runner.Claim("violations_tight, negated", -max(run["violations_tight"] for run in runs), 0.0),
        runner.Claim("violations_planted", min(run["violations_planted"] for run in runs), 1.0),
        runner.Claim("memorization_noisy/non_private", mean["memorization_noisy/non_private"], 0.7),
        runner.Claim("pearson/link1_bins", mean["pearson/link1_bins"], 0.9),
    ]  # fmt: skip
