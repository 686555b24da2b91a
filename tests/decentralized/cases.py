"""A toy problem for every decentralized method: small, smooth, and another one at each agent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import exchange, topology
from subspace_jax.core.exchange import Comm

AGENTS, INPUTS, HIDDEN, CLASSES, ROWS = 8, 5, 4, 3, 6
COMM = Comm(AGENTS)
GRAPHS = {name: topology.weights(name, AGENTS) for name in ("ring", "chain", "full", "one_peer_exponential")}
FLOAT64 = 1e-12  # rounding of a few float64 steps on values near 1


def loss(params, batch_stats, batch, key):
    """Cross-entropy of a tiny network; its statistics, where it has some, follow the batch."""
    x, y = batch
    logits = jnp.tanh(x @ params["kernel"] + params["bias"][None]) @ params["head"]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
    return -chosen.mean(), jax.tree.map(lambda seen: 0.1 * seen + 0.9 * x.mean().astype(seen.dtype), batch_stats)


def gradients(params, batch):
    """Of `loss`, in closed form and NumPy: an oracle without any compilation. All arrays may have leading axes."""
    x, y = batch
    kernel, bias, head = (np.asarray(params[name]) for name in ("kernel", "bias", "head"))
    hidden = np.tanh(x @ kernel + bias[..., None, :])
    p = np.exp(hidden @ head)
    error = (p / p.sum(-1, keepdims=True) - np.eye(CLASSES)[y]) / y.shape[-1]
    back = error @ head.swapaxes(-1, -2) * (1 - hidden**2)
    return {
        "kernel": x.swapaxes(-1, -2) @ back, "bias": back.sum(-2), "head": hidden.swapaxes(-1, -2) @ error,
    }  # fmt: skip


def pairs(params, batch):
    """Gradients (agents, agents, ...): [i, j] on the data of i at the model of j."""
    x, y = batch
    return gradients(jax.tree.map(lambda leaf: leaf[None], params), (x[:, None], y[:, None]))


def dense(weights, tree):
    """The mixing matrix times what the agents hold."""
    return jax.tree.map(lambda leaf: np.tensordot(weights, leaf, 1), tree)


def variables(dtype=np.float64, *, apart=0.0, seed=0):
    """Stacked (agents, ...): the same for all, and normal deviations of size `apart`."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (INPUTS, HIDDEN), "bias": (HIDDEN,), "head": (HIDDEN, CLASSES)}
    params = {
        name: rng.normal(size=shape) + apart * rng.normal(size=(AGENTS, *shape)) for name, shape in shapes.items()
    }
    return {"params": jax.tree.map(lambda leaf: leaf.astype(dtype), params), "batch_stats": {}}


def batch(step, dtype=np.float64):
    """Stacked (agents, rows, ...); every agent has mostly samples of one class."""
    rng = np.random.default_rng([7, step])
    y = (np.arange(AGENTS)[:, None] + (rng.random((AGENTS, ROWS)) < 0.2)) % CLASSES
    x = rng.normal(size=(AGENTS, ROWS, INPUTS)) + y[..., None]
    return x.astype(dtype), y.astype(np.int32)


def begin(method, stacked, dtype=np.float64):
    """The states of all agents, (agents, ...), in NumPy."""
    with jax.enable_x64(dtype == np.float64):
        return jax.device_get(jax.vmap(method.init, (None, 0))(jax.random.key(0), stacked))


def run(method, comm=COMM, runner=exchange.vmap, steps=1, *, start=None, dtype=np.float64):
    """(states (agents, ...), infos (steps, agents)) after `steps` steps from the variables `start`, in NumPy."""
    state, infos = begin(method, variables(dtype) if start is None else start, dtype), []
    step = stepper(method, comm, runner)
    with jax.enable_x64(dtype == np.float64):
        for t in range(steps):
            before, (state, info) = state, jax.block_until_ready(step(state, batch(t, dtype), np.int32(t)))
            infos.append(info)
            jax.tree.map(assert_alike, before, state)
        return jax.device_get((state, jax.tree.map(lambda *parts: jnp.stack(parts), *infos)))


@functools.cache
def stepper(method, comm, runner):
    """(states, batches, t) -> (states, infos) of all agents, compiled once a method."""

    def one(state, batch, t):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), comm.index()), t)
        return method.step(key, state, batch)

    spread = runner(one, comm, shared=(2,))
    return spread if runner is exchange.pmap else jax.jit(spread)


def sent(method):
    """Bytes of models and of gradients that each agent sends in the first float32 step; the rest is not compiled."""

    def one(state, batch):
        return jnp.stack(method.step(jax.random.key(0), state, batch)[1][2:])

    start = begin(method, variables(np.float32), np.float32)
    return np.asarray(jax.jit(exchange.vmap(one, COMM))(start, batch(0, np.float32))).T


def assert_alike(before, after):
    """A step keeps shapes and dtypes, and the tree, so that it can be scanned."""
    assert (before.shape, before.dtype) == (after.shape, after.dtype)


def assert_close(found, expected, atol=FLOAT64):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), found, expected)


def mean(tree):
    """Over agents."""
    return jax.tree.map(lambda leaf: np.mean(leaf, 0), tree)


def distance(tree):
    """Mean over agents of the squared distance from their mean."""
    return sum(np.square(leaf - np.mean(leaf, 0)).sum() for leaf in jax.tree.leaves(tree)) / AGENTS


def rounds(method, start, every, count):
    """The stacked parameters after every, 2 every, ... rounds of a method that looks at no batch, in NumPy."""

    def one(state, t):
        return method.step(jax.random.fold_in(jax.random.key(1), t), state, None)[0]

    def several(state):
        return jax.lax.fori_loop(0, every, lambda _, state: spread(state, state.step[0]), state)

    spread = exchange.vmap(one, COMM, shared=(1,))
    found, state = [], begin(method, start)
    with jax.enable_x64(True):
        step = jax.jit(several)
        for _ in range(count):
            state = step(state)
            found.append(jax.device_get(state.params))
    return found
