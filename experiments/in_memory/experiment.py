"""How accurate is a trained network inside an analog memory, chip by chip, and what does it cost there?

    uv run python -m experiments.in_memory                        (digits, two convolutions, 3 seeds, 20 chips each)
    uv run python -m experiments.in_memory --sigma 1.5 --chips 100
    uv run python -m experiments.in_memory --checkpoint DIR       (the network of any other experiment)
    expected: four bits cost at most .02, the chips' converters at most .03 more; with five times their deviation
              accuracy falls by .1 and more; by the simulated circuit it is .88 or more with a calibrated range, and
              chance with a range up to the largest products; a minute on 2 cores
    paper:    CIFAR-10, VGG: .9118 float, .8913 in four bits, .8857 over 1,000 chips (Ali et al., IEEE TCAS-I 2020)

Weights and inputs become sign and magnitude in few bits; each sum of --rows products passes a converter of few bits
whose offset differs from chip to chip. app: with the deviation --sigma; app_sigma_3: with a deviation of 3 steps, a
stress that must be seen. circuit: groups of products as they were simulated, not quite linear and with offsets.
circuit_no_adc has no converter, circuit_ideal_table neither that nor what is not linear; circuit_calibrated takes the
range of converters from training images, circuit_full_range from the largest products; circuit_noise adds the noise of
cells and circuit_6_bits two bits to the calibrated one. system: delay and energy of LeNet-5 and of this network on a
digital processor, over those in the memory.
"""

import dataclasses
from typing import Literal

from experiments.families import classifier
from experiments.harness import runner
from experiments.in_memory import protocol, report
from subspace_jax.hardware import circuit, sram


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train a classifier, run it on many chips, count what it costs."""

    level: Literal["app", "circuit"] = "circuit"
    """How deep: app: sums and converters of chips; circuit: the simulated products too."""
    bits: int = 4
    """Bits of the magnitude of weights and inputs; the sign is one more."""
    adc_bits: int = 4
    """Bits of a converter."""
    rows: int = 10
    """Products summed before a conversion, 1 to 25."""
    sigma: float = 0.6
    """Deviation of a conversion from chip to chip, in steps of the converter."""
    table: Literal["mc_mean", "nominal_fit", "ideal"] = "mc_mean"
    """Products of the circuit: as simulated with process variation, linear with an offset, linear."""
    circuit_images: int | None = None
    """Test images for the circuit, the first ones; all when not given."""
    chips: int = 20
    """Chips of each seed."""
    calibration: int = 1000
    """Training images, the first ones, from which ranges are measured."""
    swept_sigmas: tuple[float, ...] = (0.0, 0.3, 1.0, 1.5, 2.0)
    """Further deviations, drawn beside --sigma and 3."""
    swept_bits: tuple[int, ...] = (2, 3, 5, 6, 8)
    """Further bits of a converter, drawn beside --adc-bits."""
    noise: float = 0.0
    """Share of labels replaced by wrong ones."""
    model: str = "cnn2"
    """Network: any of nn.build, with biases."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser of the classifier."""
    lr: float = 1e-3
    """Learning rate of the classifier."""
    weight_decay: float = 0.0
    """L2 penalty of the classifier."""
    epochs: int = 30
    """Passes over the training set."""
    batch: int = 32
    """Samples per step."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=256, widths=(4, 8), network_args=("dense=[16]",), lr=3e-3, epochs=8, chips=3, calibration=64,
        swept_sigmas=(), swept_bits=(2,), circuit_images=100,
    ),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", model="vgg", widths=(64, 64, 128, 128, 256, 256, 256),
        network_args=('norm="none"', "pools=[2,4,7]", "dense=[4096,4096]"), augment=True, lr=1e-4, schedule="step",
        epochs=60, chips=100, circuit_images=500, seeds=1,
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    if config.checkpoint:
        config = classifier.adopt(config)
    check(config)
    shared = classifier.setup(config)
    found = [protocol.one_seed(config, shared, seed) for seed in runner.seeds(config)]
    each = [figures_of(one) for one in found]
    figures, std = runner.over_seeds(each)
    rows = [{"seed": seed} | figures_of(one) for seed, one in zip(runner.seeds(config), found, strict=True)]
    return runner.Summary(
        figures, std, runner.judged(claims, config, figures, each), report.sections(config, figures, found), rows
    )


def figures_of(one: protocol.Arrays) -> dict[str, float]:
    """The plain numbers of one seed."""
    kept = "accuracy/", "chip_std/", "chip_min/", "system/"
    return {key: float(value) for key, value in one.items() if key.startswith(kept)}


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    if config.chips < 1 or config.calibration < 1:
        raise ValueError(f"--chips and --calibration are at least 1; got {config.chips} and {config.calibration}.")
    for sigma in (config.sigma, *config.swept_sigmas):
        sram.check(protocol.design(config)._replace(sigma=sigma))
    for bits in config.swept_bits:
        sram.check(protocol.design(config)._replace(adc_bits=bits))
    if config.level == "circuit":
        if config.circuit_images is not None and config.circuit_images < 1:
            raise ValueError(f"--circuit-images is at least 1; got {config.circuit_images}.")
        for own in protocol.circuits(config).values():
            circuit.check(own)


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    exact, quantized, app = (figures[f"accuracy/{name}"] for name in ("float", "quantized", "app"))
    ratios = {kind: figures[f"system/lenet5/{kind}_ratio"] for kind in ("delay", "energy")}
    return [
        runner.Claim("accuracy/quantized above float", quantized - exact, -0.02),
        runner.Claim("accuracy/app above quantized", app - quantized, -0.03),
        runner.Claim("accuracy/app above app_sigma_3", app - figures["accuracy/app_sigma_3"], 0.1),
        runner.Claim("accuracy/circuit_calibrated", figures["accuracy/circuit_calibrated"], 0.88),
        runner.Claim("minus accuracy/circuit_full_range", -figures["accuracy/circuit_full_range"], -0.4),
        runner.Claim("minus |delay_ratio of lenet5 - 9.4175|", -abs(ratios["delay"] - 9.4175), -1e-3),
        runner.Claim("minus |energy_ratio of lenet5 - 6.2414|", -abs(ratios["energy"] - 6.2414), -1e-3),
    ]
