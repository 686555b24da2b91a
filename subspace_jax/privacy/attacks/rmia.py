"""RMIA: compare each sample with others that nobody trained on (Zarifzadeh, Liu and Shokri, ICML 2024)."""

from typing import Any

import numpy as np

from subspace_jax.core import checks
from subspace_jax.privacy.attacks import fits
from subspace_jax.privacy.attacks.fits import Keep, Scores, Shadows, Targets
from subspace_jax.typing import Float

SMALLEST = np.finfo(np.float64).tiny


@checks.on_host
def rmia(
    loss: Targets,
    shadows: Shadows,
    keep: Keep,
    population: Float[Any, "targets queries z"],
    population_shadows: Float[Any, "models queries z"],
    *,
    gamma: float = 1.0,
    a: float = 0.3,
) -> Scores:
    """Share of population samples z with [p_x / p(x)] / [p_z / p(z)] > gamma, mean over queries; p = exp(-loss).

    p(x) = ((1 + a) mean_out p + 1 - a) / 2 from OUT models alone (the offline form); every model is OUT for the
    population. Good with 1 or 2 shadow models. The score is a multiple of 1 / (population samples): no finer false
    positive rates than that tell samples apart.

    Args:
      loss: of the targets, (targets, queries, n).
      shadows: of the shadow models.
      keep: their training sets.
      population: of the targets on samples that no model trained on, such as test images, (targets, queries, z).
      population_shadows: of the shadow models on these.
      gamma: by how much a sample must beat another; above 0.
      a: in [0, 1], how alike IN and OUT probabilities are taken to be; choose it by attacking a shadow model.

    Raises:
      ValueError: gamma not above 0, a outside [0, 1]; as `fits.check`, with one OUT model; a population of other
        models or queries.
    """
    if not gamma > 0 or not 0 <= a <= 1:
        raise ValueError(f"gamma is above 0 and a in [0, 1]; got {gamma} and {a}.")
    loss, shadows, keep = fits.check(loss, shadows, keep, inside=0, outside=1)
    of_target = fits.check_target(population, name="population")
    of_shadows = fits.check_target(population_shadows, name="population_shadows")
    if of_target.shape[:2] != loss.shape[:2] or of_shadows.shape != (*shadows.shape[:2], of_target.shape[2]):
        raise ValueError(
            f"the population has the same models and queries: losses {loss.shape} and {shadows.shape}, population "
            f"{of_target.shape} and {of_shadows.shape}."
        )
    ratio = _ratio(loss, np.exp(-shadows).mean(axis=0, where=~keep), a)
    beaten = np.sort(gamma * _ratio(of_target, np.exp(-of_shadows).mean(axis=0), a), axis=-1)
    shares = np.empty_like(ratio)
    for at in np.ndindex(ratio.shape[:2]):  # targets and queries; sorting replaces the table of all pairs
        shares[at] = np.searchsorted(beaten[at], ratio[at], side="left") / beaten.shape[-1]
    return shares.mean(axis=1)


def _ratio(loss: np.ndarray, outside: np.ndarray, a: float) -> np.ndarray:
    """P / p(x), from the target's loss and the OUT models' mean probability."""
    return np.exp(-loss) / np.maximum(((1 + a) * outside + 1 - a) / 2, SMALLEST)
