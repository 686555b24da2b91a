"""A function is another one as soon as it reads other values."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import capture
from subspace_jax.core.closures import current

X = jnp.ones((3, 2))
factor = 1.0  # a global that a function below reads


class Scaled:
    def __init__(self, scale):
        self.inner = {"scale": scale}

    def apply(self, params, x):
        return (x @ params["w"]) * self.inner["scale"]


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, params, x):
        return self.scale * x @ params["w"]


def reads_a_global(params, x):
    return [factor * row for row in x]


def with_default(params, x, *, scale=(1.0,)):
    return scale[0] * x


def closing_over(value):
    held = [value]

    def fn(params, x):
        return held[0] * x

    return fn, lambda new: held.__setitem__(0, new)


def method(value):
    owner = Scaled(value)
    return owner.apply, lambda new: owner.inner.update(scale=new)


def slotted(value):
    owner = Slotted(value)
    return owner, lambda new: setattr(owner, "scale", new)


def partial(value):
    fn, change = closing_over(value)
    return functools.partial(fn, {}), change


def default(value):
    return with_default, lambda new: setattr(with_default, "__kwdefaults__", {"scale": (new,)})


def of_the_file(value):
    return reads_a_global, lambda new: globals().update(factor=new)


@pytest.mark.parametrize("make", [closing_over, method, slotted, partial, default, of_the_file])
@pytest.mark.parametrize(
    ("old", "new"), [(1.0, 2.0), (0.0, -0.0), (1, True), (X, X + 0), (np.zeros(2), np.ones(2)), ("a", "b")]
)
def test_a_function_is_another_one_once_it_reads_another_value(make, old, new):
    fn, change = make(old)
    change(old)
    before = current(fn)
    assert current(fn) is before
    change(new)
    assert current(fn) is not before
    change(old)
    assert current(fn) is before


def test_arrays_of_numpy_are_compared_by_what_they_hold():
    held = np.zeros(3)
    fn, _ = closing_over(held)
    before = current(fn)
    held[1] = 5
    assert current(fn) is not before


def test_equal_modules_are_one_function():
    assert current(nn.Dense(3).apply) is current(nn.Dense(3).apply)
    assert current(nn.Dense(3).apply) is not current(nn.Dense(4).apply)


def test_what_cannot_be_compared_is_new_each_time():
    fn, _ = closing_over(np.random.default_rng(0))
    assert current(fn) is not current(fn)


def test_functions_that_hold_themselves_are_read_once():
    def fn(params, x):
        return fn, x

    assert current(fn) is current(fn)


def test_nothing_is_measured_with_old_values():
    owner, params = Scaled(1.0), {"w": jnp.ones((2, 2))}
    loss = lambda params, x: owner.apply(params, x).sum()  # noqa: E731
    first = capture.collect(loss, params, [X], of="gradients")["w"].gram
    owner.inner["scale"] = 3.0
    np.testing.assert_allclose(capture.collect(loss, params, [X], of="gradients")["w"].gram, 9 * first)
    np.testing.assert_allclose(capture.observe(owner.apply, params, X)[0], 6.0)
    owner.inner["scale"] = 1.0
    np.testing.assert_allclose(capture.observe(owner.apply, params, X)[0], 2.0)
