# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compose functions
#
# Every method here is a pure function of a network's `apply`, its parameters, arrays and a key. So JAX's own tools
# are the interface: `vmap` runs it over seeds, `jit` makes one program of several, a mesh or `pmap` spreads it over
# devices, and an optax chain takes a constraint as its last link. This page does each of these once, on a network of
# two matrices.

# %%
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")  # a CPU that shows four devices

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from subspace_jax import data, training
from subspace_jax.continual import gpm, leak
from subspace_jax.core import capture, exchange, losses, metrics, topology
from subspace_jax.core.keys import sample_keys
from subspace_jax.decentralized import gossip, train
from subspace_jax.memorization import scores

SMOKE = "SMOKE" in os.environ  # the tests run these cells with less of everything
SAMPLES, SEEDS, STEPS, PROBES = (200, 2, 150, 1) if SMOKE else (600, 8, 2000, 5)

digits, test = data.load("digits", "train"), data.load("digits", "test")
x, test_x = (jnp.asarray(part["image"].reshape(-1, 64) / 16, jnp.float32) for part in (digits, test))
true, test_y = digits["label"], test["label"]
y = data.corrupt.symmetric(jax.random.key(0), true, fraction=0.1, classes=10)
x, y, wrong = x[:SAMPLES], jnp.asarray(y[:SAMPLES]), jnp.asarray((y != true)[:SAMPLES])


def init(key):
    first, last = jax.random.split(key)
    return {"first": jax.random.normal(first, (64, 64)) / 8, "last": jax.random.normal(last, (64, 10)) / 8}


def apply(params, x):
    return jax.nn.relu(x @ params["first"]) @ params["last"]


# %% [markdown]
# ## A seed is an axis
#
# Write the training of one network; `vmap` over its key trains as many as you like in one program. A score is a
# function `(keys, variables, x, y) -> one number a sample`, so the same `vmap` scores all of them.


# %%
def trained(key, x, y, *, lr=0.1, batch=32):
    """Parameters after plain SGD."""
    tx = optax.sgd(lr)

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (batch,), 0, len(x))
        grads = jax.grad(lambda p: losses.softmax_cross_entropy(apply(p, x[rows]), y[rows]).mean())(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    begin, order = jax.random.split(key)
    params = init(begin)
    return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(order, STEPS))[0][0]


many = jax.jit(jax.vmap(trained, in_axes=(0, None, None)))(jax.random.split(jax.random.key(1), SEEDS), x, y)
fd_norm = scores.scorer("fd_norm", apply, probes=PROBES)
keys = sample_keys(jax.random.key(2), jnp.arange(len(x)))
by_seed = jax.jit(jax.vmap(fd_norm, in_axes=(None, 0, None, None)))(keys, many, x, y)
print(f"parameters {many['first'].shape}, scores {by_seed.shape}")

# %%
order = np.argsort(-by_seed.mean(axis=0))
low, middle, high = np.quantile(by_seed[:, order], [0.1, 0.5, 0.9], axis=0)
where = np.flatnonzero(wrong[order])
figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
axis.fill_between(np.arange(len(x)), low, high, color="lightsteelblue", label="eight of ten seeds")
axis.plot(middle, color="steelblue", linewidth=0.8, label="median of the seeds")
axis.plot(where, middle[where], "|", color="firebrick", markersize=9, label="wrong label")
axis.set(xlabel="samples, the highest mean first", ylabel="fd_norm", yscale="log")
legend = axis.legend(fontsize=8)


# %% [markdown]
# ## One program of several scores
#
# What is composed is compiled together: three scores, their agreement in rank, and how well each finds the wrong
# labels. `metrics` are functions of arrays as well, and stay inside `jit` and `vmap`.

# %%
NAMES = "fd_norm", "ggn_exact", "loss"


@jax.jit
@jax.vmap
def compared(params):
    """Rank correlations between the scores, and the AUROC of each, of one network."""
    found = [scores.scorer(name, apply, probes=PROBES)(keys, params, x, y) for name in NAMES]
    ranks = jnp.array([[metrics.spearman(a, b) for b in found] for a in found])
    return ranks, jnp.array([metrics.auroc(score, wrong) for score in found])


ranks, aurocs = compared(many)
print("score      rank correlation with", *(f"{name:>9}" for name in NAMES), "  AUROC of wrong labels")
for name, row, auroc in zip(NAMES, ranks.mean(axis=0), aurocs.T, strict=True):
    print(f"{name:31}", *(f"{value:9.2f}" for value in row), f"{auroc.mean():15.3f} +- {auroc.std():.3f}")


# %% [markdown]
# ## A score of your own
#
# Write it for one sample, `vmap` it over the batch, and it goes wherever ours go. This one asks how far the pixels
# are from changing the answer: the margin between the given label and the best other one, over the length of its
# gradient.


# %%
def distance(key, params, x, y):
    """Minus the margin in units of pixels, to first order; a probe needs no key, but takes it as all scores do."""

    def margin(x):
        logits = apply(params, x[None])[0]
        return logits[y] - jnp.where(jnp.arange(10) == y, -jnp.inf, logits).max()

    value, slope = jax.value_and_grad(margin)(x)
    return -value / jnp.linalg.norm(slope)


own = jax.vmap(distance, in_axes=(0, None, 0, 0))
scored = jax.jit(jax.vmap(own, in_axes=(None, 0, None, None)))(keys, many, x, y)
found = jax.vmap(metrics.auroc, in_axes=(0, None))(scored, wrong)
print(f"AUROC of wrong labels: {found.mean():.3f} +- {found.std():.3f}")

# %% [markdown]
# ## More devices, the same numbers
#
# `score_dataset` pads, cuts into batches and shards over all devices; the keys belong to the samples, so neither
# batch nor device changes a score by more than rounding.

# %%
one = jax.tree.map(lambda leaf: leaf[0], many)
first = jax.local_devices()[:1]
spread, alone = (
    training.score_dataset(jax.random.key(2), fd_norm, one, (x, y), batch=256, devices=devices)
    for devices in (None, first)
)
gap = jnp.abs(spread - alone).max() / alone.max()
print(f"{jax.local_device_count()} devices and one differ by {gap:.1e} of the largest score")


# %% [markdown]
# Agents that train together are a named axis. The step of ONE agent is written once, `comm` says how many there are
# and on how many devices: `vmap` runs all on one device, `pmap` each on its own, `shard_map` in blocks.


# %%
def loss(params, stats, batch, key):
    return losses.softmax_cross_entropy(apply(params, batch[0]), batch[1]).mean(), stats


agents = min(4, jax.local_device_count())
own_data = x[: len(x) // agents * agents].reshape(agents, -1, 64), y[: len(x) // agents * agents].reshape(agents, -1)
ends = {}
for name, devices in (("vmap", 1), ("pmap", agents)):
    comm = exchange.spread(agents, devices)
    method = gossip.d_psgd(loss, comm=comm, weights=topology.weights("ring", agents), lr=0.1)
    state = train.stacked(jax.random.key(3), method, comm, {"params": init(jax.random.key(4)), "batch_stats": {}})
    steps = train.trainer(method, comm=comm, runner=exchange.RUNNERS[name], batch=32)
    state, info = steps(jax.random.key(5), state, exchange.place(own_data, comm), 0, 40)
    ends[name] = exchange.fetch(state.params)["first"]
    print(f"{name}: {agents} agents on {devices} devices, loss {info.loss.mean():.4f}")
print(f"their parameters differ by at most {np.abs(ends['vmap'] - ends['pmap']).max():.1e}")


# %% [markdown]
# ## A constraint at the end of a chain
#
# `gpm` keeps every update orthogonal to what earlier tasks put into each layer. It is an optax transform: build your
# own chain and put it last. The second task here is the first with its pixels shuffled.


# %%
def learn(tx, opt_state, params, x, steps, every):
    """SGD on a task; the accuracy on the first task now and then."""

    @jax.jit
    def some(params, opt_state, key):
        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (16,), 0, len(x))
            grads = jax.grad(lambda p: losses.softmax_cross_entropy(apply(p, x[rows]), clean[rows]).mean())(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, opt_state), jax.random.split(key, every))[0]

    seen = []
    for i in range(steps // every):
        params, opt_state = some(params, opt_state, jax.random.fold_in(jax.random.key(6), i))
        seen.append([training.evaluate(apply, params, part, test_y) for part in (test_x, test_x[:, shuffled])])
    return params, opt_state, np.array(seen)


clean, shuffled = jnp.asarray(true[:SAMPLES]), np.random.default_rng(0).permutation(64)
table = capture.layers(apply, one, x[:1])
chains = {"plain SGD": optax.sgd(0.02), "SGD, then gpm": optax.chain(optax.sgd(0.02), gpm.gpm(table))}
steps, every = (100, 50) if SMOKE else (3000, 200)
courses = {}
for name, tx in chains.items():
    params = init(jax.random.key(7))
    params, opt_state, before = learn(tx, tx.init(params), params, x, steps, every)
    if "gpm" in name:  # between the tasks: what the first one uses is taken from now on
        moments = capture.collect(apply, params, [x[:300]], dtype="float64")
        bases = gpm.update(optax.tree.get(opt_state, "bases"), moments, energy=0.97)
        opt_state = optax.tree.set(opt_state, bases=bases)
    params, _, after = learn(tx, opt_state, params, x[:, shuffled], steps, every)
    courses[name] = np.concatenate([before, after])

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), sharey=True, layout="constrained")
for axis, (name, course) in zip(axes, courses.items(), strict=True):
    moments_of_time = every * np.arange(1, len(course) + 1)
    axis.plot(moments_of_time, course[:, 0], color="steelblue", label="task 1")
    axis.plot(moments_of_time, course[:, 1], color="darkorange", label="task 2")
    axis.axvline(steps, color="gray", linewidth=0.8)
    axis.set(title=name, xlabel="step; the line: task 2 begins")
axes[0].set_ylabel("test accuracy")
legend = axes[0].legend(fontsize=8)

# %% [markdown]
# Order matters, and a transform cannot see its chain. `leak` runs the whole chain on random gradients and measures
# which share of an update lies where it must not.

# %%
tx = chains["SGD, then gpm"]
orders = {
    "sgd, gpm": tx,
    "adam, gpm": optax.chain(optax.adam(1e-3), gpm.gpm(table)),
    "gpm, adam": optax.chain(gpm.gpm(table), optax.adam(1e-3)),
}
print("chain      leak:", *(f"{path:>9}" for path in table))
for name, chain in orders.items():
    state = optax.tree.set(chain.init(params), bases=bases)
    found = leak.leak(jax.random.key(8), table, chain, params, state)
    print(f"{name:16}", *(f"{value:9.1e}" for value in found.values()))

# %% [markdown]
# Next: [write your own method](write_your_own_method.py).
