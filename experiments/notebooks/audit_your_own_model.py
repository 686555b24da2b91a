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
# # Audit your own model
#
# You trained a classifier, with your own code, in whatever library of JAX. Which samples did it memorize? Are some of
# their labels wrong, and can that be undone without training again? Can it forget a class?
#
# The library asks for three things: a function `apply(params, x) -> logits` in inference mode, its parameters, and
# the arrays that it was trained on. Here three networks stand for yours: one in Flax Linen, one in Flax NNX, one that
# is a plain function. Everything below is the same for all of them.

# %%
import functools
import os

import flax.linen as linen
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from subspace_jax import data, training, trees
from subspace_jax.core import capture, metrics
from subspace_jax.label_noise import trusted, verifix
from subspace_jax.memorization import scores
from subspace_jax.unlearning import class_projection, evaluation, samples

SMOKE = "SMOKE" in os.environ  # the tests run these cells with less of everything
SAMPLES, EPOCHS, KEPT, PROBES = (500, 8, 2, 1) if SMOKE else (1437, 80, 5, 5)

# %% [markdown]
# ## The data
#
# scikit-learn's handwritten digits, 8x8 pixels. So that the answers can be checked, 15 % of the training labels are
# replaced by wrong ones; nothing below looks at `wrong` or `true` except to judge. A fifth of the training samples is
# held out: on it the strength of every edit is chosen, by its labels as they are given, wrong ones among them.

# %%
digits, test = data.load("digits", "train"), data.load("digits", "test")
pixels, test_x = (part["image"].reshape(-1, 64).astype(np.float32) / 16 for part in (digits, test))
pixels, true, test_y = pixels[:SAMPLES], digits["label"][:SAMPLES], test["label"]
given = data.corrupt.symmetric(jax.random.key(0), true, fraction=0.15, classes=10)

held = np.arange(len(true)) % 5 == 0
x, y, wrong = pixels[~held], given[~held], (given != true)[~held]
held_x, held_y = pixels[held], given[held]
print(
    f"{len(y)} training samples, {wrong.sum()} of them under a wrong label; {len(held_y)} held out; {len(test_y)} test"
)


# %% [markdown]
# ## Three networks
#
# For each: `apply` and `params`. In NNX `split` and `merge` give the pair; in Linen `module.apply` is `apply`
# already. A network with dropout or batch statistics needs its inference mode here (`train=False`, `model.eval()`).


# %%
class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        for width in (64, 64):
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(10)(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.last = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))


def plain(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


graph, state = nnx.split(Nnx(nnx.Rngs(0)))
normal = functools.partial(np.random.default_rng(0).normal, scale=0.1)
untrained = {
    "linen": (Linen().apply, Linen().init(jax.random.key(0), x[:1])),
    "nnx": (lambda state, x: nnx.merge(graph, state)(x), state),
    "plain": (plain, {"in": np.float32(normal(size=(64, 96))), "out": np.float32(normal(size=(96, 10)))}),
}


# %% [markdown]
# ## Your training
#
# Any loop will do. One thing helps: keep the parameters of a few epochs on the way. A network that has fitted
# everything has almost no loss left, and the curvature of no loss says little; averaged over the run it says much.


# %%
def train(apply, params, *, batch=32):
    """Adam on the cross-entropy; the parameters at KEPT moments, the last ones at the end."""
    tx, images, labels = optax.adam(5e-3), jnp.asarray(x), jnp.asarray(y)

    def step(carry, rows):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(apply(params, images[rows]), labels[rows]).mean()

        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def epoch(params, opt_state, key):
        order = jax.random.permutation(key, len(x))[: len(x) // batch * batch]
        return jax.lax.scan(step, (params, opt_state), order.reshape(-1, batch))[0]

    opt_state, kept = tx.init(params), []
    for i in range(EPOCHS):
        params, opt_state = epoch(params, opt_state, jax.random.fold_in(jax.random.key(1), i))
        if (i + 1) % (EPOCHS // KEPT) == 0:
            kept.append(params)
    return kept


runs = {name: train(*network) for name, network in untrained.items()}
networks = {name: (untrained[name][0], kept[-1]) for name, kept in runs.items()}

print("network  training accuracy, by the given labels  test accuracy")
for name, (apply, params) in networks.items():
    fits, right = training.evaluate(apply, params, x, y), training.evaluate(apply, params, test_x, test_y)
    print(f"{name:7}  {fits:.3f}{'':34}  {right:.3f}")

# %% [markdown]
# ## What does each layer read?
#
# `capture` traces the function and finds every product of data with a parameter: no hook, no base class, no naming
# rule. This table is what all edits work on. A layer that it cannot follow is refused by name, never skipped.

# %%
tables = {name: capture.layers(apply, params, x[:1]) for name, (apply, params) in networks.items()}
print("network  layer                         inputs  outputs")
for name, table in tables.items():
    for path, layer in table.items():
        print(f"{name:7}  {path:28}  {layer.d_in:6}  {layer.d_out:7}")


# %% [markdown]
# ## Which samples did it memorize?
#
# `fd_norm` measures how fast the gradient of a sample's loss turns when its pixels move a little: the curvature of
# the loss in its **input**. The mean over the kept moments is the score. AUROC: how often a wrong label scores above
# a right one.


# %%
def curvature(apply, kept):
    one = functools.partial(scores.score, jax.random.key(2), apply, x=x, y=y, name="fd_norm", probes=PROBES)
    return np.stack([one(params) for params in kept])


followed = {name: curvature(untrained[name][0], kept) for name, kept in runs.items()}
memorized = {name: score.mean(axis=0) for name, score in followed.items()}
print("network  AUROC of wrong labels: by the last parameters  by the mean of the run")
for name, score in followed.items():
    last, mean = metrics.auroc(score[-1], wrong), metrics.auroc(memorized[name], wrong)
    print(f"{name:7}  {last:43.3f}  {mean:22.3f}")

# %% [markdown]
# The suspects of the Linen network, the highest score first, each with the label it was given. Look at them: this is
# where an audit of labels begins. (To find wrong labels and nothing else the loss averaged over the run is simpler
# and at least as good; curvature is for what was memorized.)

# %%
suspects = np.argsort(-memorized["linen"])[:16]
figure, axes = plt.subplots(2, 8, figsize=(9, 2.9), layout="constrained")
for axis, i in zip(axes.flat, suspects, strict=True):
    axis.imshow(x[i].reshape(8, 8), cmap="gray_r")
    axis.set_title(f"given {y[i]}", color="firebrick" if wrong[i] else "black", fontsize=9)
    axis.axis("off")
caption = figure.suptitle("Highest input-loss curvature; red: the label is one of the planted wrong ones", fontsize=10)

# %% [markdown]
# ## Undo what the wrong labels wrote
#
# Take the 20 samples of lowest score of each class: the network did not have to memorize them. Every kernel keeps
# what these samples excite and loses the rest, in closed form. How strongly (`alpha`) is chosen on the held-out
# samples.

# %%
corrected = {}
print("network  alpha  test accuracy before  after")
for name, (apply, params) in networks.items():
    clean = x[trusted.select_trusted(memorized[name], y, per_class=20 if not SMOKE else 5)]
    moments = capture.collect(apply, params, [clean], dtype="float64")
    found = verifix.verifix_select(
        tables[name], params, moments, alphas=[10, 30, 100, 300, 1000, 3000],
        score_fn=lambda edited, apply=apply: training.evaluate(apply, edited, held_x, held_y),
    )  # fmt: skip
    corrected[name] = found.params
    before, after = (training.evaluate(apply, own, test_x, test_y) for own in (params, found.params))
    print(f"{name:7}  {found.alpha or 'none':>5}  {before:20.3f}  {after:.3f}")


# %% [markdown]
# ## Forget a class
#
# The threes shall go. Directions that only they use are projected out of every kernel; what other classes use as well
# stays. Again both strengths are chosen on held-out samples. No gradient, no training.


# %%
def per_class(apply, params):
    right = np.asarray(training.predict(apply, params, test_x)).argmax(-1) == test_y
    return np.array([right[test_y == label].mean() for label in range(10)])


forgotten, before, after = {}, {}, {}
chosen = samples.select_samples(jax.random.key(3), y, forget=[3], retain_count=180, forget_count=60)
print("network  alpha_r  alpha_f  accuracy on threes before  after  on the others before  after")
for name, (apply, _) in networks.items():
    params = corrected[name]
    retain, forget = (
        capture.collect(apply, params, [x[rows]], dtype="float64") for rows in (chosen.retain, chosen.forget)
    )

    def judge(edited, apply=apply):
        logits = training.predict(apply, edited, held_x)
        return evaluation.forget_score(*evaluation.class_accuracy(logits, held_y, forget=[3]))

    found = class_projection.unlearn_search(tables[name], params, retain, forget, judge)
    forgotten[name] = found.params
    before[name], after[name] = per_class(apply, params), per_class(apply, found.params)
    rest = np.arange(10) != 3
    print(
        f"{name:7}  {found.alpha_r:7g}  {found.alpha_f:7g}  {before[name][3]:25.3f}  {after[name][3]:5.3f}"
        f"  {before[name][rest].mean():20.3f}  {after[name][rest].mean():.3f}"
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True, layout="constrained")
for axis, name in zip(axes, networks, strict=True):
    axis.bar(np.arange(10) - 0.2, before[name], 0.4, color="lightgray", label="before")
    axis.bar(np.arange(10) + 0.2, after[name], 0.4, color="steelblue", label="after")
    axis.set(title=name, xlabel="class", xticks=range(10))
axes[0].set(ylabel="test accuracy", ylim=(0, 1.3))
legend = axes[0].legend(fontsize=8, ncols=2, loc="upper center")

# %% [markdown]
# Accuracy alone does not show that the class is gone: it may still be in the features, or an attack may still tell
# who was a member. `evaluation.linear_probe`, `svc_mia` and `ulira` ask that; `python -m
# experiments.class_unlearning` runs them beside eleven other methods.
#
# ## Take it with you
#
# The edited network is the same tree with other numbers: save it as you always do. Here as NumPy arrays by path, the
# parameters of all three in one file, read back and put into the tree again.

# %%
np.savez("audited.npz", **trees.flatten(forgotten))
with np.load("audited.npz") as found:
    again = trees.update(forgotten, {path: jnp.asarray(array) for path, array in found.items()})
    kilobytes = sum(array.nbytes for array in found.values()) / 1024
same = all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(forgotten)))
print(f"{kilobytes:.0f} kB; read back, the parameters are {'the same' if same else 'others'}")

# %% [markdown]
# Next: [compose functions](compose_functions.py) with `vmap`, `jit` and devices, and [write your own
# method](write_your_own_method.py).
