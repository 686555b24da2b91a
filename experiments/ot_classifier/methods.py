"""The networks of ot_classifier by name: encoder, head, how the code is drawn to the prior, and how they train."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, NamedTuple

from experiments.families import classifier
from subspace_jax import nn, training
from subspace_jax.core import attacks
from subspace_jax.robustness import ot_classifier
from subspace_jax.typing import Algorithm

if TYPE_CHECKING:
    from experiments.ot_classifier.experiment import Config

WEIGHTS = {"none": 0.0, "gan": 0.3, "mmd": 1.0, "sliced": 1.0}  # with 1, codes of the game collapse
SLOWER = 1 / 4  # rate of the discriminator, as a share of the network's
DISCRIMINATOR = {"widths": (256, 256), "classes": 1}


class Kind(NamedTuple):
    """What a name says: trained on attacked images or not, the divergence, the length of the code."""

    hardened: bool
    div: ot_classifier.Div
    width: int


class Parts(NamedTuple):
    """A network in its two parts, on images in [0, 1]."""

    encoder: nn.Model
    head: nn.Model

    @property
    def whole(self) -> nn.Model:
        """Both as one."""
        return ot_classifier.network(*self)


def kind(name: str) -> Kind:
    """What a network is, by its name.

    Raises:
      ValueError: a name that there is not.
    """
    found = re.fullmatch(rf"(at_)?({'|'.join(ot_classifier.DIVS)})([1-9]\d*)", name)
    if not found:
        raise ValueError(
            f"--networks: there is no {name!r}; a name is none, gan, mmd or sliced and the length of the code, with "
            "at_ before it for adversarial training: gan16, at_none64."
        )
    return Kind(bool(found[1]), found[2], int(found[3]))  # pyrefly: ignore[bad-argument-type] -- one of DIVS


def undefended(names: tuple[str, ...]) -> list[str]:
    """Networks without a divergence, trained on images as they are, the longest code first."""
    plain = [name for name in names if kind(name)[:2] == (False, "none")]
    return sorted(plain, key=lambda name: -kind(name).width)


def parts(config: Config, shared: classifier.Setup, name: str) -> Parts:
    """The network of a name: --model with the code as its outputs, and one dense layer."""
    inner = nn.build(config.model, **classifier.network_arguments(config, kind(name).width))
    encoder = classifier.on_pixels(inner, tuple(shared.scaling.mean), tuple(shared.scaling.std))
    return Parts(encoder, nn.build("mlp", widths=(), classes=shared.classes))


def discriminator() -> nn.Model:
    """Codes -> one logit."""
    return nn.build("mlp", **DISCRIMINATOR)


def algorithm(config: Config, shared: classifier.Setup, name: str, steps: int) -> Algorithm:
    """How a network trains."""
    what, recipe = kind(name), shared.recipe
    slower = dataclasses.replace(recipe, lr=recipe.lr * SLOWER, weight_decay=0.0)
    return ot_classifier.ot_classifier(
        *parts(config, shared, name), training.optimizer(recipe, steps), width=what.width, div=what.div,
        weight=WEIGHTS[what.div] if config.weight is None else config.weight, prior_std=config.prior_std,
        latent_noise=config.latent_noise, eps=config.eps if what.hardened else 0.0,
        discriminator=discriminator(), discriminator_tx=training.optimizer(slower, steps),
    )  # fmt: skip


def tried(config: Config, classes: int) -> dict[str, attacks.Attack]:
    """The attacks on every network."""
    kinds = ("ce", "margin", "dlr") if classes > 2 else ("ce", "margin")
    found = {"pgd" if kind == "ce" else kind: attacks.pgd(steps=config.steps, objective=kind) for kind in kinds}
    for kind in kinds if config.adaptive else ():
        if kind != "margin":
            found[f"apgd_{kind}"] = attacks.apgd(steps=config.adaptive, objective=kind)
    return found | {"square": attacks.square(queries=config.queries)}
