"""CF-k and EU-k: train only the last k layers, further or from scratch. Goel et al. 2022, arXiv 2201.06640."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from subspace_jax import trees
from subspace_jax.core import capture
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Key, Variables
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned, descend, fresh, summed_loss


def cf_k(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE, last: int = 1,
) -> Unlearned:  # fmt: skip
    """Continue to train the last k layers on the retain set; all else is unchanged, running statistics too.

    Args:
      key: for the sample order.
      model: the network; it runs in inference mode.
      variables: where it starts.
      retain: samples to keep.
      forget: not used.
      recipe: of the fine-tuning.
      last: k, counted in the order of `capture.layers`; other parameters of their modules (biases) are trained too.

    Raises:
      ValueError: k outside [1, number of layers].
    """
    start = trees.select(variables["params"], leaves(model, variables, retain[0], last))
    return _train(key, model, variables, start, retain, recipe, "cf_k")


def eu_k(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE, last: int = 1,
) -> Unlearned:  # fmt: skip
    """`cf_k` with the last k layers initialised anew before they are trained."""
    key = as_key(key)
    init_key, key = jax.random.split(key)
    names = leaves(model, variables, retain[0], last)
    new = trees.select(fresh(init_key, model.init, retain[0])["params"], names)
    return _train(key, model, variables, new, retain, recipe, "eu_k")


def leaves(model: Model, variables: Variables, x: Any, last: int) -> list[str]:
    """Paths of the parameters in the last k layers: their kernels and the other parameters of the same module."""
    kernels = list(dict.fromkeys(layer.leaf for layer in capture.layers(model.apply, variables, x[:1]).values()))
    if not 1 <= last <= len(kernels):
        raise ValueError(f"the last k layers are some of {len(kernels)}, k in [1, {len(kernels)}]; got {last}.")
    modules = {path.rpartition("/")[0] or path for path in kernels[-last:]}
    return [path for path in trees.flatten(variables["params"]) if (path.rpartition("/")[0] or path) in modules]


def _train(
    key: Array, model: Model, variables: Variables, start: dict[str, Array], retain: Samples, recipe: Recipe, label: str
) -> Unlearned:
    """Only the leaves in `start` are parameters to the optimiser."""
    state = {"params": start, "batch_stats": {}}
    found = descend(key, _loss(model.apply), state, [retain], recipe=recipe, constants=variables, label=label)
    params = trees.update(variables["params"], found.variables["params"])
    return found._replace(variables=variables | {"params": params})


@lru_cache(maxsize=64)
def _loss(apply: Callable) -> Callable:
    summed = summed_loss(apply)

    def objective(params, batch_stats, batches, variables, key):
        ((x, y),) = batches
        whole = trees.update(variables["params"], params)
        weight = jnp.full(len(y), 1 / len(y))
        return summed(whole, variables["batch_stats"], x, y, weight), batch_stats

    return objective
