"""Membership attacks by name: who can tell that a sample was in the training set, and from what?

Each attack takes one statistic of the targets, and of shadow models whose training sets are known; all targets are
scored at once. "as released" repeats the scripts of the curvature attack with what weakens or skews them, "reference"
the code of its authors; the others are the corrected form.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from subspace_jax.core import checks
from subspace_jax.privacy.attacks import curvature, lira, rmia, thresholds
from subspace_jax.privacy.statistics import Statistics
from subspace_jax.typing import Bool, Float


class Attack(NamedTuple):
    """One attack.

    Attributes:
      function: see `attack`.
      statistic: the field of `Statistics` that it looks at.
      needs: what it takes beside the target.
      spread: whether it fits a Gaussian to each sample and takes `spread`.
    """

    function: Callable[..., Any]
    statistic: str
    needs: tuple[str, ...] = ("shadows",)
    spread: bool = False


POPULATION = ("shadows", "population")
TABLE: dict[str, Attack] = {
    "yeom": Attack(thresholds.yeom, "loss", ()),
    "mentr": Attack(thresholds.mentr, "entropy", ()),
    "sablayrolles": Attack(thresholds.sablayrolles, "loss"),
    "watson": Attack(thresholds.watson, "loss"),
    "ye": Attack(thresholds.ye, "loss"),
    "lira_online": Attack(lira.lira_online, "label_logit", spread=True),
    "lira_offline": Attack(lira.lira_offline, "label_logit"),
    "lira_fixed_variance": Attack(lira.lira_fixed_variance, "label_logit"),
    "lira_fixed_variance_reference": Attack(lira.lira_fixed_variance_reference, "label_logit"),
    "lira_as_released": Attack(lira.lira_as_released, "top_logit"),
    "rmia": Attack(rmia.rmia, "loss", POPULATION),
    "curvature_nll": Attack(curvature.curvature_nll, "curvature", spread=True),
    "curvature_lr": Attack(curvature.curvature_lr, "curvature", spread=True),
    "curvature_nll_as_released": Attack(curvature.curvature_nll_as_released, "curvature"),
}
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(TABLE)]  # for a command line flag: its choices are the names of the table


@checks.on_host
def attack(
    name: str,
    target: Statistics,
    shadows: Statistics | None = None,
    keep: Bool[Any, "models n"] | None = None,
    *,
    population: tuple[Statistics, Statistics] | None = None,
    **options: float | str,
) -> Float[np.ndarray, "targets n"]:
    """Membership scores of every candidate for every target, larger = member.

    Args:
      name: a key of TABLE.
      target: of the attacked models.
      shadows: of models trained as the target was; its training recipe is part of what the attacker knows.
      keep: True where a shadow model was trained on a sample.
      population: for `rmia`, statistics of the targets and of the shadows on samples that no model was trained on.
      **options: of the attack's function: `center` of lira_fixed_variance, `alpha` of ye, `gamma` and `a` of rmia,
        `spread` of lira_online and of the attacks on curvature: "std", or "var_as_std" as in the released scripts.

    Raises:
      ValueError: an unknown name; something that the attack needs and was not given; as the attack's function; scores
        that are not finite.
    """
    if name not in TABLE:
        raise ValueError(f"no attack {name!r}; there are {', '.join(TABLE)}.")
    function, statistic, needs, _ = TABLE[name]
    if "shadows" in needs and (shadows is None or keep is None):
        raise ValueError(f"{name} takes shadow models and keep, which tells what they were trained on.")
    if "population" in needs and population is None:
        raise ValueError(f"{name} takes a population: statistics of targets and shadows on samples of no training set.")
    given = [target, *((shadows,) if "shadows" in needs else ()), *(population or () if "population" in needs else ())]
    values = [getattr(of, statistic) for of in given]
    if any(value is None for value in values):
        raise ValueError(f"{name} looks at {statistic}, which was not measured: give from_logits the {statistic}.")
    if "shadows" in needs:
        values.insert(2, keep)
    with np.errstate(all="ignore"):  # what overflows is counted below
        scores = function(*values, **options)
    bad = (~np.isfinite(scores)).sum()
    if bad:
        raise ValueError(f"{name} has no finite score for {bad} of {scores.size} samples: are values beyond 1e150?")
    return scores
