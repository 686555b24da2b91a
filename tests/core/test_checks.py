"""The door for data: each sentence names the value, its position and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.core import checks

NAN, INF = float("nan"), float("inf")
SOFTMAX = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0.0, NAN, INF]), r"x must be finite; got nan at position 1 \(2 of 3 values\): drop or repair"),
        (jnp.array([[1.0, 2.0], [3.0, -INF]]), r"got -inf at position \(1, 1\) \(1 of 4 values\)"),
        ({"a": {"b": jnp.array([NAN], jnp.bfloat16)}}, "x 'a/b' must be finite; got nan at position 0"),
        (NAN, r"x must be finite; got nan \(1 of 1 values\)"),
    ],
)
def test_what_is_not_finite_is_refused_with_its_position(values, message):
    with pytest.raises(ValueError, match=message):
        checks.check_finite("x", values)


def test_finite_numbers_integers_keys_and_empty_arrays_pass():
    checks.check_finite("x", [np.zeros(0), np.full(3, 1e308), np.arange(3), jnp.zeros(2, bool), jax.random.key(0), 1])


def test_each_piece_of_a_spread_array_is_looked_at():
    over = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("agents",)), PartitionSpec("agents"))
    checks.check_finite("x", jax.device_put(np.zeros(4), over))
    with pytest.raises(ValueError, match="x must be finite"):
        checks.check_finite("x", jax.device_put(np.array([0, 0, 0, NAN]), over))


def test_inside_jit_and_vmap_values_are_unknown_but_shapes_are_not():
    def enter(rows, y):
        checks.check_finite("rows", rows)
        checks.check_probabilities("rows", rows)
        checks.check_labels(y, 2)
        checks.check_several(y, "this")
        checks.check_varied("rows", rows)
        return rows.sum()

    bad = np.full((2, 2), NAN), np.array([7, 7])
    assert np.isnan(jax.jit(enter)(*bad))
    assert np.isnan(jax.vmap(enter)(*(part[None] for part in bad))).all()
    with pytest.raises(ValueError, match="take the argmax of one-hot labels"):
        jax.eval_shape(enter, bad[0], np.eye(2))


def test_lengths_name_both_arrays():
    checks.check_lengths(x=np.zeros((3, 2)), y=[0, 1, 2])
    with pytest.raises(ValueError, match="x and y must have one entry per sample; got 3 and 2: select the same"):
        checks.check_lengths(x=np.zeros((3, 2)), index=np.arange(3), y=jnp.arange(2))
    with pytest.raises(ValueError, match="y has one entry per sample; got a single number, 1"):
        checks.check_lengths(x=np.zeros(3), y=1)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array(["cat", "dog"]), r"text or objects such as \['cat'\]: number the classes, np.unique"),
        (np.array([None, 1]), "text or objects"),
        (np.array([0.0, 1.0]), r"got float64: if they are class numbers, cast them by .astype\(int\)"),
        (np.array([True, False]), "got bool: if they are class numbers"),
        (np.eye(2), r"got float64 \(2, 2\): take .argmax\(axis=1\) of one-hot labels"),
        (np.array([[0], [1]]), r"int64 \(2, 1\): flatten them by .reshape\(-1\)"),
        (np.array([[0.5, 3.0], [0.1, 2.0]]), r"float64 \(2, 2\): are inputs and labels swapped\?"),
        (np.zeros((2, 8, 8, 1)), r"\(2, 8, 8, 1\): these are inputs: are inputs and labels swapped\?"),
        (np.int64(1), "give an array with one label per sample"),
        ([0, 1, 4, -1], r"labels must lie in \[0, 3\); got 4 at position 2 \(2 of 4\): map them to 0..2 or build"),
    ],
)
def test_each_wrong_kind_of_labels_has_its_own_remedy(y, message):
    with pytest.raises(ValueError, match=message):
        checks.check_labels(y, 3)


def test_any_integers_are_labels_where_the_classes_are_not_known():
    for y in ([2, 0], np.arange(3, dtype=np.uint8), jnp.array([-1, 9])):
        checks.check_labels(y)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[0.5, 0.5], [-1.0, 2.0]]), r"row 1 holds -1 to 2 and sums to 1 \(1 of 2 rows\): apply softmax"),
        (np.array([[3.0, 1.0]]), "rows of p are no probabilities: row 0 holds 1 to 3 and sums to 4"),
        (np.log(SOFTMAX), r"\(2 of 2 rows\): apply exp"),
        (np.array([[0.2, 0.2]]), "sums to 0.4"),
        (np.array([[NAN, 1.0]]), r"p must be finite; got nan at position \(0, 0\)"),
        (np.array([0.5, 0.5]), r"p are one row per sample, \(n, classes\); got shape \(2,\)"),
    ],
)
def test_rows_that_are_no_distributions_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        checks.check_probabilities("p", rows)


def test_probabilities_in_bfloat16_pass():
    logits = np.random.default_rng(0).normal(size=(8, 100))
    for dtype in (jnp.float32, jnp.bfloat16):
        checks.check_probabilities("p", jax.nn.softmax(jnp.asarray(logits, dtype)))
    checks.check_probabilities("p", SOFTMAX)


def test_one_class_and_samples_without_a_difference_are_refused():
    checks.check_several([0, 1], "this")
    with pytest.raises(ValueError, match=r"this takes samples of at least 2 classes; all 3 are of class \[4\]"):
        checks.check_several(np.full(3, 4), "this")
    checks.check_varied("samples", np.zeros((1, 2)))
    checks.check_varied("samples", np.array([[0, 0], [0, 1]]))
    with pytest.raises(ValueError, match="all 2 samples are equal: nothing tells one sample from another"):
        checks.check_varied("samples", np.zeros((2, 2)))


@pytest.mark.parametrize("values", [np.ones(2, complex), jnp.ones(2, complex), ["a"], [None]])
def test_what_is_no_real_number_is_refused_before_numpy_drops_a_part_of_it(values):
    with pytest.raises(ValueError, match=r"scores: real numbers are expected; got (complex|<U1|object)"):
        checks.as_real("scores", values)


def test_any_real_numbers_become_one_array_of_the_host():
    for values in ([1, 2], jnp.asarray([1, 2], jnp.bfloat16), np.array([True, 2])):
        found = checks.as_real("scores", values)
        assert found.dtype == np.float64
        assert found.tolist() == [1, 2]
    assert checks.as_real("scores", 1, np.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (np.zeros((1, 2, 3), np.float32), r"'a/w' is float32 \(1, 2, 3\), its parameter float32 \(2, 3\)"),
        (np.zeros((2, 3), np.complex64), r"'a/w' is complex64 \(2, 3\), its parameter float32"),
        (np.zeros((2, 3), np.int8), "'a/w' is int8"),
    ],
)
def test_updates_that_do_not_add_to_their_parameters_are_refused(update, message):
    params = {"a": {"w": np.zeros((2, 3), np.float32), "n": np.arange(2)}}
    with pytest.raises(ValueError, match=message):
        checks.check_updates({"a": {"w": update, "n": np.arange(2)}}, params)
    with pytest.raises(ValueError, match=r"'b' is float32 .*, its parameter not there: are these gradients of another"):
        checks.check_updates({"b": np.zeros(2, np.float32)}, params)
    checks.check_updates(params, params)
    checks.check_updates({"w": jnp.zeros(2, jnp.bfloat16)}, {"w": np.zeros(2, complex)})
    checks.check_updates({"w": update}, None)
