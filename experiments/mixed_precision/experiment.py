"""Which layers of a binary network deserve more than one bit? Chosen by counting, beside other layers.

    uv run python -m experiments.mixed_precision                       (digits, six convolutions, 5 seeds)
    uv run python -m experiments.mixed_precision --scale least_squares --bits 3
    uv run python -m experiments.mixed_precision --checkpoint runs/mixed_precision/1/checkpoints/xnor
    expected: binary .57, hybrids .65 and more, all in 2 bits .78, full precision .95; 2 min on 2 cores
    paper:    CIFAR-100 and ImageNet, ResNets: more than 10 points over the binary network at up to 94 % of its energy
              efficiency (arXiv 1906.01493, abstract)

A layer is significant where its response needs --delta more principal components than the one before. first_<k>,
last_<k>, random_<k>: as many other layers in the same bits; on digits they are as good as the counted one. Energy is an
estimate from counts of operations and memory accesses, see core.costs.
"""

import dataclasses
import itertools
from typing import Any, Literal

from experiments.families import classifier
from experiments.harness import runner
from experiments.mixed_precision import methods, protocol, report
from subspace_jax.core.binary import MOST


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train binary, hybrid and uniform networks from the same initial values, on the same batches."""

    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    model: str = "hybrid_cnn"
    """hybrid_cnn or hybrid_resnet; --widths of their convolutions, --network-args strides=..."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 3e-3
    """Learning rate, the peak of a schedule."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Schedule of the learning rate over the steps."""
    weight_decay: float = 0.0
    """L2 penalty."""
    steps: int = 700
    """Steps of every network; --epochs is not used."""
    tau: float = 0.99
    """Share of the variance up to which components are counted, in (0, 1)."""
    delta: int = 2
    """Rise of the count that makes a layer significant."""
    bits: tuple[int, ...] = (2, 4)
    """Bits of significant layers, one hybrid each, 2 to 8; all_<k> takes the fewest, the controls the most."""
    scale: Literal["mean", "least_squares"] = "mean"
    """Scale of the weights of a filter, see core.binary."""
    controls: tuple[str, ...] = ("first", "last", "random")
    """Other layers in the same bits: first, last, random."""


PRESETS = {
    "smoke": Config(seeds=1, samples=300, widths=(2, 4, 8), network_args=("strides=[1,2,1]",), steps=6, bits=(2,),
                    controls=("last",)),
    "cpu": Config(seeds=5),
    "gpu": Config(
        data="cifar100", model="hybrid_resnet", augment=True, optimizer="nesterov", lr=0.1, schedule="step",
        weight_decay=1e-5, batch=128, steps=23_400, bits=(2,), controls=("random",),
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    config = classifier.adopt(config) if config.checkpoint else config
    shared = classifier.setup(config)
    found = [protocol.one_seed(config, shared, seed) for seed in runner.seeds(config)]
    energy = {
        one.seed: {name: protocol.spent(config, shared, bits) for name, bits in one.plans.items()} for one in found
    }
    each = [figures_of(config, one, energy[one.seed]) for one in found]
    figures, std = runner.over_seeds(each)
    rows = [
        {"seed": one.seed, "network": name, "bits": list(one.plans[name]), "accuracy": arrays["accuracy"].item()}
        for one in found
        for name, arrays in one.networks.items()
    ]
    sections = report.sections(config, figures, found[0], energy[found[0].seed])
    return runner.Summary(figures, std, runner.judged(claims, config, figures, each), sections, rows)


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    if not 0 < config.tau < 1 or config.delta < 1 or config.steps < 1:
        raise ValueError(
            f"--tau is a share in (0, 1), --delta and --steps are at least 1; got {config.tau}, {config.delta} and "
            f"{config.steps}."
        )
    if not config.bits or not all(2 <= bits <= MOST for bits in config.bits):
        raise ValueError(f"--bits are one or more whole numbers in [2, {MOST}]; got {config.bits}.")
    if unknown := [name for name in config.controls if name not in methods.CONTROLS]:
        raise ValueError(f"--controls are {', '.join(methods.CONTROLS)}; got {unknown[0]!r}.")
    if config.model not in ("hybrid_cnn", "hybrid_resnet"):
        raise ValueError(f"--model is hybrid_cnn or hybrid_resnet, whose layers have bits; got {config.model}.")


def figures_of(config: Config, one: protocol.Found, energy: dict[str, Any]) -> dict[str, float]:
    """The plain numbers of one seed."""
    found = {f"accuracy/{name}": arrays["accuracy"].item() for name, arrays in one.networks.items()}
    for name, spent in energy.items():
        found |= {f"energy_efficiency/{name}": spent.efficiency, f"memory_compression/{name}": spent.memory_compression}
    hybrid = one.plans[f"hybrid_{max(config.bits)}"]
    for (layer, k), bits in zip(one.counts.items(), hybrid[1:], strict=True):
        found |= {f"dims/{layer}": float(k), f"significant/{layer}": float(bits > 1), f"bits/{layer}": float(bits)}
    return found


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    reached = {name: figures[f"accuracy/{name}"] for name in ("xnor", "hybrid_4", "all_2", "full")}
    spared = [figures[f"energy_efficiency/{name}"] for name in ("xnor", "hybrid_2", "all_2", "full")]
    falls = min(before - after for before, after in itertools.pairwise(spared))
    return [
        runner.Claim("accuracy/hybrid_4 above xnor", reached["hybrid_4"] - reached["xnor"], 0.0),
        runner.Claim("accuracy/all_2 above hybrid_4", reached["all_2"] - reached["hybrid_4"], 0.03),
        runner.Claim("accuracy/full above all_2", reached["full"] - reached["all_2"], 0.10),
        runner.Claim("energy_efficiency falls from xnor to hybrid_2, all_2, full", falls, 0.0),
    ]
