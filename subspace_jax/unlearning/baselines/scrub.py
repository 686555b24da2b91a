"""SCRUB: a student that departs from the original network on the forget set and stays close to it on the retain set.

Kurmanji et al. 2023, arXiv 2302.09880.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax.core import losses
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Float, Key, Variables
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned, descend

EPOCHS, ASCENTS = 3, 2  # each epoch descends on D_r; the first two ascend on D_f before
CROSS_ENTROPY, DISTILLATION, TEMPERATURE = 0.99, 0.001, 4.0
AVERAGE = 0.1  # weight of an epoch in the moving average of the parameters, which starts with the first epoch's


def scrub(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Maximise KL(teacher||student) on D_f, minimise .99 CE + .001 KL on D_r; the averaged weights of three epochs.

    `recipe.epochs` is not used. A student equal to its teacher has KL 0 with zero gradient: ascent moves it only after
    the descent of the first epoch, or where batch statistics make the two differ.
    """
    key = as_key(key)
    recipe = dataclasses.replace(recipe, epochs=1)
    away, close = (_distil(model.apply, model.train_apply, stay=stay) for stay in (False, True))
    student, average = Unlearned(variables, 0, 0), None
    for epoch in range(EPOCHS):
        for part, (objective, samples) in enumerate([(away, forget), (close, retain)]):
            if objective is close or epoch < ASCENTS:
                step_key = jax.random.fold_in(key, 2 * epoch + part)
                student = descend(
                    step_key, objective, student.variables, [samples], recipe=recipe, constants=variables, label="scrub"
                ).after(student)
        new = student.variables
        average = new if average is None else jax.tree.map(_mix, average, new)
    # the teacher sees what the student sees
    return Unlearned(average, 2 * student.forward, student.backward)


def _mix(old: Array, new: Array) -> Array:
    return (1 - AVERAGE) * old + AVERAGE * new


@lru_cache(maxsize=64)
def _distil(apply: Callable, train_apply: Callable, *, stay: bool) -> Callable:
    def objective(params, batch_stats, batches, teacher, key):
        ((x, y),) = batches
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        divergence = kl(apply(teacher, x), logits).mean()
        if not stay:
            return -divergence, batch_stats
        loss = losses.softmax_cross_entropy(logits, y).mean()
        return CROSS_ENTROPY * loss + DISTILLATION * divergence, batch_stats

    return objective


def kl(teacher: Float[Array, "b classes"], student: Float[Array, "b classes"]) -> Float[Array, " b"]:
    """T^2 KL(softmax(teacher/T) || softmax(student/T)) with T = 4, per sample; 0 where they agree."""
    p, q = (jax.nn.log_softmax(logits.astype(jnp.float32) / TEMPERATURE) for logits in (teacher, student))
    return TEMPERATURE**2 * (jnp.exp(p) * (p - q)).sum(-1)
