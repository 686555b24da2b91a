"""What is computed one after the other is what `vmap` gives, and on a CPU no loop is left."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax import nn
from subspace_jax.core.turns import one_by_one

MEMBERS = 3


@pytest.fixture(scope="module")
def network():
    model = nn.build("cnn2", classes=2, widths=(2, 2))
    x = jax.random.normal(jax.random.key(0), (MEMBERS, 2, 6, 6, 1))
    return model, jax.vmap(lambda key: model.init(key, x[0]))(jax.random.split(jax.random.key(1), MEMBERS)), x


def gradient(model):
    return lambda variables, x: jax.grad(lambda v: (model.apply(v, x) ** 2).sum())(variables)


def test_gradients_of_several_networks(network):
    model, variables, x = network
    own = gradient(model)
    turned = jax.jit(jax.vmap(one_by_one(own)))
    chex.assert_trees_all_close(turned(variables, x), jax.vmap(own)(variables, x), rtol=1e-5, atol=1e-6)
    assert "while" not in turned.lower(variables, x).as_text()


def test_what_all_share_and_batches_of_batches():
    fn = one_by_one(lambda a, b: {"dot": a @ b["x"], "shared": b["y"] + 1})
    a, b = jnp.arange(24.0).reshape(2, 3, 4), {"x": jnp.arange(12.0).reshape(3, 4), "y": jnp.ones(())}
    found = jax.vmap(jax.vmap(fn, in_axes=(0, {"x": 0, "y": None})), in_axes=(0, None))(a, b)
    np.testing.assert_allclose(found["dot"], np.einsum("ijk,jk->ij", a, b["x"]))
    np.testing.assert_array_equal(found["shared"], np.full((2, 3), 2.0))
    chex.assert_trees_all_equal(
        fn(a[0, 0], {"x": b["x"][0], "y": b["y"]}), jax.tree.map(lambda leaf: leaf[0, 0], found)
    )
