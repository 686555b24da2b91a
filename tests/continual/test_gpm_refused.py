"""Bad input: refused with the value, the bound or the name of the layer, before anything is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.continual import gpm, sgp
from subspace_jax.core import capture
from tests.continual.cases import WIDTHS, empty, host, moments_of, plain, plain_case

PARAMS = plain_case(0)
TABLE = capture.layers(plain, PARAMS, jnp.zeros((1, WIDTHS[0])))
BASES, SEEN = empty(6), moments_of(host(0, 20, 6))


@pytest.fixture(params=[gpm.gpm, sgp.sgp], ids=["gpm", "sgp"])
def transform(request):
    return request.param


@pytest.mark.parametrize("energy", [-0.1, 1.5, float("nan"), {"w": 2.0}])
def test_energy_is_a_share(energy):
    with pytest.raises(ValueError, match=r"energy is the kept share .* in \[0, 1\]; got .* for 'w'"):
        gpm.update(BASES, SEEN, energy=energy)


@pytest.mark.parametrize("energy", [{}, {"v": 0.9}, {"w": 0.9, "v": 0.9}])
def test_energies_are_of_the_layers_there_are(energy):
    with pytest.raises(ValueError, match=r"energy names .*; the bases are of w"):
        gpm.update(BASES, SEEN, energy=energy)


def test_an_unknown_rule(unchecked):
    with pytest.raises(ValueError, match="rule is 'paper' or 'released'; got 'papre'"):
        gpm.update(BASES, SEEN, energy=0.9, rule="papre")


def test_moments_of_other_layers_or_other_sizes():
    with pytest.raises(ValueError, match="no moments of layer 'w', only of v"):
        gpm.update(BASES, {"v": SEEN["w"]}, energy=0.9)
    with pytest.raises(ValueError, match=r"Gram of 'w' is \(5, 5\), its basis \(6, 6\): sizes may not change"):
        gpm.update(BASES, moments_of(host(0, 20, 5)), energy=0.9)


@pytest.mark.parametrize("x", [np.zeros((0, 6)), np.full((3, 6), np.nan), np.full((3, 6), np.inf)])
def test_a_task_without_samples_or_with_activations_that_are_not_finite(x):
    with pytest.raises(ValueError, match=r"moments of 'w' hold [03] rows, or a NaN"):
        gpm.update(BASES, moments_of(x), energy=0.9)


@pytest.mark.parametrize("heads", ["head", ["hed"], ["head", "first/ker"]])
def test_a_head_that_names_nothing(transform, heads):
    with pytest.raises(ValueError, match=r"heads is a list of paths or their beginnings; '.*' is none of first/kernel"):
        transform(TABLE, heads=heads)


def test_heads_that_leave_nothing_to_protect(transform):
    with pytest.raises(ValueError, match="leave no layer to protect of first/kernel, second/kernel, head/kernel"):
        transform(TABLE, heads=["first", "second", "head"])


def test_parameters_of_another_network(transform):
    tx = transform(TABLE)
    with pytest.raises(ValueError, match=r"no kernel 'second/kernel', only .*: trace"):
        tx.init({name: PARAMS[name] for name in ("first", "head")})
    other = {**PARAMS, "second": {"kernel": jnp.ones((5, 5)), "bias": jnp.ones(5)}}
    with pytest.raises(ValueError, match="the parameters are not those of the table"):
        jax.eval_shape(tx.init, other)


def test_a_kernel_that_something_else_reads_is_refused_by_name(transform):
    params = {"w": jnp.ones((4, 4))}
    both = capture.layers(lambda p, x: (x @ p["w"]) @ p["w"].T, params, jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="'w' and 'w:transposed' read the same numbers"):
        transform(both).init(params)
    tied = capture.layers(lambda p, i: p["w"][i] @ p["w"].T, params, jnp.arange(3))
    with pytest.raises(ValueError, match="the kernel of 'w' is also read by"):
        transform(tied).init(params)


@pytest.mark.parametrize("a", [-1.0, float("nan"), float("inf")])
def test_the_slope_of_sgp(a):
    with pytest.raises(ValueError, match="a is finite and at least 0"):
        sgp.update(sgp.SGPState(BASES, {"w": jnp.zeros(6)}), SEEN, energy=0.9, a=a)
