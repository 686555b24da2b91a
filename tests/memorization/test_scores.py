import dataclasses
import functools
import inspect
import typing
import warnings

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from subspace_jax import nn
from subspace_jax.core import curvature, losses
from subspace_jax.core.keys import sample_keys
from subspace_jax.memorization import scores
from tests.several import together

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
    options = {name: {"step": STEP} for name in ("fd_norm", "fd_sqnorm", "fd_quad")} | {"hutchinson": {}, "hv_norm": {}}
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


@functools.partial(jax.jit, static_argnums=0)
def all_scores(apply, x):
    fns = {name: scores.scorer(name, apply, probes=1, step=STEP) for name in scores.TABLE}
    return {name: fn(sample_keys(KEY, INDEX), VARIABLES, x, Y) for name, fn in fns.items()}


def joined(variables, x):
    """The network, for inputs in two parts."""
    return MODEL.apply(variables, jnp.concatenate([x["left"], x["right"].reshape(len(x["right"]), -1)], axis=1))


PARTS = {"left": X[:, :2], "right": X[:, 2:, None]}
by_name = functools.cache(lambda: all_scores(MODEL.apply, X))
of_parts = functools.cache(lambda: all_scores(joined, PARTS))


def assert_close(found, oracle):
    np.testing.assert_allclose(found, oracle, atol=OTHER_PROGRAM * np.abs(oracle).max())


@pytest.mark.parametrize("name", scores.TABLE)
def test_a_score_is_the_quantity_it_is_named_after(name):
    assert_close(by_name()[name], direct()[name])


@pytest.mark.parametrize("name", scores.TABLE)
def test_a_tree_of_inputs_is_scored_as_one_vector_of_its_entries(name):
    assert_close(of_parts()[name], by_name()[name])


def test_a_whole_data_set_is_scored_in_batches():
    options = {"probes": 1, "step": STEP, "index": INDEX, "batch": 16}
    assert_close(scores.score(KEY, MODEL.apply, VARIABLES, X, Y, **options), direct()["fd_norm"])
    assert_close(scores.score(KEY, joined, VARIABLES, PARTS, Y, **options), direct()["fd_norm"])


def test_the_choices_of_a_flag_are_the_names_of_the_table():
    assert typing.get_args(scores.Name) == tuple(scores.TABLE)
    config = dataclasses.make_dataclass("Config", [("score", scores.Name, "fd_norm")])
    assert tyro.cli(config, args=["--score", "hv_norm"]).score == "hv_norm"
    with pytest.raises(SystemExit):
        tyro.cli(config, args=["--score", "curvature"])


@pytest.mark.parametrize("name", scores.TABLE)
def test_the_table_names_all_that_a_function_takes(name):
    function, needs = scores.TABLE[name]
    assert {"variables", "x", *needs} == set(inspect.signature(function).parameters) - {"chunk"}


def test_numpy_of_any_width_is_taken():
    reference = scores.score(KEY, MODEL.apply, VARIABLES, X, Y, name="loss")
    wide = scores.score(KEY, MODEL.apply, VARIABLES, X.astype(np.float64), Y.astype(np.int64), name="loss")
    np.testing.assert_array_equal(wide, reference)
    swapped = scores.score(KEY, MODEL.apply, VARIABLES, X.astype(">f4"), Y.astype(">i4"), name="loss")
    np.testing.assert_array_equal(swapped, reference)


def test_a_list_of_samples_is_one_array(unchecked):
    found = scores.score(KEY, MODEL.apply, VARIABLES, list(X), list(Y), name="loss")
    np.testing.assert_array_equal(found, scores.score(KEY, MODEL.apply, VARIABLES, X, Y, name="loss"))


def test_probabilities_in_place_of_logits_are_told():
    with pytest.warns(UserWarning, match="scores take logits, so drop the softmax at its end"):
        scores.score(KEY, lambda v, x: jax.nn.softmax(MODEL.apply(v, x)), VARIABLES, X, Y, name="loss")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores.score(KEY, MODEL.apply, VARIABLES, X, Y, name="loss")


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
    "tokens": ({"x": np.zeros((25, 5), int)}, "inputs must be float, got int64; .* start at the embedding"),
    "tokens in a tree": ({"x": {"text": np.zeros((25, 5), int), "image": X}},
                         r"got int64 in x\['text'\]; .* embedding"),
    "nothing": ({"x": {}}, "x must be an array of floats or a tree of such arrays; got {}"),
    "bfloat16": ({"x": jnp.asarray(X, jnp.bfloat16)}, "step 0.001 is below input resolution: bfloat16"),
    "high label": ({"y": np.where(np.arange(25) == 4, 3, Y)}, r"lie in \[0, 3\); got 3 at position 4 \(1 of 25\)"),
    "negative label": ({"y": Y - 9}, r"labels must lie in \[0, 3\)"),
    "fewer labels": ({"y": Y[:9]}, "x and y must have one entry per sample; got 25 and 9"),
    "a shorter part": ({"x": {"left": X, "right": X[:9]}},
                       r"x\['left'\] and x\['right'\] must have one entry per sample"),
    "fewer numbers": ({"index": INDEX[:9]}, "index and y must have one entry per sample; got 9 and 25"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, "one length of at least 1"),
    "no batch": ({"batch": 0}, "batch, samples per call, must be at least 1; got 0"),
    "step 0": ({"step": 0.0}, "step must be positive; got 0.0"),
    "negative step": ({"step": -1e-3}, "step must be positive; got -0.001"),
    "no probes": ({"probes": 0}, "probes must be at least 1; got 0"),
    "name": ({"name": "curvature"}, "no score 'curvature'; there are fd_norm, fd_sqnorm"),
    "seed": ({"key": 0}, "got the seed 0: give jax.random.key"),
    "nan sample": ({"x": np.where(np.arange(25)[:, None] == 7, np.nan, X).astype(np.float32)},
                   r"x must be finite; got nan at position \(7, 0\) \(5 of 125 values\)"),
    "nan network": ({"variables": jax.tree.map(lambda leaf: leaf * np.nan, VARIABLES)},
                    "fd_norm is NaN for 25 of 25 samples, first at position 0"),
    "a tuple": ({"apply": lambda v, x: (MODEL.apply(v, x), x)},
                r"logits alone; got a tuple: pick them, as in lambda variables, x: apply\(variables, x\)\[0\]"),
    "one logit": ({"apply": lambda v, x: MODEL.apply(v, x)[:, :1]}, "one logit a sample, .* two classes"),
    "a vector": ({"apply": lambda v, x: MODEL.apply(v, x)[:, 0]}, "one logit a sample, .* two classes"),
    "one sample": ({"apply": lambda v, x: jnp.ravel(x) @ np.ones((5, 3), np.float32)},
                   r"takes one sample, not a batch \(2, 5\): give jax.vmap\(apply, in_axes=\(None, 0\)\)"),
    "sequences": ({"apply": lambda v, x: MODEL.apply(v, x)[:, None]}, r"logits \(n, classes\); of two .* \(2, 1, 3\)"),
    "another size": ({"x": X[:, :4]}, r"apply\(variables, x\) fails for two samples, x of shape \(2, 4\): "),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(case, unchecked):
    changed, message = BAD[case]
    given = {"key": KEY, "apply": MODEL.apply, "variables": VARIABLES, "x": X, "y": Y, "probes": 1} | changed
    with pytest.raises(ValueError, match=message):
        scores.score(**given)


def test_several_processes_refuse_together_what_one_of_them_finds_in_its_part(monkeypatch):
    bad = X.copy()
    bad[20, 3] = np.nan

    def refused():
        with pytest.raises(ValueError, match="x") as error:
            scores.score(KEY, MODEL.apply, VARIABLES, bad, Y)
        return str(error.value)

    first, second = together(monkeypatch, 2, refused)
    assert first == "x must be finite; it is not in the part of process 1."
    assert second.startswith("x[12:25] must be finite; got nan at position (8, 3) (1 of 65 values)")


def test_a_call_inside_jit_is_told_of_the_scorer():
    with pytest.raises(ValueError, match=r"not for jit, grad or vmap; inside them use scorer\('loss', apply\)"):
        jax.jit(lambda x: scores.score(KEY, MODEL.apply, VARIABLES, x, Y, name="loss"))(X)


def test_the_epoch_of_a_missing_score_is_named():
    values = jnp.array([1.0, jnp.nan, jnp.inf, jnp.nan])
    with pytest.raises(ValueError, match="loss is NaN for 2 of 4 samples, first at position 1 after epoch 5"):
        scores.refuse_nan(values, name="loss", epoch=5)
    assert scores.refuse_nan(values[2:3], name="loss") == np.inf
