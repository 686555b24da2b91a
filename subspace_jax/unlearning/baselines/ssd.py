"""Selective synaptic dampening: shrink weights that are far more important to the forget set than to the retain set.

No training: two passes of gradients. Foster, Schoepf and Brintrup 2024, arXiv 2308.07707.
"""

import jax
import jax.numpy as jnp

from subspace_jax.nn import Model
from subspace_jax.training import Recipe
from subspace_jax.typing import Array, Key, Params, Variables
from subspace_jax.unlearning.baselines.engine import RECIPE, Samples, Unlearned
from subspace_jax.unlearning.baselines.importance import mean_squared_gradient

SELECT, DAMPEN = 10.0, 1.0  # the paper's alpha and lambda


def ssd(
    key: Key[Array, ""], model: Model, variables: Variables, retain: Samples, forget: Samples, *,
    recipe: Recipe = RECIPE,
) -> Unlearned:  # fmt: skip
    """Weights times min(I_D / I_f, 1) where I_f > 10 I_D, with I = mean squared per-sample gradient.

    I_D is taken over the retain set. The authors take all training data, of which the samples to forget are a share s:
    then I_D >= s I_f, and for s >= 1/10 (one class of ten, two sets of equal size) no weight could be selected.
    `key` and `recipe` are not used.
    """
    stay, go = (mean_squared_gradient(model, variables, samples) for samples in (retain, forget))
    passes = len(retain[0]) + len(forget[0])
    return Unlearned(variables | {"params": dampened(variables["params"], stay, go)}, passes, passes)


@jax.jit
def dampened(params: Params, stay: Params, go: Params) -> Params:
    """The dampened parameters, from importances on the retain set and on the forget set."""

    def leaf(w: Array, stay: Array, go: Array) -> Array:
        chosen = go > SELECT * stay
        return w * jnp.where(chosen, jnp.minimum(DAMPEN * stay / jnp.where(chosen, go, 1.0), 1.0), 1.0)

    return jax.tree.map(leaf, params, stay, go)
