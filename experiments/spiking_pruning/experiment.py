"""How many channels, time steps and bits does a spiking network need, and was the cut worth it?

    uv run python -m experiments.spiking_pruning                            (digits, two convolutions, 5 seeds)
    uv run python -m experiments.spiking_pruning --tau 0.999 0.9 --timesteps 16 8 4 2
    expected: half of the parameters cost 3 points, five bits nothing, two bits all; four steps need tuning, in stages
              or at once; controls of the same size are as good or better; no gain in robustness; 10 min on 2 cores
    paper:    CIFAR-10, VGG9: .9010 at 100 steps; pruned, .8904 with .07 of the parameters (Chowdhury, Garg, Roy, 2021)

base: the classifier, converted and tuned through time on Poisson spikes. tau_<t>: convolutions as wide as their
potentials have significant dimensions, trained from fresh values by the same recipe, classifier first. Controls of the
same size: uniform_<t>, one factor on all widths; random_<t>, magnitude_<t> and pca_<t> start from channels of the
classifier, or from its projection. annealed_<T>: the first design, through --timesteps one by one; direct_<T>: from its
classifier for as many epochs; untuned_<T>: as it is. energy_ratio: a classifier over the additions that its own spikes
make; energy_ratio_unpruned: the full classifier over them.
"""

import dataclasses
import itertools
from typing import Literal

from experiments.families import spiking
from experiments.harness import runner
from experiments.spiking_pruning import methods, protocol, report


@dataclasses.dataclass(frozen=True)
class Config(spiking.Config):
    """Cut the channels, time steps and bits of a spiking network, each beside its controls."""

    model: str = "cnn"
    """Network: cnn, cnn2 or vgg of nn.build, without bias and norm, with average pooling."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of the convolutions; their dense layers stay as they are."""
    network_args: tuple[str, ...] = ("use_bias=false", 'pool="average"', "pools=[1,2]", "dense=[64]")
    """Further arguments of the network as NAME=VALUE."""
    epochs: int = 6
    """Passes for each spiking network at the first of --timesteps."""
    order: Literal["spike_first", "update_first"] = "update_first"
    """Whether a neuron fires before the drive of its step arrives, one step later, or after it."""
    tau: tuple[float, ...] = (0.999, 0.99)
    """Shares of the variance of potentials, falling; the first design is the one whose time steps are cut."""
    timesteps: tuple[int, ...] = (16, 8, 4)
    """Time steps: those of all networks, then those to which the first design is annealed."""
    stage_epochs: int = 4
    """Passes of each further one of --timesteps."""
    bits: tuple[int, ...] = (8, 6, 5, 4, 3, 2)
    """Bits of the weights of the base network, without tuning."""
    pixel_noise: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Deviations of normal noise on test images in [-1, 1], before they become spikes."""
    controls: tuple[str, ...] = ("uniform", "random", "magnitude", "untrained")
    """What stands beside the designs: uniform, random, magnitude, pca, untrained."""
    accumulate: Literal["drive", "leaky", "membrane"] = "drive"
    """Which potential is counted: drive without reset and leak, the leaky membrane without reset, the membrane."""
    counted: int = 1000
    """Training samples whose potentials are counted."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=256, widths=(12, 6), network_args=("use_bias=false", 'pool="average"', "pools=[1,2]"),
        ann_epochs=12, epochs=1, stage_epochs=1, tau=(0.999,), timesteps=(4, 2), bits=(5, 2), pixel_noise=(0.5,),
        controls=("magnitude", "untrained"), calibration=128, counted=128,
    ),
    "cpu": Config(seeds=5),
    "gpu": Config(
        data="cifar10", model="vgg", widths=(64, 128, 128, 256, 256, 512, 512, 512),
        network_args=("use_bias=false", 'norm="none"', 'pool="average"', "pools=[1,3,5,8]"), dtype="bfloat16",
        ann_epochs=30, epochs=5, stage_epochs=2, lr=5e-4, tuning_lr=1e-4, tuning_decay=5e-4, dropout=0.2,
        tau=(0.999,), timesteps=(50, 35, 25), controls=("uniform", "untrained"), calibration=128, seeds=1,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    if config.checkpoint:
        config = spiking.adopt(config, PRESETS[config.preset])
    shared = protocol.setup(config)
    names = protocol.layers(config, shared)
    found = [protocol.one_seed(config, shared, seed) for seed in runner.seeds(config)]
    rows = [{"seed": seed} | figures_of(one) for seed, one in zip(runner.seeds(config), found, strict=True)]
    each = [figures_of(one) for one in found]
    figures, std = runner.over_seeds(each)
    return runner.Summary(
        figures,
        std,
        runner.judged(claims, config, figures, each),
        report.sections(config, figures, names, found[0]),
        rows,
    )


def figures_of(one: protocol.Arrays) -> dict[str, float]:
    """The plain numbers of one seed, layers without the name of their leaf."""
    kept = ("accuracy", "energy_ratio", "parameters_ratio/", "spikes", "rate/", "threshold/", "dims", "rank/")
    return {key.replace("/kernel", ""): float(value) for key, value in one.items() if key.startswith(kept)}


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    spiking.check(config)
    if config.model not in ("cnn", "cnn2", "vgg"):
        raise ValueError(f"--model is cnn, cnn2 or vgg, whose convolutions are narrowed; got {config.model}.")
    if not config.tau or not all(0 < tau <= 1 for tau in config.tau) or not falls(config.tau):
        raise ValueError(f"--tau are shares in (0, 1], falling; got {list(config.tau)}.")
    if not config.timesteps or config.timesteps[-1] < 1 or not falls(config.timesteps):
        raise ValueError(f"--timesteps are time steps, falling, at least 1; got {list(config.timesteps)}.")
    if bad := [bits for bits in config.bits if not 2 <= bits <= 32]:
        raise ValueError(f"--bits are in [2, 32]; got {bad[0]}.")
    if unknown := sorted(set(config.controls) - set(methods.CONTROLS)):
        raise ValueError(f"--controls are some of {', '.join(methods.CONTROLS)}; got {unknown}.")
    if min(config.stage_epochs, config.counted, *config.pixel_noise, 1) <= 0:
        raise ValueError("--stage-epochs, --counted and --pixel-noise are above 0.")
    if config.augment:
        raise ValueError("--augment: spiking networks are tuned on the images as they are; leave it out.")


def falls(values: tuple[float, ...]) -> bool:
    """Whether each is below the one before."""
    return all(less < more for more, less in itertools.pairwise(values))


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    accuracy = {key.removeprefix("accuracy/"): value for key, value in figures.items() if key.startswith("accuracy/")}
    layers = [key.removesuffix("/tau_0.99") for key in figures if key.startswith("dims/") and key.endswith("tau_0.99")]
    least = min(figures[f"{layer}/tau_0.999"] - figures[f"{layer}/tau_0.99"] for layer in layers)
    return [
        runner.Claim("accuracy/tau_0.999 above base", accuracy["tau_0.999"] - accuracy["base"], -0.07),
        runner.Claim("accuracy/tau_0.99 above base", accuracy["tau_0.99"] - accuracy["base"], -0.07),
        runner.Claim("dimensions lost from tau .999 to .99, in the layer that loses least", least, 1.0),
        runner.Claim("accuracy/bits_5 above base", accuracy["bits_5"] - accuracy["base"], -0.015),
        runner.Claim("accuracy/base above bits_2", accuracy["base"] - accuracy["bits_2"], 0.4),
        runner.Claim("accuracy/annealed_4 above untuned_4", accuracy["annealed_4"] - accuracy["untuned_4"], 0.03),
    ]
