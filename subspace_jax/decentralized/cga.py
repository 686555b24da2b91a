"""Cross-Gradient Aggregation: each agent takes a direction that serves its neighbours' data as well as its own.

Esfandiari et al., "Cross-gradient aggregation for decentralized learning from non-IID data", ICML 2021.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.core import checks, compress, topology
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized.gossip import Weights, neighbours, toward, weighted
from subspace_jax.decentralized.ngc import refuse_statistics, send
from subspace_jax.decentralized.state import Info, Loop, State, check_share, cosine, gradient, optimizer, start
from subspace_jax.typing import Algorithm, Array, Float, Key, PyTree, Variables

RIDGE = 1e-6  # share of the trace: gradients are often nearly parallel, and float32 resolves no smaller eigenvalue
MOST_NEIGHBOURS = 8  # 2^8 linear systems per tensor and step


def cga(
    loss: Callable,
    *,
    comm: Comm,
    weights: Weights,
    lr: float | optax.Schedule,
    gamma: float = 1.0,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    margin: float = 0.5,
    compressor: compress.Compressor | None = None,
    loop: Loop = "vmap",
) -> Algorithm:
    """CGA, or CompCGA where the gradients are compressed. Models are mixed as they were sent, before the local step.

    g~_i = `aggregate`(w_ii grad f(d_i; x_i), (w_ij grad f(d_j; x_i))_j) for each tensor by itself, then the local SGD
    step and x_i <- x_i - lr u_i + gamma (sum_j w_ij x_j - x_i). Every neighbour computes my cross-gradient and sends it
    back, which doubles the bytes, unless gradients are compressed. Per step 1 + degree backward passes.

    The published weight of every gradient is 1 / |N_i|, the neighbourhood of i with i itself: w_ij on a regular graph.
    On an irregular one w_ij is what we take; with Metropolis-Hastings weights a well-connected neighbour counts less.

    Args:
      loss: see `decentralized.state`.
      comm: the agents.
      weights: W, doubly stochastic, every edge with its reverse: a cross-gradient goes back along its edge.
      lr: learning rate, or an optax schedule of the step.
      gamma: averaging rate in [0, 1].
      momentum: of the local Nesterov buffer over g~; the runs of Aketi et al. have .9, with lr .01 and gamma .1.
      weight_decay: L2 penalty, added to g~.
      margin: see `aggregate`.
      compressor: of the gradients, own ones included, each with an error memory; `compress.sign()` is CompCGA.
      loop: see `state.gradient`.

    Raises:
      ValueError: gamma outside [0, 1]; a negative margin; weights that are not doubly stochastic, that miss a reverse
        edge or change with time; more than 8 neighbours; at `init`, a network with running statistics.
    """
    check_share("gamma", gamma)
    if not margin >= 0:
        raise ValueError(f"margin is the least weight of a cross-gradient, not negative; got {margin}.")
    form = topology.permutations(topology.check_weights(weights, agents=comm.agents, symmetric=True))
    if len(form.sources) > MOST_NEIGHBOURS:
        raise ValueError(
            f"CGA tries all sets of at most {MOST_NEIGHBOURS} neighbours; this graph takes {len(form.sources)}: use a "
            "sparser one, or NGC."
        )
    grad, tx = gradient(loss, loop), optimizer(lr, momentum=momentum, weight_decay=weight_decay)
    method = CGA(comm, form, grad, tx, gamma, margin, compressor)
    return Algorithm(method.init, method.step)


class CGA(NamedTuple):
    """The settings of `cga`, prepared; `init` and `step` are the algorithm.

    Attributes:
      comm: the agents.
      form: W as a sum of weighted permutations.
      grad: from `state.gradient`.
      tx: the local optimiser.
      gamma: averaging rate.
      margin: least weight of a cross-gradient.
      compressor: of the gradients, or None.
    """

    comm: Comm
    form: topology.Permutations
    grad: Callable
    tx: optax.GradientTransformation
    gamma: float
    margin: float
    compressor: compress.Compressor | None

    def init(self, key: Key[Array, ""] | None, variables: Variables) -> State:
        """The state before the first step; an error memory for the own gradient and for each neighbour's model."""
        refuse_statistics(variables["batch_stats"])
        edges = range(1 + len(self.form.sources) if self.compressor else 0)
        memory = [optax.tree.zeros_like(variables["params"]) for _ in edges]  # arrays of their own: may be donated
        return start(variables, self.tx, memory if self.compressor else ())

    def step(self, key: Key[Array, ""], state: State, batch: PyTree) -> tuple[State, Info]:
        """Exchange models and cross-gradients, aggregate the gradients, take the local step."""
        x = state.params
        models, mixed, sent = neighbours(self.comm, self.form, x)
        value, _, own = self.grad(x, state.batch_stats, batch, key)
        _, used, error = send(jax.random.fold_in(key, 0), self.compressor, own, state.memory, 0)
        edges = [self.cross(key, k, model, state, batch) for k, model in enumerate(models)]
        received, errors, crossed = zip(*edges, strict=True) if edges else ((), (), ())
        total = self.direction(weighted(self.comm, self.form.diagonal, used), received)
        updates, opt_state = self.tx.update(total, state.opt_state, x)
        params = optax.apply_updates(toward(x, mixed, self.gamma), updates)
        memory = [error, *errors] if self.compressor else ()
        new = State(state.step + 1, params, state.batch_stats, opt_state, memory)
        return new, Info(value, cosine(own, total), sent, sum(crossed, jnp.uint32(0)))

    def cross(self, key: Key[Array, ""], k: int, model: PyTree, state: State, batch: PyTree) -> tuple:
        """Neighbour k's gradient at my model by its weight, the new error memory of that edge, the bytes sent back."""
        back = topology.inverse(self.form.sources[k])
        _, _, grads = self.grad(model, state.batch_stats, batch, key)
        wire, _, error = send(jax.random.fold_in(key, k + 1), self.compressor, grads, state.memory, k + 1)
        received = self.comm.permute(wire, back)
        received = self.compressor.decode(received, grads) if self.compressor else received
        there = weighted(self.comm, self.form.weights[k][list(back)], received)
        return there, error, self.comm.bytes(wire, back)

    def direction(self, own: PyTree, cross: Sequence[PyTree]) -> PyTree:
        """`aggregate` tensor by tensor; an agent without neighbours takes its own gradient."""
        if not cross:
            return own
        return jax.tree.map(lambda own, *cross: aggregate(own, jnp.stack(cross), self.margin), own, *cross)


def aggregate(own: Float[Array, "*shape"], cross: Float[Array, "k *shape"], margin: float) -> Float[Array, "*shape"]:
    """Of one tensor: g + G'v, v = argmin 1/2 v'(G G' + r I) v + (G g)'v over v >= margin, with g = own, G = cross.

    With margin 0 and without r that is the direction nearest to g that has no negative product with a row of G; a
    positive margin lets every row count. r = 1e-6 tr(G G') makes v unique; in float32 or wider. A row of zeros, that of
    a neighbour who is not there, adds nothing; rows that all equal g give g (1 + k margin).

    Raises:
      ValueError: a tensor without entries, or no row.
    """
    checks.check_filled("the gradients of neighbours", cross)
    wide = jnp.promote_types(own.dtype, jnp.float32)
    g, rows = own.ravel().astype(wide), cross.reshape(len(cross), -1).astype(wide)
    gram, pull = (jnp.matmul(rows, other, precision="highest") for other in (rows.T, g))
    trace = jnp.trace(gram)
    scale = jnp.where(trace > 0, trace, 1)
    v = least_quadratic(gram / scale + RIDGE * jnp.eye(len(rows), dtype=wide), pull / scale, margin)
    return (g + jnp.matmul(v, rows, precision="highest")).astype(own.dtype).reshape(own.shape)


def least_quadratic(P: Float[Array, "k k"], q: Float[Array, " k"], margin: float) -> Float[Array, " k"]:
    """The argmin of 1/2 v'P v + q'v over v >= margin, P positive definite, by trying all sets of free entries.

    For each of the 2^k sets its entries are solved for, the others held at the margin. What falls below the margin is
    lifted to it: all candidates are then feasible, and the solution is the one of least value, without any tolerance.
    NaN in P or q gives NaN.
    """
    k = len(q)
    free = jnp.asarray(list(itertools.product((False, True), repeat=k)), bool)
    system = jnp.where(free[:, :, None] & free[:, None, :], P[None], jnp.eye(k, dtype=P.dtype)[None])
    held = jnp.where(free, 0, margin).astype(P.dtype)
    right = jnp.where(free, -(q[None] + jnp.matmul(held, P, precision="highest")), margin)
    v = jnp.maximum(jnp.linalg.solve(system, right[..., None])[..., 0], margin)
    values = (v * (jnp.matmul(v, P, precision="highest") / 2 + q[None])).sum(1)
    return jnp.where(jnp.isnan(values).any(), jnp.nan, v[jnp.argmin(values)])
