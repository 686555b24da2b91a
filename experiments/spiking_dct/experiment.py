"""Does an image reach a spiking network better by frequencies, by chance, or as it is? Accuracy and energy.

    uv run python -m experiments.spiking_dct                                    (digits, two convolutions, 5 seeds)
    uv run python -m experiments.spiking_dct --encoder dct poisson --timesteps 32
    expected: tuned at 16 steps the frequencies reach .82 or more; four steps of the image itself, or of Poisson spikes,
              are more accurate; by exact count 16 Poisson steps cost more than the classifier; 5 min on 2 cores
    paper:    CIFAR-10, VGG9, 48 steps: .8994 (Garg, Chowdhury, Roy, ICCV 2021)

A trained classifier becomes a spiking network with its weights; thresholds come from the drive of 512 training images;
then all weights are tuned through time. energy_ratio: energy of the classifier over that of the additions that spikes
make, counted one by one; energy_ratio_rate: by the papers' formula. Pixels of digits are nearly binary: the paper's
order of the encoders belongs to natural images and is not claimed here.
"""

import dataclasses
import itertools

from experiments.families import spiking
from experiments.harness import runner
from experiments.spiking_dct import protocol, report


@dataclasses.dataclass(frozen=True)
class Config(spiking.Config):
    """Convert a classifier into a spiking network, tune it with each encoder, count its additions."""

    model: str = "cnn2"
    """Network: mlp, cnn, cnn2 or vgg of nn.build, without bias and norm, with average pooling."""
    encoder: tuple[str, ...] = ("dct", "poisson", "direct")
    """How images become spikes: dct, poisson, direct."""
    timesteps: int = 16
    """Steps of dct and poisson in --order."""
    block: int = 4
    """Side of a block of the DCT."""
    stride: int = 4
    """Pixels between blocks; below --block they overlap and all networks read the larger image of the blocks."""
    per_batch: bool = False
    """Thresholds of the DCT's accumulators from each batch, as the authors' code has it, not once from training."""
    keep: tuple[int, ...] = (16, 14, 12, 10, 8, 6)
    """Frequencies to keep, each at as many steps, without tuning."""
    swept: tuple[int, ...] = (8, 4)
    """Frequencies to keep and sweep for --timesteps steps, without tuning."""
    budgets: tuple[str, ...] = ("dct_4", "dct_8", "dct_16", "direct_4", "poisson_4", "poisson_16")
    """ENCODER_STEPS, each tuned with update_first."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=256, network_args=("use_bias=false", 'pool="average"', "dense=[16]"), widths=(4, 8),
        ann_epochs=12, epochs=1, timesteps=8, keep=(8, 6), swept=(4,), budgets=("direct_4",), calibration=128,
    ),
    "cpu": Config(seeds=5),
    "gpu": Config(
        data="cifar10", model="vgg", widths=(64, 128, 128, 256, 256, 512, 512),
        network_args=("use_bias=false", 'norm="none"', 'pool="average"', "pools=[1,3,5,7]", "dense=[4096,4096]"),
        dtype="bfloat16", stride=2, ann_epochs=30, epochs=6, lr=5e-4, tuning_lr=1e-4, tuning_decay=5e-4, dropout=0.2,
        timesteps=48, keep=(), swept=(), budgets=("direct_4", "direct_16", "direct_48"), calibration=128, seeds=1,
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
    kept = ("accuracy/", "energy_ratio", "spikes_per_pixel/", "rate/", "threshold/")
    return {key.removesuffix("/kernel"): float(value) for key, value in one.items() if key.startswith(kept)}


def check(config: Config) -> None:
    """Refuse before anything is trained what would fail after it."""
    spiking.check(config)
    if not config.encoder or (unknown := set(config.encoder) - set(spiking.ENCODERS)):
        named = sorted(unknown) if config.encoder else []
        raise ValueError(f"--encoder is one or more of {', '.join(spiking.ENCODERS)}; got {named}.")
    for name in config.budgets:
        encoder, _, steps = name.partition("_")
        if encoder not in spiking.ENCODERS or not steps.isdigit() or int(steps) < 1:
            raise ValueError(f"--budgets are ENCODER_STEPS, such as dct_4; got {name!r}.")
    most = config.block**2
    if bad := [keep for keep in (*config.keep, *config.swept) if not 1 <= keep <= most]:
        raise ValueError(f"--keep and --swept are in [1, {most}], the frequencies of a block; got {bad[0]}.")
    if config.augment:
        raise ValueError("--augment moves pixels across the blocks of the DCT: leave it out.")


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the recipe of the cpu preset on digits must show; other recipes claim nothing."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    accuracy = {key.removeprefix("accuracy/"): value for key, value in figures.items() if key.startswith("accuracy/")}
    kept = [accuracy[f"keep_{keep}"] for keep in config.keep]
    falls = min(more - less for more, less in itertools.pairwise(kept))
    spikes = figures["spikes_per_pixel/dct"] / figures["spikes_per_pixel/poisson"]
    return [
        runner.Claim("accuracy/ann", accuracy["ann"], 0.955),
        runner.Claim("accuracy/dct", accuracy["dct"], 0.82),
        runner.Claim("accuracy/dct above its conversion", accuracy["dct"] - accuracy["dct_conversion"], 0.1),
        runner.Claim("accuracy never rises as frequencies go", falls, -0.02),
        runner.Claim("accuracy/keep_8_at_16 above keep_8", accuracy["keep_8_at_16"] - accuracy["keep_8"], 0.05),
        runner.Claim("minus spikes per pixel, dct over poisson", -spikes, -0.4),
        runner.Claim("energy_ratio/dct", figures["energy_ratio/dct"], 1.5),
        runner.Claim("minus energy_ratio/poisson_16", -figures["energy_ratio/poisson_16"], -1.0),
    ]
