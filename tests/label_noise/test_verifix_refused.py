"""Bad input of the edit: refused with the value and the name of the layer."""

import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core.moments import Moments
from subspace_jax.label_noise.verifix import alpha_curve, verifix, verifix_select
from tests.label_noise.cases import conv_case, conv_net, measured, mlp, mlp_case

PARAMS, X = mlp_case(0)
TABLE, SEEN = measured(mlp, PARAMS, X)
SECOND = "second/kernel"


def with_gram(gram):
    return {**SEEN, SECOND: SEEN[SECOND]._replace(gram=gram)}


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alpha_is_positive_and_finite(alpha):
    with pytest.raises(ValueError, match=f"alpha is positive and finite.*got {alpha}"):
        verifix(TABLE, PARAMS, SEEN, alpha=alpha)


@pytest.mark.parametrize("alphas", [[10.0, -3.0], [float("nan")]])
def test_every_alpha_of_a_sweep_is_checked_before_the_first_edit(alphas):
    with pytest.raises(ValueError, match="alpha is positive"):
        alpha_curve(TABLE, PARAMS, SEEN, alphas=alphas, score_fn=lambda params: pytest.fail("it was edited"))


@pytest.mark.parametrize("layers", [["third"], ["second"], [SECOND, "third"], [], SECOND])
def test_a_name_that_is_no_layer(layers):
    with pytest.raises(ValueError, match="must be a list of these paths: first/kernel, second/kernel, head/kernel"):
        verifix(TABLE, PARAMS, SEEN, alpha=10, layers=layers)


def test_a_dead_layer_is_named():
    dead = {**PARAMS, "first": {**PARAMS["first"], "bias": jnp.full((1, 9), -99.0)}}
    table, seen = measured(mlp, dead, X)
    with pytest.raises(ValueError, match="inputs of layer 'second/kernel' are all zero"):
        verifix(table, dead, seen, alpha=10)
    verifix(table, dead, seen, alpha=10, layers=["first/kernel", "head/kernel"])


def test_one_dead_iteration_of_a_scanned_layer_is_refused():
    params, x = conv_case(0)
    params = {**params, "scanned": params["scanned"].at[0].set(0)}
    table, seen = measured(conv_net, params, x)
    with pytest.raises(ValueError, match="inputs of layer 'scanned' are all zero"):
        verifix(table, params, seen, alpha=10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_not_finite_name_the_layer(value):
    broken = {**PARAMS, "first": {**PARAMS["first"], "bias": jnp.full((1, 9), value)}}
    table, seen = measured(mlp, broken, X)
    with pytest.raises(ValueError, match="Gram of 'second/kernel' over the trusted samples must be finite"):
        verifix(table, broken, seen, alpha=10)


def test_moments_of_another_network_or_of_other_layers():
    with pytest.raises(ValueError, match=r"Gram of 'second/kernel' is \(9, 9\); got \(4, 4\)"):
        verifix(TABLE, PARAMS, with_gram(np.eye(4)), alpha=10)
    seen = {"first/kernel": SEEN["first/kernel"]}
    with pytest.raises(ValueError, match="no moments of layer 'second/kernel', only of first/kernel"):
        verifix(TABLE, PARAMS, seen, alpha=10)
    verifix(TABLE, PARAMS, seen, alpha=10, layers=["first/kernel"])


def test_a_gram_too_coarse_for_alpha():
    rounded = np.diag([1.0] * 8 + [-1e-7])  # what a float32 sum makes of a direction without energy
    verifix(TABLE, PARAMS, with_gram(rounded), alpha=1e4)
    with pytest.raises(ValueError, match=r"'second/kernel' is too coarse for alpha=1e.12: .*float64"):
        verifix(TABLE, PARAMS, with_gram(rounded), alpha=1e12)


def test_a_leaf_used_from_both_sides_is_refused_by_name():
    params, x = {"w": jnp.eye(4) + 1}, jnp.ones((3, 4))
    table, seen = measured(lambda params, x: (x @ params["w"]) @ params["w"].T, params, x)
    with pytest.raises(ValueError, match="'w' and 'w:transposed' read the same numbers"):
        verifix(table, params, seen, alpha=10)


def test_a_selection_needs_alphas_and_scores():
    with pytest.raises(ValueError, match="alphas is empty"):
        verifix_select(TABLE, PARAMS, SEEN, alphas=[], score_fn=lambda params: 1.0)
    with pytest.raises(ValueError, match="score_fn gives NaN at alpha=None"):
        verifix_select(TABLE, PARAMS, SEEN, alphas=[1e2], score_fn=lambda params: np.nan)


def test_float32_moments_are_taken():
    narrow = {path: Moments(*(jnp.asarray(part, jnp.float32) for part in seen)) for path, seen in SEEN.items()}
    edits = [verifix(TABLE, PARAMS, seen, alpha=1e3)["head"]["kernel"] for seen in (narrow, SEEN)]
    np.testing.assert_allclose(*edits, atol=1e-4)  # of the card: a float32 Gram at alpha = 1e3..1e4
