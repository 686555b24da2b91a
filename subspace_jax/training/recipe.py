"""How a network is trained, as plain values, so that shadow models and retrained baselines can repeat it exactly."""

import dataclasses
from functools import lru_cache
from typing import Literal, get_args

import optax

from subspace_jax.core.checks import check_number

Optimizer = Literal["sgd", "nesterov", "adam"]
Schedule = Literal["constant", "step", "cosine", "one_cycle"]
OPTIMIZERS, SCHEDULES = get_args(Optimizer), get_args(Schedule)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule and batch; saved in every checkpoint."""

    optimizer: Optimizer = "sgd"
    """SGD with momentum, its Nesterov form, or Adam (optax defaults; `momentum` is then not used)."""
    lr: float = 0.05
    """Learning rate; the peak of a schedule."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """L2 penalty added to the gradient of every parameter, as PyTorch's SGD does."""
    schedule: Schedule = "constant"
    """Constant; x0.1 at 60 and 90 % of the steps; cosine to zero; linear warm-up over 30 %, then cosine to zero."""
    epochs: int = 60
    """Passes over the data; the last partial batch of each is dropped."""
    batch: int = 64
    """Samples per step."""


def schedule(recipe: Recipe, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, for a run of `steps` steps."""
    if recipe.schedule == "step":
        return optax.piecewise_constant_schedule(recipe.lr, {int(0.6 * steps): 0.1, int(0.9 * steps): 0.1})
    if recipe.schedule == "cosine":
        return optax.cosine_decay_schedule(recipe.lr, steps)
    if recipe.schedule == "one_cycle":
        return optax.warmup_cosine_decay_schedule(0.0, recipe.lr, max(1, int(0.3 * steps)), steps)
    return optax.constant_schedule(recipe.lr)


@lru_cache(maxsize=64)  # one object a recipe, and so one compilation of the step that uses it
def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optax chain of a recipe, for a run of `steps` steps.

    Raises:
      ValueError: learning rate or number of steps that is not positive, an unknown optimiser or schedule.
    """
    if not 0 < recipe.lr < float("inf"):
        raise ValueError(f"lr must be above 0; got {recipe.lr}.")
    check_number("momentum", recipe.momentum, 0)
    check_number("weight_decay", recipe.weight_decay, 0)
    for field, names in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if getattr(recipe, field) not in names:
            raise ValueError(f"{field} is one of {', '.join(names)}; got {getattr(recipe, field)!r}.")
    if steps < 1:
        raise ValueError(f"a run needs at least one step; got {steps}: lower batch or raise epochs.")
    rate = schedule(recipe, steps)
    decay = optax.add_decayed_weights(recipe.weight_decay)
    if recipe.optimizer == "adam":
        return optax.chain(decay, optax.adam(rate))
    return optax.chain(decay, optax.sgd(rate, recipe.momentum, nesterov=recipe.optimizer == "nesterov"))
