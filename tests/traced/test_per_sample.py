"""Inside a user's program a sample that is not finite spoils its own answer, never those of others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traced.per_sample import QUICK, TABLE, N
from tests.traced.wrong import DTYPES, SHAPES, outcome

COMPILED = 1e-4  # relative: sums of a few float32 numbers in another order
INEXACT = {name: [at for at, part in enumerate(entry.arrays) if jnp.issubdtype(part.dtype, jnp.inexact)]
           for name, entry in TABLE.items()}  # fmt: skip

ENTRIES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.process) for name in TABLE]


@functools.cache
def compiled(name):
    return jax.jit(TABLE[name].fn)


def answers(name, *arrays):
    """All arrays that come back, the samples first."""
    return [np.moveaxis(np.asarray(leaf), TABLE[name].axis, 0) for leaf in jax.tree.leaves(compiled(name)(*arrays))]


@functools.cache
def right(name):
    return answers(name, *TABLE[name].arrays)


def spoiled(name, data, value):
    """The answers where one number of one sample is replaced, and the sample."""
    arrays, at = list(TABLE[name].arrays), data.draw(st.sampled_from(INEXACT[name]))
    sample, changed = data.draw(st.integers(0, N - 1)), np.array(arrays[at])
    row = changed[sample : sample + 1].reshape(-1)  # a view
    row[0 if TABLE[name].first else data.draw(st.integers(0, row.size - 1))] = value
    arrays[at] = jnp.asarray(changed)
    return answers(name, *arrays), sample


@pytest.mark.parametrize("name", ENTRIES)
@given(st.data())
def test_what_is_not_finite_stays_with_its_sample(name, data):
    value = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, TABLE[name].most, -TABLE[name].most, 0.0]))
    found, sample = spoiled(name, data, value)
    for of_spoiled, of_right in zip(found, right(name), strict=True):
        np.testing.assert_array_equal(np.delete(of_spoiled, sample, 0), np.delete(of_right, sample, 0))
        if np.isnan(value) and not TABLE[name].counts:
            assert np.isnan(of_spoiled[sample]).any()
        if np.isfinite(value):
            assert not np.isnan(of_spoiled[sample]).any()


@pytest.mark.process
@pytest.mark.parametrize("name", TABLE)
def test_jit_says_what_a_plain_call_says(name):
    for plain, traced in zip(jax.tree.leaves(TABLE[name].fn(*TABLE[name].arrays)), right(name), strict=True):
        plain = np.moveaxis(np.asarray(plain), TABLE[name].axis, 0)
        np.testing.assert_allclose(plain, traced, rtol=COMPILED, atol=COMPILED)


@pytest.mark.process
@pytest.mark.parametrize("name", TABLE)
def test_other_shapes_are_refused_while_the_program_is_traced(name):
    entry, faults = TABLE[name], {}
    for at in range(len(entry.arrays)):
        for kind, change in (SHAPES | DTYPES).items():
            arrays = list(entry.arrays)
            arrays[at] = change(arrays[at])
            found, fault = outcome(entry.fn, *arrays)
            reshaped = np.shape(arrays[at]) != np.shape(entry.arrays[at])
            if found is not None and reshaped and len(arrays) > 1 and not entry.broadcasts:
                fault = f"an answer {[leaf.shape for leaf in jax.tree.leaves(found)]}"
            if fault:
                faults[f"argument {at}, {kind}"] = fault
    assert faults == {}
