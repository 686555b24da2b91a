"""Elastic weight consolidation: a quadratic pull to the weights of earlier tasks, by how much they matter there.

Kirkpatrick et al., PNAS 2017. One running sum of the diagonals of the Fisher matrices, about the latest weights
(Schwarz et al., "Progress & Compress", 2018), so that memory does not grow with the tasks.
"""

import jax
import jax.numpy as jnp
import optax

from subspace_jax.continual.protocol import Learner, descent, learner, own_head, task_loss
from subspace_jax.core import losses
from subspace_jax.nn import Model
from subspace_jax.typing import Params


def ewc_learner(
    model: Model, tx: optax.GradientTransformation, *, strength: float, samples: int = 300, told: bool = False
) -> Learner:
    """Training on loss + strength / 2 sum_i F_i (w_i - w*_i)^2.

    F is the mean over samples of the squared gradient of log p(y | x), with y drawn from the network's own p. The real
    and the imaginary part of a complex weight are weights of their own.

    Args:
      model: the network.
      tx: the optimiser.
      strength: lambda, at least 0; 0 is finetuning.
      samples: of each task, from which F is estimated.
      told: whether the network has one head per task.

    Raises:
      ValueError: a negative strength, samples below 1.
    """
    if not strength >= 0 or samples < 1:
        raise ValueError(f"strength is at least 0 and samples at least 1; got {strength} and {samples}.")
    plain = learner(model, tx, told=told)
    fisher = jax.jit(lambda key, variables, x, t: _fisher(key, model, variables, x, t))

    mean = task_loss(model)

    def loss(params, state, x, y, t, key):
        value, batch_stats = mean(params, state, x, y, t, key)
        kept = state.kept
        pulls = jax.tree.map(lambda f, w, old: jnp.sum(_pull(f, w - old)), kept["fisher"], params, kept["params"])
        return value + strength / 2 * sum(jax.tree.leaves(pulls)), batch_stats

    def init(key, x):
        state = plain.init(key, x)
        params = state.variables["params"]
        return state._replace(
            kept={"fisher": jax.tree.map(jnp.zeros_like, params), "params": jax.tree.map(jnp.copy, params)}
        )

    def end(key, state, task, t):
        found = fisher(key, state.variables, jnp.asarray(task.x[:samples]), t)
        total = jax.tree.map(jnp.add, state.kept["fisher"], found)
        latest = jax.tree.map(jnp.copy, state.variables["params"])  # a state that holds an array twice is not donated
        return state._replace(kept={"fisher": total, "params": latest})

    def held(state):
        return {"floats": sum(leaf.size * (1 + jnp.iscomplexobj(leaf)) for leaf in jax.tree.leaves(state.kept))}

    return plain._replace(init=init, step=descent(loss, tx), end=end, held=held)


def _fisher(key, model: Model, variables, x, t) -> Params:
    """Mean squared gradient of the log-likelihood of drawn labels, one sample at a time."""

    def one(total, sample):
        key, x = sample
        logits = own_head(model.apply(variables, x[None]), t)
        y = jax.random.categorical(key, logits)

        def loss(params):
            return losses.softmax_cross_entropy(own_head(model.apply(variables | {"params": params}, x[None]), t), y)[0]

        return jax.tree.map(lambda a, g: a + _squared(g) / len(keys), total, jax.grad(loss)(variables["params"])), None

    keys = jax.random.split(key, len(x))
    return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, variables["params"]), (keys, x))[0]


def _squared(g):
    """Entry by entry; of complex numbers the real and the imaginary parts are squared."""
    return jax.lax.complex(g.real**2, g.imag**2) if jnp.iscomplexobj(g) else g**2


def _pull(fisher, moved):
    return fisher.real * moved.real**2 + fisher.imag * moved.imag**2 if jnp.iscomplexobj(moved) else fisher * moved**2
