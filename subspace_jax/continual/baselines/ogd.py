"""Orthogonal gradient descent: updates are orthogonal to the stored gradients of the logits of earlier samples.

Farajtabar, Azizi, Mott, Li, AISTATS 2020 (OGD-GTL: of each stored sample the logit of its own class).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from subspace_jax import trees
from subspace_jax.continual.protocol import Learner, learner, own_head, task_loss
from subspace_jax.core.checks import check_finite, check_real
from subspace_jax.nn import Model


def ogd_learner(
    model: Model, tx: optax.GradientTransformation, *, tasks: int, samples: int = 20, told: bool = False
) -> Learner:
    """Updates dw - B B' dw, with B an orthonormal basis of the stored gradients, whole network at once.

    Args:
      model: the network.
      tx: the optimiser.
      tasks: in the whole sequence; the last stores nothing that is used.
      samples: gradients stored of each task, at least 1; each is as large as the network.
      told: whether the network has one head per task.

    Raises:
      ValueError: tasks or samples below 1.
    """
    if tasks < 1 or samples < 1:
        raise ValueError(f"there is at least 1 task and 1 gradient of each; got {tasks} and {samples}.")
    plain, gradient = learner(model, tx, told=told), jax.grad(task_loss(model), has_aux=True)

    def init(key, x):
        state = plain.init(key, x)
        check_real("OGD", {path: leaf.dtype for path, leaf in trees.flatten(state.variables["params"]).items()})
        size = ravel_pytree(state.variables["params"])[0].size
        return state._replace(kept={"basis": jnp.zeros((size, tasks * samples))})

    def step(state, batches, t, key):
        (x, y), params = batches[0], state.variables["params"]
        grads, stats = gradient(params, state, x, y, t, key)
        updates, opt_state = tx.update(grads, state.opt_state, params)
        flat, unravel = ravel_pytree(updates)
        basis = state.kept["basis"]
        params = optax.apply_updates(params, unravel(flat - basis @ (basis.T @ flat)))
        return state._replace(variables={"params": params, "batch_stats": stats}, opt_state=opt_state)

    @jax.jit
    def rows(variables, x, y, t):
        def own_logit(params, x, y):
            return own_head(model.apply(variables | {"params": params}, x[None]), t)[0, y]

        each = jax.vmap(jax.grad(own_logit), in_axes=(None, 0, 0))(variables["params"], x, y)
        return jax.vmap(lambda tree: ravel_pytree(tree)[0])(each)

    def end(key, state, task, t):
        chosen = np.asarray(jax.random.permutation(key, len(task.x)))[:samples]
        new = rows(state.variables, jnp.asarray(task.x[chosen]), jnp.asarray(task.y[chosen]), t)
        check_finite("gradients of the task's logits", new)
        basis = state.kept["basis"]
        return state._replace(kept={"basis": append(basis, new.T, at=t * samples)})

    def held(state):
        return {"floats": int(jnp.any(state.kept["basis"] != 0, axis=0).sum()) * len(state.kept["basis"])}

    return plain._replace(init=init, step=step, end=end, held=held)


def append(basis, columns, *, at: int):
    """The basis with the span of new columns added, orthonormal; those it has already become zero."""
    lengths = jnp.linalg.norm(columns, axis=0)
    for _ in range(2):  # twice is enough: one pass loses orthogonality to rounding
        columns = columns - basis @ (basis.T @ columns)
    vectors, values, _ = jnp.linalg.svd(columns, full_matrices=False)
    vectors = jnp.where(values > 1e-4 * jnp.maximum(lengths.max(), 1e-30), vectors, 0.0)
    return basis.at[:, at : at + vectors.shape[1]].set(vectors)
