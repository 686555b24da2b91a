"""What the tests of capture compare with: sums over explicit rows, in float64."""

import jax
import numpy as np

FLOAT32_SUM = 2e-4  # another order of the same sums of some hundred products


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


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
