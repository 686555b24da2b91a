"""Does a short code drawn to a simple prior make a network robust, and more than the short code alone?

    uv run python -m experiments.ot_classifier                    (digits: 9 networks, 3 seeds)
    uv run python -m experiments.ot_classifier --latent-noise .3  (noise on the codes; attacks see the mean of draws)
    expected: the codes take the prior's shape (MMD at 16 numbers: sliced distance <= .05 of that without) and keep the
              accuracy; sliced distance at 4 numbers wins .05 back of what 4 numbers cost, yet a network without a
              short code is .08 better than that, and nothing is added to adversarial training
    paper:    robust to strong attacks on several sets, a short code by itself does not help (abstract)

An encoder gives codes of d numbers, one dense layer reads them. none64: 64 numbers, no bottleneck; none16, none4: a
short code alone; gan, mmd, sliced: its distribution is drawn to N(0, I) by a discriminator, by kernels, by sorted
projections; at_: trained on attacked images.
"""

import dataclasses
import functools
import warnings
from typing import ClassVar, Literal

from experiments.families import classifier
from experiments.families.classifier import withstood
from experiments.harness import runner
from experiments.ot_classifier import methods, protocol, report
from subspace_jax.robustness import latent

ENOUGH_DRAWS = 20  # fewer leave the gradient of a random network to chance


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train networks that differ in their code, attack each of them in all ways, and look at the codes."""

    loads: ClassVar[bool] = False

    networks: tuple[str, ...] = (
        "none64", "none16", "none4", "gan4", "gan16", "mmd16", "sliced4", "at_none64", "at_mmd16",
    )  # fmt: skip
    """Networks: none, gan, mmd or sliced and the length of the code, at_ before it for adversarial training."""
    eps: float = 0.1
    """Largest change of a pixel in [0, 1], of the headline figures and of adversarial training."""
    strengths: tuple[float, ...] = (0.025, 0.05, 0.075)
    """Strengths of the curves, beside eps."""
    steps: int = 20
    """Steps of PGD, eps / 8 each."""
    adaptive: int = 0
    """Steps of APGD on cross-entropy and on DLR; none when 0."""
    queries: int = 300
    """Queries of Square; the power figure says whether they are enough."""
    weight: float | None = None
    """Weight of the divergence; .3 for gan, 1 for mmd and sliced when not given."""
    prior_std: float = 1.0
    """Deviation of the prior."""
    latent_noise: float = 0.0
    """Deviation of Gaussian noise on the codes, in training and at test."""
    draws: int = 20
    """Draws of a network with noise at each step of an attack, and for its answer."""
    images: int | None = None
    """Test images attacked, the first ones; all when not given."""
    noise: float = 0.0
    """Share of wrong labels planted."""
    widths: tuple[int, ...] = (256, 128)
    """Hidden layers of the encoder."""
    optimizer: Literal["sgd", "nesterov", "adam"] = "adam"
    """Optimiser; for it and the next flags see training.Recipe."""
    lr: float = 1e-3
    """Learning rate; a quarter of it for the discriminator."""
    weight_decay: float = 0.0
    """L2 penalty."""
    batch: int = 128
    """Samples per step."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, widths=(32,), epochs=10, lr=1e-2, batch=64, steps=3, queries=20, images=60,
        strengths=(0.05,), networks=("none4", "gan4", "mmd4"),
    ),
    "cpu": Config(),
    "gpu": Config(
        data="cifar10", model="resnet18", widths=(), network_args=("width=32",), eps=8 / 255,
        strengths=(2 / 255, 4 / 255), epochs=20, schedule="cosine", augment=True, dtype="bfloat16",
        images=1000, adaptive=50, queries=5000,
        networks=("none256", "none16", "gan16", "at_none256", "at_none16", "at_gan16"),
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    shared = classifier.with_images(config)
    found = {}
    for seed in runner.seeds(config):
        found[seed] = {}
        for name in config.networks:
            train = functools.partial(protocol.trained, config, shared, seed, name)
            arrays = runner.stage(config, f"seed{seed}_{name}_network", train)
            attack = functools.partial(protocol.audited, config, shared, arrays, seed, name)
            found[seed][name] = runner.stage(config, f"seed{seed}_{name}", attack)
    return withstood.summary(config, found, report.judge, report.sections, claims)


def check(config: Config) -> None:
    """Refuse names and settings that there are not.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    for name in config.networks:
        methods.kind(name)
    if not methods.undefended(config.networks) or len(set(config.networks)) < len(config.networks):
        raise ValueError("--networks: each once, and a none<d> among them, on which Square shows its power.")
    classifier.along(config.strengths, config.eps)
    if min(config.steps, config.queries, config.draws) < 1 or config.adaptive < 0:
        raise ValueError("--steps, --queries and --draws are at least 1, --adaptive at least 0.")
    if config.latent_noise < 0 or (config.weight or 0) < 0:
        raise ValueError(f"--latent-noise and --weight are not negative; got {config.latent_noise}, {config.weight}.")
    latent.check_prior(config.prior_std)
    if config.latent_noise and config.draws < ENOUGH_DRAWS:
        warnings.warn(f"--draws {config.draws}: attacks on noise take {ENOUGH_DRAWS} draws or more.", stacklevel=2)


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipe must show on digits."""
    if not runner.follows(config, PRESETS["cpu"]):
        return []
    worst = {name: figures[f"robust/{name}/min"] for name in ("none64", "none4", "sliced4")}
    kept = figures["accuracy/mmd16"] - figures["accuracy/none16"]
    near = figures["sliced_w2/mmd16"] / figures["sliced_w2/none16"]
    return [
        runner.Claim("clean accuracy with MMD above the short code alone", kept, -0.02),
        runner.Claim("minus the largest mean of a coordinate, MMD", -figures["latent_mean_max/mmd16"], -0.4),
        runner.Claim("least deviation of a coordinate, MMD", figures["latent_std_min/mmd16"], 0.55),
        runner.Claim("minus the largest deviation, MMD", -figures["latent_std_max/mmd16"], -1.45),
        runner.Claim("minus sliced distance to the prior, MMD over the short code alone", -near, -0.05),
        runner.Claim(
            "sliced distance above the short code alone, all attacks", worst["sliced4"] - worst["none4"], 0.05
        ),
        runner.Claim("no short code above sliced distance, all attacks", worst["none64"] - worst["sliced4"], 0.05),
    ]
