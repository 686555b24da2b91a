"""Orthogonal weights modification: a projector off all inputs seen so far, by recursive least squares at every step.

Zeng, Chen, Cui, Yu, Nature Machine Intelligence 2019. The mean input r of a layer over the batch updates its
P <- P - P r r' P / (alpha + r' P r), and kernels move by P dK.
"""

import jax
import jax.numpy as jnp
import optax

from subspace_jax.continual import projection
from subspace_jax.continual.protocol import Learner, State, learner, task_loss
from subspace_jax.core import capture, checks
from subspace_jax.core.capture import Layers
from subspace_jax.nn import Model
from subspace_jax.typing import Array, Float


def owm_learner(
    model: Model,
    tx: optax.GradientTransformation,
    table: Layers,
    *,
    alpha: float = 1.0,
    heads: tuple[str, ...] = (),
    told: bool = False,
) -> Learner:
    """Every kernel moves by P dK, in the first task too; the heads move freely.

    Args:
      model: the network.
      tx: the optimiser.
      table: `capture.layers` of the network.
      alpha: regularisation of the recursion, above 0; the smaller, the sooner kernels stop moving along an input seen.
      heads: leaves that are not projected, by path or path prefix.
      told: whether the network has one head per task.

    Raises:
      ValueError: alpha that is not positive; a layer that is scanned or has groups.
    """
    odd = [path for path, layer in table.items() if layer.lead]
    if not alpha > 0 or odd:
        raise ValueError(f"alpha is above 0 and layers are plain; got {alpha}, and of others {odd}.")
    own = projection.beside(table, heads)
    capture.check_writes(own, "not protected in training")
    checks.check_real("OWM", {path: layer.dtype for path, layer in own.items()})
    plain, gradient = learner(model, tx, told=told), jax.grad(task_loss(model), has_aux=True)

    def init(key, x):
        return plain.init(key, x)._replace(kept={path: jnp.eye(layer.d_in) for path, layer in own.items()})

    def step(state, batches, t, key):
        (x, y), params = batches[0], state.variables["params"]
        grads, stats = gradient(params, state, x, y, t, key)
        _, moments = capture.observe(model.apply, state.variables, x, layers=list(own))
        kept = {
            path: shrink(p, jnp.asarray(moments[path].total / moments[path].count), alpha)
            for path, p in state.kept.items()
        }
        updates, opt_state = tx.update(grads, state.opt_state, params)
        projected = {path: kept[path] @ kernel for path, kernel in capture.kernels(own, updates).items()}
        params = optax.apply_updates(params, capture.write_kernels(own, updates, projected))
        return State({"params": params, "batch_stats": stats}, opt_state, kept)

    def held(state):
        return {"floats": sum(p.size for p in state.kept.values())}

    return plain._replace(init=init, step=step, held=held)


def shrink(p: Float[Array, "d d"], r: Float[Array, " d"], alpha: float) -> Float[Array, "d d"]:
    """P - P r r' P / (alpha + r' P r): the inverse of (P^-1 + r r' / alpha), with P^-1 the identity at first."""
    pr = p @ r
    return p - jnp.outer(pr, pr) / (alpha + r @ pr)
