"""Black-box curvature against quadratic losses, of which everything is known, and against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core.keys import rademacher, sample_keys
from subspace_jax.privacy import zeroth_order
from subspace_jax.privacy.zeroth_order import black_box

SEEDS = st.integers(0, 2**31 - 1)
N, D, CLASSES = 6, 5, 3
EXACT = 1e-8  # float64: four losses of size 10 and a difference of size h^2, h = 1e-2 and up
FLOAT32 = 2e-2  # a fourth difference of logits rounded to 1e-7, of size h^2 = 1e-4 and less
KEY = jax.random.key(3)
Y = np.arange(N) % CLASSES


def quadratic(seed):
    """L(x) = x'A_y x / 2 + b'x + c with a Hessian A_y of its own for each label; float64, on the host."""
    rng = np.random.default_rng(seed)
    square = rng.normal(size=(CLASSES, D, D))
    hessian = square + square.transpose(0, 2, 1)

    def loss(x, y):
        return np.einsum("bi,bij,bj->b", x, hessian[y], x) / 2

    return loss, hessian, rng.normal(size=(N, D)), rng


def directions(key, number, index=None):
    keys = sample_keys(key, np.arange(N) if index is None else index)
    return (np.asarray(rademacher(keys, 2 * number + k, (D,)), np.float64) for k in (0, 1))


@given(SEEDS, st.sampled_from([1e-2, 0.3, 2.0]), st.sampled_from([1, 3]))
def test_a_quadratic_loss_gives_its_hessian_between_the_directions_for_every_step(seed, step, probes):
    loss, hessian, x, _ = quadratic(seed)
    cross, trace = [], []
    for number in range(probes):
        v, u = directions(KEY, number)
        cross.append(abs(np.einsum("bi,bij,bj->b", u, hessian[Y], v)) * 4 * step**2 / (4 * step))
        trace.append(np.einsum("bi,bij,bj->b", v, hessian[Y], v))
    for kind, expected in (("cross", cross), ("trace", trace)):
        found = black_box(KEY, loss, x, Y, kind=kind, probes=probes, step=step)
        np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=EXACT, atol=EXACT * 10)


@given(SEEDS, st.sampled_from(["cross", "trace"]))
def test_an_affine_function_changes_nothing(seed, kind):
    loss, _, x, rng = quadratic(seed)
    slope, level = rng.normal(size=(CLASSES, D)), rng.normal()

    def tilted(x, y):
        return loss(x, y) + (slope[y] * x).sum(axis=1) + level

    plain, other = (black_box(KEY, fn, x, Y, kind=kind, probes=2, step=0.1) for fn in (loss, tilted))
    np.testing.assert_allclose(other, plain, atol=EXACT * 100)


def test_the_trace_is_unbiased_and_the_mean_square_of_cross_is_the_frobenius_norm():
    loss, hessian, x, _ = quadratic(0)
    many = 4000  # draws: as many samples with the same Hessian
    x, y = np.tile(x[:1], (many, 1)), np.zeros(many, int)
    trace, cross = (black_box(KEY, loss, x, y, kind=kind, probes=1, step=0.5) for kind in ("trace", "cross"))
    for values, expected in ((trace, np.trace(hessian[0])), ((cross / 0.5) ** 2, (hessian[0] ** 2).sum())):
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(many)


def softmax(seed=0, models=None):
    rng = np.random.default_rng(seed)
    shape = (D, 8, CLASSES) if models is None else (D, 8, CLASSES, models)
    first, second = rng.normal(size=(shape[0], 8, *shape[3:])), rng.normal(size=(8, CLASSES, *shape[3:]))
    return {"a": first.astype(np.float32), "b": second.astype(np.float32)}, rng.normal(size=(N, D)).astype(np.float32)


def apply(variables, x):
    return jnp.tanh(x @ variables["a"]) @ variables["b"]


def float64_loss(variables):
    def loss(x, y):
        z = np.tanh(x.astype(np.float64) @ variables["a"]) @ variables["b"]
        return np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(len(z)), y]

    return loss


@pytest.mark.parametrize("kind", ["cross", "trace"])
def test_a_compiled_network_agrees_with_float64_on_the_host(kind):
    variables, x = softmax()
    found = zeroth_order.zeroth_order(KEY, apply, variables, x, Y, kind=kind, probes=3)
    host = black_box(KEY, float64_loss(variables), x.astype(np.float64), Y, kind=kind, probes=3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, host, rtol=FLOAT32, atol=FLOAT32 * abs(host).max())


def test_several_networks_at_once_give_what_each_gives_alone():
    variables, x = softmax(models=4)
    each = [jax.tree.map(lambda leaf, k=k: leaf[..., k], variables) for k in range(4)]
    together = jax.vmap(apply, in_axes=(-1, None), out_axes=1)
    found = zeroth_order.zeroth_order(KEY, together, variables, x, Y, probes=2)
    assert found.shape == (4, N)
    alone = np.stack([zeroth_order.zeroth_order(KEY, apply, own, x, Y, probes=2) for own in each])
    np.testing.assert_allclose(found, alone, rtol=FLOAT32, atol=FLOAT32 * alone.max())


@pytest.mark.parametrize("ask", ["network", "host"])
def test_a_score_belongs_to_its_sample_whatever_the_batch_and_the_order(ask):
    variables, x = softmax()
    index, order = np.arange(N) + 100, np.random.default_rng(1).permutation(N)

    def score(rows, **more):
        if ask == "network":
            return zeroth_order.zeroth_order(KEY, apply, variables, x[rows], Y[rows], index=index[rows], **more)
        return black_box(KEY, float64_loss(variables), x[rows], Y[rows], index=index[rows], **more)

    whole = score(np.arange(N))
    np.testing.assert_allclose(score(order, batch=4)[np.argsort(order)], whole, rtol=FLOAT32)
    np.testing.assert_allclose(score(np.array([4])), whole[[4]], rtol=FLOAT32)


def test_confident_losses_keep_their_digits():
    gaps = np.array([[40.0, 0.0, 0.0], [0.0, 0.0, 300.0]], np.float32)
    np.testing.assert_allclose(
        zeroth_order._log_losses(gaps, np.array([0, 2])), [2 * np.exp(-40.0), 2 * np.exp(-300.0)]
    )
    np.testing.assert_allclose(zeroth_order._log_losses(gaps, np.array([1, 0])), [40.0, 300.0])


GOOD = np.ones((N, D), np.float32)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "diagonal"}, "no kind 'diagonal'; there are cross, trace"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"step": 0.0}, "step must be positive"),
        ({"batch": 0}, "batch, samples per call, must be at least 1; got 0"),
        ({"x": GOOD.astype(np.uint8)}, "inputs must be float"),
        ({"x": GOOD * np.nan}, "x must be finite"),
        ({"y": Y[:-1]}, "one entry per sample"),
        ({"y": Y + 0.5}, "one integer per sample"),
    ],
)
def test_bad_input_is_refused(changed, message, unchecked):
    arrays = {"x": GOOD, "y": Y} | changed
    x, y = arrays.pop("x"), arrays.pop("y")
    with pytest.raises(ValueError, match=message):
        black_box(KEY, lambda x, y: x.sum(1), x, y, **arrays)
    with pytest.raises(ValueError, match=message):
        zeroth_order.zeroth_order(KEY, apply, softmax()[0], x, y, **arrays)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x, y: x.mean(), r"one loss a point, shape \(24,\); got \(\)"),
        (lambda x, y: np.full(len(x), np.inf), "losses must be finite"),
    ],
)
def test_a_host_function_answers_every_point(loss, message):
    with pytest.raises(ValueError, match=message):
        black_box(KEY, loss, GOOD, Y)


def test_networks_that_diverged_are_refused():
    variables, x = softmax()
    with pytest.raises(ValueError, match="logits must be finite"):
        zeroth_order.zeroth_order(KEY, apply, variables | {"b": variables["b"] * np.nan}, x, Y)
