"""What shadow models say of each sample, when it is IN their training set and when it is OUT; the input checks."""

from typing import Any, Literal

import numpy as np

from subspace_jax.core import checks, likelihood
from subspace_jax.core.likelihood import Gaussian
from subspace_jax.typing import Bool, Float

Targets = Float[Any, "targets queries n"]
Shadows = Float[Any, "models queries n"]
Keep = Bool[Any, "models n"]
Scores = Float[np.ndarray, "targets n"]
Spread = Literal["std", "var_as_std"]
FEW = 10  # samples named in an error


@checks.on_host
def check_target(target: Any, *, name: str = "target") -> np.ndarray:
    """One statistic of the targets as float64.

    Raises:
      ValueError: not (targets, queries, n), or values that are not finite.
    """
    target = checks.as_real(name, target)
    if target.ndim != 3 or not target.size:
        raise ValueError(f"{name} is one statistic, (models, queries, n); got shape {target.shape}.")
    checks.check_finite(name, target, remedy="leave out a model that diverged")
    return target


@checks.on_host
def check(
    target: Any, shadows: Any, keep: Any, *, inside: int, outside: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, shadow models and masks that fit together; the masks as (models, 1, n).

    Args:
      target: one statistic of the attacked models.
      shadows: the same of models whose training sets are known.
      keep: True where a shadow model was trained on a sample.
      inside: IN models that a sample needs at least.
      outside: OUT models that it needs.

    Raises:
      ValueError: other shapes, values that are not finite, masks that are not boolean, fewer than 2 shadow models; a
        sample with too few IN or OUT models, the first of them by their positions; a target that is a shadow model.
    """
    target, shadows, keep = check_target(target), check_target(shadows, name="shadows"), np.asarray(keep)
    if len(shadows) < 2:
        raise ValueError("shadow models come with and without each sample, so at least 2; got 1.")
    if target.shape[1:] != shadows.shape[1:]:
        raise ValueError(f"target {target.shape} and shadows {shadows.shape} must have the same queries and samples.")
    if keep.dtype != bool or keep.shape != (len(shadows), shadows.shape[2]):
        raise ValueError(
            f"keep is boolean (shadow models, n) = ({len(shadows)}, {shadows.shape[2]}), True where a model was "
            f"trained on a sample; got {keep.dtype} {keep.shape}."
        )
    for side, counts, least in (("IN", keep.sum(axis=0), inside), ("OUT", (~keep).sum(axis=0), outside)):
        short = np.flatnonzero(counts < least)
        if len(short):
            named = ", ".join(map(str, short[:FEW])) + (", ..." if len(short) > FEW else "")
            raise ValueError(
                f"{len(short)} of {keep.shape[1]} samples are {side} for fewer than {least} of the {len(keep)} shadow "
                f"models and cannot be fitted: {named}; train more of them on balanced masks (shadow_masks)."
            )
    _refuse_shared(target, shadows)
    return target, shadows, keep[:, None, :]


def gaussians(shadows: np.ndarray, keep: np.ndarray) -> tuple[Gaussian, Gaussian]:
    """Mean and standard deviation of each query and sample over its IN models, and over its OUT models.

    Raises:
      ValueError: shadows that are not (models, queries, n).
    """
    _check_models("shadows", shadows)
    return likelihood.fit(shadows, keep, axis=0), likelihood.fit(shadows, ~keep, axis=0)


def spread_of(gaussian: Gaussian, spread: Spread) -> Gaussian:
    """The Gaussian, its deviation at least 1e-3; for "var_as_std" its VARIANCE stands for it, as in released scripts.

    Raises:
      ValueError: another spread.
    """
    if spread not in ("std", "var_as_std"):
        raise ValueError(f'spread is "std", or "var_as_std" as in the released scripts; got {spread!r}.')
    return likelihood.floored(gaussian if spread == "std" else gaussian._replace(std=np.square(gaussian.std)))


def quantile(values: np.ndarray, mask: np.ndarray, share: float) -> Float[np.ndarray, "queries n"]:
    """Quantile over the masked models, interpolated linearly: `np.quantile` of each sample's own models, all at once.

    Args:
      values: (models, queries, n).
      mask: (models, 1, n), at least one model each.
      share: in [0, 1]; .5 is the median.

    Raises:
      ValueError: values that are not (models, queries, n), a share outside [0, 1].
    """
    _check_models("values", values)
    checks.check_number("share", share, 0, 1)
    ordered = np.sort(np.where(mask, values, np.inf), axis=0)  # the masked ones come first
    position = share * (mask.sum(axis=0) - 1)
    low = np.broadcast_to(np.floor(position).astype(int), values.shape[1:])
    high = np.broadcast_to(np.ceil(position).astype(int), values.shape[1:])
    below, above = (np.take_along_axis(ordered, at[None], axis=0)[0] for at in (low, high))
    return below + (position - low) * (above - below)


def _refuse_shared(target: np.ndarray, shadows: np.ndarray) -> None:
    """Refuse a target that is one of the shadow models: its membership is in `keep`."""
    for number, values in enumerate(target):
        for model in np.flatnonzero((shadows[..., 0] == values[..., 0]).all(axis=1)):
            if np.array_equal(shadows[model], values):
                raise ValueError(
                    f"target {number} is shadow model {model}, number for number: leave it out of the shadows, and its "
                    "complement too."
                )


def _check_models(name: str, values: Any) -> None:
    if np.ndim(values) != 3:
        raise ValueError(f"{name} are (models, queries, n); got shape {np.shape(values)}.")
