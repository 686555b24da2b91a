"""What the tests of capture compare with: sums over explicit rows, in float64."""

import jax
import jax.numpy as jnp
import numpy as np

FLOAT32_SUM = 2e-4  # another order of the same sums of some hundred products


def draw(seed, *shape):
    """Normal numbers by NumPy, which compiles nothing for a new shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def drawn(init, *args):
    """What `init` gives, with normal numbers over the square root of the inputs of each kernel."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        scale = max(1, int(np.prod(leaf.shape[:-1]))) ** -0.5
        return jnp.asarray(rng.normal(size=leaf.shape) * scale, leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(init, *args))


def gram(rows):
    rows = np.asarray(rows, np.float64)
    return np.einsum("...nd,...ne->...de", rows, rows)


def assert_grams(found, expected, atol=FLOAT32_SUM):
    """Moments by path against rows by path."""
    assert sorted(found) == sorted(expected)
    for path, rows in expected.items():
        rows = np.asarray(rows, np.float64)
        np.testing.assert_allclose(found[path].gram, gram(rows), atol=atol, err_msg=path)
        np.testing.assert_allclose(found[path].total, rows.sum(-2), atol=atol)
        assert float(found[path].count) == rows.shape[-2]
