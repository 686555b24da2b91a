"""Do adversarial examples carry over between networks, and is an ensemble stronger than its best member?

    uv run python -m experiments.transferability                  (digits: 9 networks, 3 ensembles, 3 seeds)
    uv run python -m experiments.transferability --checkpoint DIR   (one's own network beside them)
    uv run python -m experiments.transferability --preset study --data-dir DIR    (MNIST: small convolutional networks)
    expected: an ensemble with quantised members >= .15 above one of full precision, yet .02 below its own two-bit
              member; few examples carry over to two bits, mostly because these are hard to break at all
    paper:    input quantisation hampers transfer strongly, and designed ensembles beat any single network (abstract)

Networks are named by what they read: fp0, fp1, ... the pixels, from other seeds; q4, q2, q1 pixels of so many bits; ht
a halftone; adam is trained by Adam; any name of nn.build is another architecture. Every accuracy "min" is of images
that are right under ALL attacks. On nearly binary images quantisation is real robustness up to the width of a bin;
photographs have it not: see the share of changeable pixels.
"""

import dataclasses
import functools
from typing import Literal

from experiments.families import classifier
from experiments.families.classifier import withstood
from experiments.harness import runner
from experiments.transferability import methods, protocol, report
from subspace_jax.core.attacks.attack import check_eps


@dataclasses.dataclass(frozen=True)
class Config(classifier.Config):
    """Train networks that see the same images in different ways, attack each of them, and vote."""

    models: tuple[str, ...] = ("fp0", "fp1", "fp2", "fp3", "q4", "q2", "q1", "ht", "adam")
    """Networks: fp<number>, q<bits>, ht, adam, or a name of nn.build."""
    eps: float = 0.1
    """Largest change of a pixel in [0, 1], of the headline figures."""
    strengths: tuple[float, ...] = (0.025, 0.05, 0.075, 0.1)
    """Strengths that are tried and to which the saturating form is fitted; eps is one of them."""
    steps: int = 20
    """Steps of PGD, eps / 8 each."""
    queries: int = 500
    """Queries of Square; the power figure says whether they are enough."""
    size: int = 3
    """Members of the designed ensemble."""
    delta: float = 0.03
    """How far below the best clean accuracy a member may be."""
    quantize_range: Literal["fixed", "batch"] = "fixed"
    """Range of the quantised inputs: of the data set, or of the batch, as the authors have it."""
    tie: Literal["softmax", "random"] = "softmax"
    """Who decides a vote without a majority: the summed probabilities, or a member at random where no two agree."""
    scale_logits: float = 30.0
    """Factor on the logits of one member, to show which attack a sure member stops."""
    images: int | None = None
    """Test images attacked, the first ones; all when not given."""
    noise: float = 0.0
    """Share of wrong labels planted."""


PRESETS = {
    "smoke": Config(
        seeds=1, samples=300, widths=(32,), epochs=15, models=("fp0", "fp1", "fp2", "q2", "q1", "ht"), steps=4,
        queries=20, images=60,
    ),
    "cpu": Config(),
    "study": Config(
        data="mnist", samples=8000, images=300, model="cnn2", epochs=3, optimizer="adam", lr=1e-3, weight_decay=0.0,
        network_args=("strides=[2]", "pools=[]", "init=lecun"), models=("fp0", "fp1", "fp2", "q4", "q2", "q1"),
    ),
    "gpu": Config(
        seeds=3, data="cifar10", model="resnet18", network_args=("width=32",), epochs=20, batch=128, lr=0.1,
        schedule="one_cycle", weight_decay=5e-4, augment=True, dtype="bfloat16", eps=8 / 255,
        strengths=(2 / 255, 4 / 255, 6 / 255, 8 / 255), queries=2000, images=2000,
        models=("fp0", "fp1", "fp2", "fp3", "q4", "q2", "q1", "ht", "vgg11"),
    ),
}  # fmt: skip


def main(config: Config) -> runner.Summary:
    """Run all seeds and put the report together."""
    check(config)
    shared = classifier.with_images(config)
    found = {}
    for seed in runner.seeds(config):
        zoo = protocol.networks(config, shared, seed)
        one_seed = functools.partial(protocol.one_seed, config, shared, zoo, seed)
        found[seed] = runner.stage(config, f"seed{seed}_attacks", one_seed)
    return withstood.summary(config, found, report.judge, report.sections, claims)


def check(config: Config) -> None:
    """Refuse names and strengths that there are not.

    Raises:
      ValueError: names the flag, its value and what it may be.
    """
    for name in config.models:
        methods.kind(name)
    if len(set(config.models)) != len(config.models) or len(config.models) < 2:
        raise ValueError(f"--models are 2 networks or more, each named once; got {' '.join(config.models)}.")
    if config.eps not in config.strengths or len(set(config.strengths)) < 3:
        raise ValueError(f"--strengths are 3 or more, {config.eps} (--eps) among them; got {config.strengths}.")
    for eps in config.strengths:
        check_eps(eps, "linf", 1)
    if min(config.strengths) <= 0 or config.steps < 1 or config.queries < 1:
        raise ValueError("--strengths, --steps and --queries are positive.")
    if not 2 <= config.size <= len(config.models):
        raise ValueError(f"--size is 2 to {len(config.models)}, the number of --models; got {config.size}.")


def claims(config: Config, figures: dict[str, float]) -> list[runner.Claim]:
    """What the fixed recipe must show on digits."""
    if not runner.follows(config, PRESETS["cpu"], "checkpoint", "epoch"):
        return []
    among = figures["transfer/fp/fp"]
    return [
        runner.Claim(
            "quantised members above full precision", figures["robust/mix/min"] - figures["robust/fp3/min"], 0.15
        ),
        runner.Claim(
            "two bits alone above the ensemble", figures["robust/q2/min"] - figures["robust/mix/min"], 0.02
        ),
        runner.Claim("transfer among fp above that to two bits", among - figures["transfer/fp/q2"], 0.3),
        runner.Claim("transfer from two bits above that among fp", figures["transfer/q2/fp"] - among, 0.05),
        runner.Claim("share of two bits' own count", figures["transfer_share/fp/q2"], 0.6),
        runner.Claim("minus share of halftone's own count", -figures["transfer_share/fp/ht"], -0.45),
        runner.Claim(
            "a sure member stops ugd, above agd", figures["robust_scaled/ugd"] - figures["robust_scaled/agd"], 0.2
        ),
    ]  # fmt: skip
