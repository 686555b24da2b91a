"""What gives a number that means nothing is refused, with the remedy."""

import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.compression import utilized_rank
from subspace_jax.core import capture
from subspace_jax.core.moments import Moments
from tests.compression.layers import draw, fn, layer, moments_of


def small(moments):
    return {path: Moments(*(jnp.asarray(leaf, jnp.float32) for leaf in sums)) for path, sums in moments.items()}


X, KERNEL, TABLE, PARAMS, MOMENTS = layer(0)
BAD = {
    "no energy": (MOMENTS, 0.0, r"in \(0, 1\]; got 0.0 for 'w'"),
    "too much energy": (MOMENTS, 1.5, r"in \(0, 1\]; got 1.5"),
    "not a number": (MOMENTS, float("nan"), r"in \(0, 1\]; got nan"),
    "beyond float32": (small(MOMENTS), 1.0, 'float32 Gram: measure it by capture.collect.*dtype="float64"'),
    "few rows": (moments_of(X[:7]), 0.99, "'w' saw 7 rows of 8 features.*give at least 8 rows, better 160"),
    "no input": (moments_of(0 * X), 0.99, "'w' gives only zeros on these rows"),
    "another layer": (MOMENTS, {"v": 0.9}, "no layer 'v' in the table and the moments; there are w"),
    "not measured": ({}, {"w": 0.9}, "no layer 'w' in the table and the moments; there are none"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", [utilized_rank.utilization, utilized_rank.project, utilized_rank.factorise])
def test_bad_input_is_refused(case, method):
    moments, energy, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        method(TABLE, PARAMS, moments, energy=energy)


def test_a_kernel_that_reads_nothing_of_its_inputs_is_refused():
    rows = np.concatenate([draw(0, 20, 4), np.zeros((20, 4))], 1)
    blind = {"w": jnp.concatenate([jnp.zeros((4, 6)), jnp.ones((4, 6))])}
    with pytest.raises(ValueError, match="'w' gives only zeros"):
        utilized_rank.utilization(TABLE, blind, moments_of(rows))


def test_float32_grams_serve_below_their_precision():
    wide, narrow = (utilized_rank.utilization(TABLE, PARAMS, m, energy=0.99)["w"] for m in (MOMENTS, small(MOMENTS)))
    assert wide[:3] == narrow[:3]


def test_packed_attention_must_be_split():
    whole = lambda p, x: x @ p["qkv"]  # noqa: E731
    split = lambda p, x: [x @ p["qkv"][:, 4 * i : 4 * i + 4] for i in range(3)]  # noqa: E731
    params, x = {"qkv": jnp.asarray(draw(0, 4, 12), jnp.float32)}, jnp.asarray(draw(1, 20, 4), jnp.float32)
    moments = capture.collect(whole, params, [x], dtype="float64")
    with pytest.raises(ValueError, match="'qkv' packs queries, keys and values in one kernel: slice"):
        utilized_rank.utilization(capture.layers(whole, params, x), params, moments)
    moments = capture.collect(split, params, [x], dtype="float64")
    use = utilized_rank.utilization(capture.layers(split, params, x), params, moments, energy=1.0)
    assert utilized_rank.ranks(use) == {"qkv[:,0:4]": 4, "qkv[:,4:8]": 4, "qkv[:,8:12]": 4}


def test_groups_are_left_out_by_name_and_treated_when_named():
    grouped = lambda p, x: jnp.einsum("gnd,gde->gne", x, p["w"])  # noqa: E731
    params, x = {"w": jnp.asarray(draw(0, 2, 4, 4), jnp.float32)}, jnp.asarray(draw(1, 2, 20, 4), jnp.float32)
    table = capture.layers(grouped, params, x, layers=["w"])
    moments = capture.collect(grouped, params, [x], layers=["w"], dtype="float64")
    with pytest.warns(UserWarning, match="left out layers with groups: w; name them in energy"):
        assert utilized_rank.utilization(table, params, moments) == {}
    np.testing.assert_array_equal(
        utilized_rank.utilization(table, params, moments, energy={"w": 1.0})["w"].rank, [4, 4]
    )


def test_tied_kernels_are_measured_but_not_edited():
    tied = lambda p, x: (x @ p["w"]) @ p["w"].T  # noqa: E731
    params, x = {"w": jnp.asarray(draw(0, 4, 3), jnp.float32)}, jnp.asarray(draw(1, 20, 4), jnp.float32)
    table, moments = capture.layers(tied, params, x), capture.collect(tied, params, [x], dtype="float64")
    assert set(utilized_rank.utilization(table, params, moments)) == {"w", "w:transposed"}
    with pytest.raises(ValueError, match="read the same numbers"):
        utilized_rank.project(table, params, moments)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="no layer was measured"):
        utilized_rank.mean_utilization({})
    with pytest.raises(ValueError, match="multiple of at least 1; got 0"):
        utilized_rank.factorise(TABLE, PARAMS, MOMENTS, multiple=0)
    with pytest.raises(ValueError, match="max_drop of at least 0; got"):
        utilized_rank.search_energy(TABLE, PARAMS, MOMENTS, lambda _: 1.0, max_drop=-0.1)
    with pytest.raises(ValueError, match=r"in \(0, 1\]; got 0\.0"):
        utilized_rank.search_energy(TABLE, PARAMS, MOMENTS, lambda _: 1.0, energies=(0.9, 0.0))
    with pytest.raises(ValueError, match="give energies"):
        utilized_rank.search_energy(TABLE, PARAMS, MOMENTS, lambda _: 1.0, energies=())
    assert fn(PARAMS, jnp.asarray(X, jnp.float32)).shape == (64, 6)
