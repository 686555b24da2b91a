"""What the baselines share: one recipe, one call of the fine-tuning engine, one count of what it cost."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax import training
from subspace_jax.core import checks, losses
from subspace_jax.core.keys import as_key
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Float, Key, Params, PyTree, Variables

Samples = tuple[Any, Any]  # x (n, ...) scaled as in training, y (n,)
RECIPE = Recipe(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=0.0, schedule="constant", epochs=10, batch=64)
"""Of all methods, in what their papers leave open; epochs are passes over the retain set."""


class Unlearned(NamedTuple):
    """What a method made of the network, and its cost in passes of one sample through the network.

    Attributes:
      variables: {"params", "batch_stats"}, as `Model.apply` takes them.
      forward: forward passes, those of a teacher and of importances among them.
      backward: backward passes.
    """

    variables: Variables
    forward: int
    backward: int

    def after(self, earlier: "Unlearned") -> "Unlearned":
        """The same with the cost of an earlier part added."""
        return self._replace(forward=self.forward + earlier.forward, backward=self.backward + earlier.backward)


def descend(
    key: Key[Array, ""],
    objective: Callable,
    variables: Variables,
    sets: Sequence[Samples],
    *,
    recipe: Recipe,
    constants: PyTree = None,
    prepare: Callable | None = None,
    label: str,
) -> Unlearned:
    """`training.minimise` for recipe.epochs passes over the first set; one forward and backward pass a sample.

    A step takes at most recipe.batch samples of each set. Epochs are counted in samples: the last step may end a
    fraction of a batch early.

    Raises:
      ValueError: no epochs, or an empty set; samples that are not finite, labels that are no integers (n,).
    """
    sizes = [len(x) for x, _ in sets]
    if not all(sizes):
        raise ValueError(f"{label} takes samples of each set; got {sizes}: fill the empty one.")
    for x, y in sets:
        checks.check_labels(y)
        checks.check_lengths(x=x, y=y)
    steps = recipe.epochs * sizes[0] // min(recipe.batch, sizes[0])
    found = training.minimise(
        key, objective, training.optimizer(recipe, steps), variables, sets, steps=steps, batch=recipe.batch,
        constants=constants, prepare=prepare, label=label,
    )  # fmt: skip
    passes = steps * sum(min(recipe.batch, size) for size in sizes)
    return Unlearned(found, passes, passes)


@lru_cache(maxsize=64)  # one function object a network, for the objectives that need no train mode
def summed_loss(apply: Callable) -> Callable:
    """(params, batch_stats, x, y, weight) -> weighted sum of the cross-entropies, in inference mode."""

    def loss(params: Params, batch_stats: PyTree, x: Array, y: Array, weight: Float[Array, " b"]) -> Array:
        logits = apply({"params": params, "batch_stats": batch_stats}, x)
        return (weight * losses.softmax_cross_entropy(logits, y)).sum()

    return loss


def fresh(key: Key[Array, ""], init: Callable, x: Any) -> Variables:
    """A new initialisation for inputs such as x."""
    key = as_key(key)
    return _init(init, key, jnp.zeros((1, *x.shape[1:])))


_init = jax.jit(lambda init, key, x: init(key, x), static_argnums=0)
