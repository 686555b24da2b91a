import functools
import warnings

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.core import curvature, losses
from subspace_jax.core.keys import sample_keys
from subspace_jax.memorization import scores

CLASSES, STEP = 3, 0.1
OTHER_PROGRAM = 1e-4  # of the largest score: finite differences of gradients that another batch size rounds differently
X = np.random.default_rng(0).normal(size=(25, 5)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, CLASSES, 25).astype(np.int32)
MODEL = nn.build("mlp", classes=CLASSES, widths=(8,))
VARIABLES = MODEL.init(jax.random.key(1), X[:1])
KEY, INDEX = jax.random.key(2), np.arange(25) + 100


@functools.cache
@jax.jit
def direct():
    """The quantities themselves, on one batch."""
    keys, loss = sample_keys(KEY, INDEX), losses.cross_entropy(MODEL.apply)
    options = {name: {"step": STEP} if name in scores.FINITE else {} for name in scores.PROBED}
    return {
        name: getattr(curvature, name)(keys, loss, VARIABLES, X, Y, probes=1, **more).value
        for name, more in options.items()
    } | {
        "ggn_exact": curvature.ggn_exact(MODEL.apply, VARIABLES, X),
        "ggn_probe": curvature.ggn_probe(keys, MODEL.apply, VARIABLES, X, probes=1).value,
        "exact": curvature.exact(loss, VARIABLES, X, Y),
        "input_grad": jnp.sqrt((curvature.input_grad(loss, VARIABLES, X, Y) ** 2).sum(axis=1)),
        "loss": loss(VARIABLES, X, Y),
    }


@pytest.mark.parametrize("name", scores.NAMES)
def test_a_score_is_the_quantity_it_is_named_after(name):
    oracle = direct()[name]
    found = scores.score(KEY, MODEL.apply, VARIABLES, X, Y, name=name, probes=1, step=STEP, index=INDEX, batch=16)
    np.testing.assert_allclose(found, oracle, atol=OTHER_PROGRAM * np.abs(oracle).max())


def test_numpy_of_any_width_is_taken():
    reference = scores.score(KEY, MODEL.apply, VARIABLES, X, Y, name="loss")
    wide = scores.score(KEY, MODEL.apply, VARIABLES, X.astype(np.float64), Y.astype(np.int64), name="loss")
    np.testing.assert_array_equal(wide, reference)


def test_equal_options_are_compiled_once():
    assert scores.scorer("fd_norm", MODEL.apply, probes=3) is scores.scorer("fd_norm", MODEL.apply, probes=3)
    assert scores.scorer("fd_norm", MODEL.apply, probes=3) is not scores.scorer("fd_norm", MODEL.apply, probes=4)


class Normed(flax.linen.Module):
    """A network whose samples see each other in train mode."""

    @flax.linen.compact
    def __call__(self, x, train):
        x = flax.linen.BatchNorm(use_running_average=not train)(flax.linen.Dense(8)(x))
        return flax.linen.Dense(CLASSES)(flax.linen.relu(x))


@pytest.mark.parametrize("name", ["fd_norm", "loss"])
def test_batch_statistics_are_told(name):
    model = nn.from_linen(Normed())
    x, y = np.concatenate([X] * 6), np.concatenate([Y] * 6)  # more than fits on one device at a time
    variables = model.init(jax.random.key(0), x[:1])
    with pytest.warns(UserWarning, match=r"samples interact \(BatchNorm in train mode"):
        scores.score(KEY, lambda v, x: model.train_apply(v, x, KEY)[0], variables, x, y, name=name, probes=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores.score(KEY, model.apply, variables, x, y, name=name, probes=1)


BAD = {
    "uint8": ({"x": np.zeros((25, 5), np.uint8)}, "inputs must be float, got uint8; normalise first"),
    "bfloat16": ({"x": jnp.asarray(X, jnp.bfloat16)}, "step 0.001 is below input resolution: bfloat16"),
    "high label": ({"y": np.where(np.arange(25) == 4, 3, Y)}, r"lie in \[0, 3\); got 3 at position 4 \(1 of 25\)"),
    "negative label": ({"y": Y - 9}, r"labels must lie in \[0, 3\)"),
    "fewer labels": ({"y": Y[:9]}, r"one length of at least 1; got \[25, 9\]"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, "one length of at least 1"),
    "step 0": ({"step": 0.0}, "step must be positive; got 0.0"),
    "negative step": ({"step": -1e-3}, "step must be positive; got -0.001"),
    "no probes": ({"probes": 0}, "probes must be at least 1; got 0"),
    "name": ({"name": "curvature"}, "no score 'curvature'; there are fd_norm, fd_sqnorm"),
    "nan sample": ({"x": np.where(np.arange(25)[:, None] == 7, np.nan, X).astype(np.float32)},
                   "fd_norm is NaN for 1 of 25 samples, first at position 7: the network diverged"),
    "nan network": ({"variables": jax.tree.map(lambda leaf: leaf * np.nan, VARIABLES)},
                    "fd_norm is NaN for 25 of 25 samples, first at position 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case, unchecked):
    changed, message = BAD[case]
    arguments = {"variables": VARIABLES, "x": X, "y": Y, "probes": 1} | changed
    with pytest.raises(ValueError, match=message):
        scores.score(KEY, MODEL.apply, arguments.pop("variables"), arguments.pop("x"), arguments.pop("y"), **arguments)


def test_the_epoch_of_a_missing_score_is_named():
    values = jnp.array([1.0, jnp.nan, jnp.inf, jnp.nan])
    with pytest.raises(ValueError, match="loss is NaN for 2 of 4 samples, first at position 1 after epoch 5"):
        scores.refuse_nan(values, name="loss", epoch=5)
    assert scores.refuse_nan(values[2:3], name="loss") == np.inf
