"""Edits under `vmap` and `jit`: in float32 where there is such a form, one sentence where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.compression import baselines, utilized_rank
from subspace_jax.continual import gpm
from subspace_jax.core import capture
from subspace_jax.label_noise.verifix import verifix
from subspace_jax.unlearning.class_projection import unlearn_classes
from tests.core.grams import draw

N, D, H, OUT = 12, 5, 6, 3
FLOAT32_SOLVE = 1e-4  # of the resolvent at a strength of at most 1e4, on kernels of size 1
X, Z = draw(0, N, D), draw(1, N, D) * jnp.arange(1.0, 1 + D)[None]


def fn(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def seed(i):
    return {"first": draw(10 + i, D, H) / 2, "second": draw(20 + i, H, OUT)}


SEEDS = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(seed, range(2)))
TABLE = capture.layers(fn, seed(0), X)


def exact(params, x):
    return capture.collect(fn, params, [x], dtype="float64")


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=FLOAT32_SOLVE), found, expected)


def test_verifix_of_many_seeds_is_one_program():
    run = jax.jit(jax.vmap(lambda p: verifix(TABLE, p, capture.observe(fn, p, X)[1], alpha=100.0)))
    expected = [verifix(TABLE, seed(i), exact(seed(i), X), alpha=100.0) for i in range(2)]
    close(run(SEEDS), jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_verifix_of_many_strengths_is_one_program():
    params, alphas = seed(0), jnp.array([1.0, 30.0, 1e4])
    run = jax.jit(jax.vmap(lambda alpha: verifix(TABLE, params, exact_moments, alpha=alpha)))
    exact_moments = exact(params, X)
    expected = [verifix(TABLE, params, exact_moments, alpha=float(alpha)) for alpha in alphas]
    close(run(alphas), jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


@pytest.mark.parametrize("moments", ["float64 on the host", "of each seed"])
def test_unlearning_of_many_seeds_is_one_program(moments):
    host = exact(seed(0), X), exact(seed(0), Z)

    def one(params):
        own = [capture.observe(fn, params, part)[1] for part in (X, Z)] if moments == "of each seed" else host
        return unlearn_classes(TABLE, params, *own, alpha_r=100.0, alpha_f=3.0)

    found = jax.jit(jax.vmap(one))(SEEDS)
    for i in range(2):
        own = [exact(seed(i), part) for part in (X, Z)] if moments == "of each seed" else host
        expected = unlearn_classes(TABLE, seed(i), *own, alpha_r=100.0, alpha_f=3.0)
        close(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected)


MOMENTS = exact(seed(0), X)
HOST = {
    "collect with float64 sums": lambda p: exact(p, X),
    "spectra": lambda p: utilized_rank.project(TABLE, p, MOMENTS, energy=0.9),
    "an edit of this kind": lambda p: baselines.plain_svd(TABLE, p, ranks={"first": 2}),
    "update": lambda p: gpm.update(gpm.init(TABLE), capture.observe(fn, p, X)[1], energy=0.9),
}


@pytest.mark.parametrize("name", HOST)
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_what_needs_float64_says_so(name, transform):
    params = SEEDS if transform is jax.vmap else seed(0)
    with pytest.raises(ValueError, match=rf"{name} computes on the host, in NumPy: call it outside jit"):
        transform(HOST[name])(params)
