"""How much of each layer does a network use, and what does it lose without the rest?

    uv run python -m experiments.utilized_rank                                        (digits, an MLP, 3 seeds)
    uv run python -m experiments.utilized_rank --checkpoint runs/memorization/1       (a trained network)
    expected: at tau .999 the middle layer uses <= .45, parameters <= .75, accuracy within .002; 2 to 3 min on 2 cores
    paper:    ImageNet, mean layer utilization and parameters left: ViT-B/16 35 %, 50 %; ViT-L/16 20 %, 25 %; both lose
              < .2 % accuracy after fine-tuning (arXiv 2407.04797, abstract)

Each layer K becomes P_S K P_T, with the spaces of its inputs and outputs that keep the share tau of their energy on
training samples, then two thin layers where that saves parameters. `edited` holds the projected network of tau .999.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from experiments.families import classifier
from experiments.harness import runner
from experiments.utilized_rank import protocol, report
from subspace_jax import data, nn
from subspace_jax.compression import utilized_rank
from subspace_jax.core import capture


@dataclasses.dataclass(frozen=True)
class Config(classifier.BroughtConfig):
    """Train a classifier, measure the rank that each layer uses, cut to it, factorise, fine-tune."""

    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    widths: tuple[int, ...] = (512, 512)
    """Hidden layers of an mlp or lenet5; give none for other networks."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 1e-3
    """Learning rate, the peak of a schedule."""
    weight_decay: float = 0.0
    """L2 penalty."""
    epochs: int = 90
    """Passes over the training set."""
    tau: tuple[float, ...] = (0.9, 0.99, 0.999, 0.9999)
    """Shares of the energy of inputs and outputs to keep, each in (0, 1]."""
    calibration: int = 5000
    """Number of training samples, the first ones, on which ranks are measured; all if there are fewer."""
    search: bool = True
    """Also search the lowest tau of each layer that keeps the accuracy on the measured samples."""
    max_drop: float = 0.001
    """Accuracy that cutting one layer may cost in the search."""
    finetune_epochs: int = 10
    """Passes over the training set after factorising."""
    finetune_lr: float = 1e-3
    """Learning rate of that fine-tuning, by SGD with momentum .9."""
    multiple: int = 1
    """Round the ranks of factors up to a multiple of this; 8 or 16 suits accelerators."""
    wider: bool = False
    """Train a network of twice the widths as well, to compare its utilization; not with --checkpoint."""


PRESETS = {
    "smoke": Config(seeds=1, samples=300, widths=(24, 24), epochs=5, tau=(0.99, 0.999), finetune_epochs=1, wider=True),
    "cpu": Config(wider=True),
    "study": Config(**classifier.STUDY),
    "gpu": Config(
        data="cifar100", model="resnet18", widths=(), dtype="bfloat16", augment=True, optimizer="sgd", lr=0.1,
        schedule="one_cycle", batch=256, weight_decay=5e-4, epochs=60,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    config = classifier.given(config)
    shared = classifier.setup(config)
    table = layers(config, shared)
    compare = wider(config, shared) if config.wider and not config.checkpoint else None
    found = []
    for seed in runner.seeds(config):
        own = classifier.own(config, shared, seed)
        task = classifier.task(config, own, seed)
        parts = stages(config, own, protocol.case(config, own, table, task, seed))
        if compare:
            parts["wider"] = runner.stage(config, f"seed{seed}_wider", functools.partial(compare, task, seed))
        found.append((seed, parts))
    each = [figures_of(parts) for _, parts in found]
    figures, std = runner.over_seeds(each)
    sections = report.sections(config, figures, table, found[0][1])
    return runner.Summary(figures, std, runner.judged(claims, config, figures, each), sections, rows(found))


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    if not config.tau or not all(0 < tau <= 1 for tau in config.tau):
        raise ValueError(f"--tau is one or more shares of energy in (0, 1]; got {config.tau}.")
    for name in ("calibration", "finetune_epochs", "multiple"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(config, name)}.")
    if config.wider and not (config.widths or config.checkpoint or config.weights):
        raise ValueError("--wider doubles --widths: give them, or --no-wider.")
    if not config.finetune_lr > 0 or not config.max_drop >= 0:
        raise ValueError(
            f"--finetune-lr is above 0 and --max-drop at least 0; got {config.finetune_lr} and {config.max_drop}."
        )


def layers(config: Config, shared: classifier.Setup) -> capture.Layers:
    """The layers of the network, once it is known that there are rows enough for each."""
    samples = min(config.calibration, len(shared.columns["label"]))
    x = jax.ShapeDtypeStruct((samples, *data.inputs(shared.columns).shape[1:]), "float32")
    table = capture.layers(shared.network.apply, jax.eval_shape(shared.network.init, jax.random.key(0), x), x)
    for path, layer in table.items():
        if layer.rows < layer.d_in:
            raise ValueError(
                f"{samples} calibration samples give {path!r} {layer.rows} rows of {layer.d_in} features: give more by "
                "--calibration and --samples, or a smaller network (--widths, --no-wider)."
            )
    return table


def stages(config: Config, shared: classifier.Setup, one: protocol.Case) -> dict[str, dict[str, np.ndarray]]:
    """Every part of one seed by name, each computed once; cuts are the taus, and what the search found."""

    def stage(name: str, compute: Callable, *args: Any) -> dict[str, np.ndarray]:
        return runner.stage(config, f"seed{one.seed}_{name}", functools.partial(compute, config, *args))

    parts = {"use": stage("use", protocol.use, one)}
    cuts: dict[str, Any] = {f"tau_{tau}": tau for tau in config.tau}
    if config.search:
        parts["searched"] = stage("searched", protocol.searched, one)
        energies = zip(one.table, parts["searched"]["energies"].tolist(), strict=True)
        cuts["search"] = {path: energy for path, energy in energies if energy > 0}
    for name, energy in cuts.items():
        parts[name] = stage(name, protocol.cut, shared, one, name, energy)
    return parts


def wider(config: Config, shared: classifier.Setup) -> Callable:
    """(task, seed) -> mean utilization of a network of twice the widths, by the same recipe."""
    double = tuple(2 * width for width in config.widths)
    config = dataclasses.replace(config, widths=double, workdir=f"{config.workdir}/wider")
    network = nn.build(config.model, **classifier.network_arguments(config, shared.classes))
    shared = shared._replace(network=network)
    table = layers(config, shared)

    def measure(task: classifier.Task, seed: int) -> dict[str, float]:
        one = protocol.case(config, shared, table, task, seed)
        used = utilized_rank.utilization(table, one.net.variables, one.solve()[0], energy=protocol.REFERENCE)
        return {"utilization/mean_wider": utilized_rank.mean_utilization(used), "test_accuracy/wider": one.before}

    return measure


def figures_of(parts: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """The plain numbers of one seed; seconds are means over the cuts."""
    values: dict[str, list[float]] = {}
    for part in parts.values():
        for name, value in part.items():
            if np.ndim(value) == 0:
                values.setdefault(name, []).append(float(value))
    return {name: float(np.mean(value)) for name, value in values.items()}


def rows(found: list) -> list[dict[str, Any]]:
    """One row a seed and cut."""
    return [
        {"seed": seed, "cut": name} | figures_of({name: {k: v for k, v in part.items() if k.endswith(f"/{name}")}})
        for seed, parts in found
        for name, part in parts.items()
        if "shares" in part
    ]


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the preset must show; other data, networks or taus: nothing is claimed."""
    if config.preset in ("smoke", "study") or not runner.follows(config, PRESETS[config.preset], "preset"):
        return []
    if config.preset == "gpu":
        tuned = figures["accuracy_change_finetuned/search"]
        margin = figures["accuracy_change/search"] - figures["accuracy_change/plain_svd_search"]
        return [
            runner.Claim("minus parameters_ratio/search", -figures["parameters_ratio/search"], -0.6),
            runner.Claim("accuracy_change_finetuned/search", tuned, -0.005),
            runner.Claim("search above plain SVD at its ranks", margin, 0.05),
        ]
    narrower = figures["utilization/mean"] - figures["utilization/mean_wider"]
    return [
        runner.Claim("minus utilization/dense1/kernel", -figures["utilization/dense1/kernel"], -0.45),
        runner.Claim("minus parameters_ratio/tau_0.999", -figures["parameters_ratio/tau_0.999"], -0.75),
        runner.Claim("minus |accuracy_change/tau_0.999|", -abs(figures["accuracy_change/tau_0.999"]), -0.003),
        runner.Claim("minus parameters_ratio/tau_0.99", -figures["parameters_ratio/tau_0.99"], -0.3),
        runner.Claim("accuracy_change/tau_0.99", figures["accuracy_change/tau_0.99"], -0.015),
        runner.Claim("utilization/mean above that of twice the widths", narrower, 0.0),
    ]
