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
# # Write your own method
#
# A method has one of four shapes: a pure function, an optax transform, an `Algorithm(init, step)`, a layer. This page
# writes three: a score of samples, a way to forget a class, and an algorithm for agents without a server. Each is
# shown beside what is there, each keeps the contract of its kind, and each becomes part of the library by one row of
# a table.

# %%
import dataclasses
import os
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from subspace_jax import data, nn, training
from subspace_jax.core import exchange, losses, metrics, topology
from subspace_jax.core.keys import sample_keys
from subspace_jax.decentralized import gossip, methods, state, train
from subspace_jax.memorization import scores
from subspace_jax.typing import Algorithm
from subspace_jax.unlearning import baselines, evaluation
from subspace_jax.unlearning.baselines import engine

SMOKE = "SMOKE" in os.environ  # the tests run these cells with less of everything
SAMPLES, EPOCHS, SHORT = (300, 5, 2) if SMOKE else (1000, 60, 10)

digits, test = data.load("digits", "train"), data.load("digits", "test")
x, test_x = (part["image"].reshape(-1, 64).astype(np.float32) / 16 for part in (digits, test))
x, true, test_y = x[:SAMPLES], digits["label"][:SAMPLES], test["label"]
y = data.corrupt.symmetric(jax.random.key(0), true, fraction=0.1, classes=10)
wrong = y != true


def fit(x, y):
    """A small network by our trainer; yours may come from anywhere."""
    begin, order = jax.random.split(jax.random.key(1))
    steps = EPOCHS * len(x) // 32
    tx = training.optimizer(training.Recipe(lr=0.05, weight_decay=0.0), steps)
    objective = training.mean_loss(model.train_apply)
    return training.minimise(order, objective, tx, jax.jit(model.init)(begin, x[:1]), [(x, y)], steps=steps, batch=32)


model = nn.build("mlp", classes=10, widths=(64,))
variables = fit(x, y)


# %% [markdown]
# ## A score: a pure function
#
# The shape: `(keys, variables, x, y) -> (b,)`, high = memorized. Here: how much does the loss of a sample rise when
# its pixels are blurred by noise? All randomness comes from the sample's own key.


# %%
def fragility(keys, variables, x, y, *, apply, noise=0.3, probes=8):
    """Mean rise of the loss under normal noise: E[L(x + noise v)] - L(x), per sample."""

    def one(key, x, y):
        steps = noise * jax.random.normal(key, (probes, *x.shape))
        with jax.default_matmul_precision("highest"):  # a small difference of losses drowns in TF32 or bfloat16
            logits = apply(variables, jnp.concatenate([x[None], x[None] + steps]))
        loss = losses.softmax_cross_entropy(logits, jnp.full(probes + 1, y))
        return loss[1:].mean() - loss[0]

    return jax.vmap(one)(keys, x, y)


score = jax.jit(partial(fragility, apply=model.apply))
keys = sample_keys(jax.random.key(2), np.arange(len(x)))
fragile = score(keys, variables, x, y)

print("score      AUROC of wrong labels")
print(f"fragility  {metrics.auroc(fragile, wrong):.3f}")
for name in ("fd_norm", "loss"):
    found = scores.score(jax.random.key(2), model.apply, variables, x, y, name=name)
    print(f"{name:9}  {metrics.auroc(found, wrong):.3f}")

# %% [markdown]
# **Its contract.** A score belongs to its sample: not to the batch it came in, nor to its place there. A `jit` or a
# `vmap` over networks changes rounding alone, and so does the hardware. A sample that is no number has no score.

# %%
order = np.random.default_rng(0).permutation(len(x))
few = np.arange(20)
for said, other, reference in (
    ("in another order", score(keys[order], variables, x[order], y[order]), fragile[order]),
    ("in other company", score(keys[few], variables, x[few], y[few]), fragile[few]),
    ("without jit", partial(fragility, apply=model.apply)(keys[few], variables, x[few], y[few]), fragile[few]),
):
    print(f"{said:17} differs by {np.abs(other - reference).max() / np.abs(fragile).max():.0e} of the largest")

# %%
figure, axis = plt.subplots(figsize=(9, 2.4), layout="constrained")
bins = np.linspace(np.min(fragile), np.quantile(fragile, 0.98), 40)
axis.hist(
    [fragile[~wrong], fragile[wrong]],
    bins,
    stacked=True,
    color=["lightsteelblue", "firebrick"],
    label=["right label", "wrong label"],
)
axis.set(xlabel="rise of the loss under noise", ylabel="samples", yscale="log")
legend = axis.legend(fontsize=8)


# %% [markdown]
# To keep it: the function in `core/curvature/`, one row of `scores.TABLE`; the flag `--scores` and the tests of all
# scores follow from the table.
#
# ## A way to forget: parameters in, parameters out
#
# The shape: `method(key, model, variables, retain, forget, *, recipe) -> Unlearned`, with the cost counted in passes
# of one sample. Here: descend on what stays, and teach the network to know nothing of what goes, every class equally
# likely.


# %%
def to_uniform(key, model, variables, retain, forget, *, recipe=baselines.RECIPE):
    """Descend CE(D_r) + KL(uniform || p) on D_f: the forgotten samples shall be answered by a guess."""

    def objective(params, batch_stats, batches, constants, key):
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        logits, batch_stats = model.train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        stay = len(batches[0][1])
        guess = -jax.nn.log_softmax(logits[stay:]).mean(axis=-1) - jnp.log(logits.shape[-1])
        return losses.softmax_cross_entropy(logits[:stay], y[:stay]).mean() + guess.mean(), batch_stats

    return engine.descend(key, objective, variables, [retain, forget], recipe=recipe, label="to_uniform")


going = y == 3
retain, forget = (x[~going], y[~going]), (x[going], y[going])
recipe = dataclasses.replace(baselines.RECIPE, epochs=SHORT)
ways = {"to_uniform": to_uniform, "neggrad_plus": baselines.neggrad_plus, "finetune": baselines.finetune}
rows = [("original", baselines.Unlearned(variables, 0, 0)), ("retrained", baselines.Unlearned(fit(*retain), 0, 0))]
rows += [(name, way(jax.random.key(3), model, variables, retain, forget, recipe=recipe)) for name, way in ways.items()]

print("method        test accuracy: threes  others  thinks a three is: most likely class  passes (1,000 samples)")
for name, found in rows:
    logits = training.predict(model.apply, found.variables, test_x)
    kept, gone = evaluation.class_accuracy(logits, test_y, forget=[3])
    sure = jax.nn.softmax(logits[test_y == 3]).max(axis=-1).mean()
    print(f"{name:12}  {gone:21.3f}  {kept:6.3f}  {sure:37.2f}  {(found.forward + found.backward) / 1000:22.1f}")

# %% [markdown]
# Look at the fourth column: a retrained network, which never saw a three, is sure of *something* when it sees one. To
# be unsure of exactly one class is a trace. A good baseline is one that you can criticise by the reference.
#
# **Its contract.** The same key gives the same network; the tree and its dtypes stay; the cost is counted.

# %%
brief = dataclasses.replace(recipe, epochs=1)
a, b = (to_uniform(jax.random.key(4), model, variables, retain, forget, recipe=brief) for _ in range(2))
print("same key, same network:", all(map(np.array_equal, jax.tree.leaves(a.variables), jax.tree.leaves(b.variables))))
print("same tree:", jax.tree.structure(a.variables) == jax.tree.structure(variables))
print(f"cost: {a.forward} passes forward, {a.backward} backward")


# %% [markdown]
# To keep it: a file in `unlearning/baselines/` and one row of its `METHODS`; `python -m experiments.class_unlearning`
# then runs it beside the others, with attacks and a probe of the features.
#
# ## An algorithm for agents: init and step
#
# The shape: `Algorithm(init, step)`, both for ONE agent; `comm` exchanges with the others. D-PSGD with a fixed step
# does not reach the common optimum where agents hold different data: each is pulled to its own. Exact diffusion (Yuan
# et al., 2019) adds what the last step changed, and the pull cancels:
#
#     psi_i = x_i - lr g_i;   phi_i = psi_i + x_i - psi_i(before);   x_i <- sum_j (w_ij + [i = j]) / 2 phi_j


# %%
def exact_diffusion(loss, *, comm, weights, lr, loop="vmap"):
    """Gossip whose fixed point is the common optimum; `State.memory` is psi of the step before."""
    mix, grad = gossip.mixing(comm, (np.eye(comm.agents) + weights) / 2), state.gradient(loss, loop)
    tx = state.optimizer(lr, momentum=0.0, weight_decay=0.0)

    def init(key, variables):
        return state.start(variables, tx, jax.tree.map(jnp.asarray, variables["params"]))  # no correction at first

    def step(key, now, batch):
        value, batch_stats, grads = grad(now.params, now.batch_stats, batch, key)
        updates, opt_state = tx.update(grads, now.opt_state, now.params)
        psi = optax.apply_updates(now.params, updates)
        phi = jax.tree.map(lambda new, x, old: new + x - old, psi, now.params, now.memory)
        params, sent = mix(now.step, phi, phi)
        return state.State(now.step + 1, params, batch_stats, opt_state, psi), state.Info(
            value, jnp.float32(1), sent, jnp.uint32(0)
        )

    return Algorithm(init, step)


# %% [markdown]
# The test bed has an answer in closed form: every agent holds its own linear regression, and the optimum of all
# together is one `lstsq`. How far from it are the agents, step by step?

# %%
agents, W, comm = 8, topology.weights("ring", 8), exchange.spread(8, 1)
rng = np.random.default_rng(0)
inputs = rng.normal(size=(agents, 20, 5)).astype(np.float32)
targets = (inputs @ rng.normal(size=(agents, 5, 1)))[..., 0].astype(np.float32)  # another truth at each agent
optimum = np.linalg.lstsq(inputs.reshape(-1, 5), targets.ravel(), rcond=None)[0]


def squares(params, stats, batch, key):
    return ((batch[0] @ params["w"] - batch[1]) ** 2).mean() / 2, stats


def whole(key, now, sets, common, batch):
    return sets  # every step takes all samples: what remains is the method's own bias


length, parts = (20, 3) if SMOKE else (20, 15)
kinds = {"d_psgd": gossip.d_psgd, "exact_diffusion": exact_diffusion}
courses = {}
for name, make in kinds.items():
    method = make(squares, comm=comm, weights=W, lr=0.1)
    now = train.stacked(jax.random.key(5), method, comm, {"params": {"w": np.zeros(5, np.float32)}, "batch_stats": {}})
    steps = train.trainer(method, comm=comm, runner=exchange.vmap, batch=20, draw=whole)
    courses[name] = []
    for part in range(parts):
        now, info = steps(jax.random.key(6), now, exchange.place((inputs, targets), comm), part * length, length)
        courses[name].append(np.linalg.norm(exchange.fetch(now.params)["w"] - optimum, axis=1).mean())

figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
for name, course in courses.items():
    axis.semilogy(length * np.arange(1, parts + 1), course, label=name)
axis.set(xlabel="step", ylabel="mean distance from\nthe common optimum")
legend = axis.legend()

# %% [markdown]
# What rises again at the end is rounding: differences of float32 numbers add up.
#
# **Its contract.** One program on one device and on many; with a learning rate of zero the mean of all agents never
# moves; the bytes are those of one model to every neighbour.

# %%
spread = exchange.spread(agents, max(d for d in (1, 2, 4, 8) if d <= jax.local_device_count()))
ends = []
for at, runner in ((comm, exchange.vmap), (spread, exchange.shard_map)):
    method = exact_diffusion(squares, comm=at, weights=W, lr=0.1)
    now = train.stacked(jax.random.key(5), method, at, {"params": {"w": np.zeros(5, np.float32)}, "batch_stats": {}})
    steps = train.trainer(method, comm=at, runner=runner, batch=20, draw=whole)
    now, info = steps(jax.random.key(6), now, exchange.place((inputs, targets), at), 0, 20)
    ends.append(exchange.fetch(now.params)["w"])
print(f"{spread.devices} devices and one differ by {np.abs(ends[0] - ends[1]).max():.0e}")

still = exact_diffusion(squares, comm=comm, weights=W, lr=0.0)
now = train.stacked(jax.random.key(5), still, comm, {"params": {"w": np.zeros(5, np.float32)}, "batch_stats": {}})
apart = now._replace(params={"w": jnp.asarray(rng.normal(size=(agents, 5)), jnp.float32)})
apart = apart._replace(memory=apart.params)
after, info = train.trainer(still, comm=comm, runner=exchange.vmap, batch=20, draw=whole)(
    jax.random.key(6), apart, exchange.place((inputs, targets), comm), 0, 20
)
moved = np.abs(after.params["w"].mean(axis=0) - apart.params["w"].mean(axis=0)).max()
print(
    f"lr 0: the mean moves by {moved:.0e}; an agent sends {info.bytes_model[0]:.0f} bytes a step, its model has {5 * 4}"
)

# %% [markdown]
# To keep it: a file in `decentralized/` with its constructor, its name in that folder's `__init__.py`, and one row of
# `methods.METHODS`. `python -m experiments.decentralized --method exact_diffusion` then runs it, and the tests of all
# methods hold it to the numbers of one device, of many, and to the bytes that its row promises.

# %%
row = methods.Method(exact_diffusion, after=True)
print(f"{len(methods.METHODS)} methods are there, {', '.join(list(methods.METHODS)[:4])} and others")
print(f"yours: after={row.after}, crosses={row.crosses}, takes {', '.join(dict(row._asdict())['make'].__kwdefaults__)}")

# %% [markdown]
# From here: `docs/contributing.md` is the page from a clone to a merged method.
