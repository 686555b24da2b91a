"""Attacks that must succeed where the update tells the sample, guesses in NumPy, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.federated import fedavg, inversion
from tests.federated import cases

SEEDS = st.integers(0, 2**31 - 1)
KEY = jax.random.key(0)
REBUILT = 1e-3  # mean squared error of an attack that succeeds
PARAMS = cases.draw(1, cases.DEEP)


def private(seed, n=1):
    rng = np.random.default_rng(seed)
    return rng.random((n, cases.INPUTS)).astype(np.float32), rng.integers(0, cases.CLASSES, n).astype(np.int32)


def gradient(x, y, lr=1.0):
    return fedavg.local_update(cases.SMOOTH, PARAMS, (x[None], y[None]), lr=lr)[0]


@given(SEEDS)
def test_every_unit_of_a_dense_layer_tells_a_single_sample(seed):
    x, y = private(seed)
    update = gradient(x, y, lr=0.3)
    np.testing.assert_allclose(
        inversion.analytic(update["first"], update["shift"]), np.repeat(x, cases.HIDDEN, 0), atol=1e-4
    )


@given(SEEDS)
def test_of_several_samples_a_unit_tells_their_mean_weighted_by_its_errors(seed):
    rng = np.random.default_rng(seed)
    x, errors = rng.normal(size=(3, 5)), rng.normal(size=(3, 4))
    errors[:, 2] = 0
    kernel, bias = (part.astype(np.float32) for part in (x.T @ errors, errors.sum(0)))
    found = inversion.analytic(kernel, bias)
    np.testing.assert_array_equal(found[2], 0)
    for unit in (0, 1, 3):
        expected = sum(errors[i, unit] * x[i] for i in range(3)) / errors[:, unit].sum()
        assert np.abs(found[unit] - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-4


@functools.cache
def attack(restarts):
    def run(key, update, y):
        return inversion.inverting_gradients(
            key, cases.SMOOTH, PARAMS, update, y, shape=(cases.INPUTS,), steps=400, tv=0.0, restarts=restarts
        )

    return jax.jit(run)


def test_a_single_sample_is_rebuilt_from_the_direction_of_its_update():
    x, y = private(3)
    for length in (1.0, 0.01):
        found = attack(4)(KEY, gradient(x, y, lr=length), y)
        assert np.square(found.x - x).mean() < REBUILT
        assert found.objective < REBUILT
        assert found.x.min() >= 0
        assert found.x.max() <= 1


def test_more_starts_never_end_higher_and_another_sample_is_not_rebuilt():
    """The first of several starts is that of one alone with the same key only by chance: compare objectives."""
    x, y = private(4)
    update = gradient(x, y)
    many = attack(4)(KEY, update, y)
    own = jax.grad(lambda w: cases.SMOOTH(w, many.x, jnp.asarray(y)).mean())(PARAMS)
    np.testing.assert_allclose(many.objective, fedavg.distance(own, update), atol=cases.FLOAT32)
    other, label = private(9)
    assert np.square(attack(4)(KEY, gradient(other, label), label).x - x).mean() > 10 * REBUILT


@given(SEEDS)
def test_total_variation_is_that_of_loops(seed):
    x = np.random.default_rng(seed).random((2, 4, 3, 1))
    down = [abs(image[i + 1, j] - image[i, j]) for image in x for i in range(3) for j in range(3)]
    across = [abs(image[i, j + 1] - image[i, j]) for image in x for i in range(4) for j in range(2)]
    expected = np.mean(down) + np.mean(across)
    assert float(inversion.total_variation(jnp.asarray(x, jnp.float32))) == pytest.approx(expected, rel=1e-5)


def test_images_are_smoothed_by_a_large_total_variation():
    def loss(w, x, y):
        return cases.LINEAR(w, x.reshape(len(x), -1)[:, : cases.INPUTS], y)

    params, y = cases.draw(0), np.array([0])
    update = jax.grad(lambda w: loss(w, jnp.linspace(0, 1, 6).reshape(1, 2, 3, 1), jnp.asarray(y)).mean())(params)
    settings = {"shape": (2, 3, 1), "steps": 40, "restarts": 1}
    rough, smooth = (
        inversion.inverting_gradients(KEY, loss, params, update, y, tv=tv, **settings).x for tv in (1e-3, 100.0)
    )
    assert inversion.total_variation(smooth) < 0.5 * inversion.total_variation(rough)


def test_dlg_rebuilds_sample_and_label_from_one_of_a_few_starts():
    x, y = private(5)
    update = gradient(x, y)

    def run(key):
        sizes = {"images": 1, "shape": (cases.INPUTS,), "classes": cases.CLASSES}
        return inversion.dlg(key, cases.SMOOTH, PARAMS, update, **sizes, steps=40)

    found = jax.jit(jax.vmap(run))(jax.random.split(KEY, 4))
    best = int(found.objective.argmin())
    assert found.objective[best] < 1e-6
    assert np.square(found.x[best] - x).mean() < REBUILT


@given(SEEDS)
def test_guesses_are_class_means_and_images_drawn_once(seed):
    rng = np.random.default_rng(seed)
    images, y = rng.random((12, 4, 4, 1)), np.arange(12) % 3
    means = inversion.guess(images, y, np.array([2, 0, 2]))
    np.testing.assert_allclose(means, [images[y == label].mean(0) for label in (2, 0, 2)])
    drawn = inversion.guess_random(jax.random.key(seed), images, count=12)
    np.testing.assert_array_equal(np.sort(drawn.ravel()), np.sort(images.ravel()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps: at least 1; got 0"),
        ({"restarts": 0}, "restarts: at least 1; got 0"),
        ({"labels": np.zeros(0, int)}, "labels: at least 1; got 0"),
        ({"labels": np.zeros(1)}, "labels must be one integer per sample"),
        ({"lr": 0.0}, "lr is above 0, tv at least 0, low below high; got 0.0, 0.01, 0.0 and 1.0"),
        ({"low": 1.0}, "low below high"),
        ({"tv": 0.1}, r"total variation is of images \(h, w, c\); got samples of shape \(5,\): set tv to 0"),
    ],
)
def test_bad_input_is_refused(changed, message, unchecked):
    settings = {"labels": np.array([0]), "shape": (cases.INPUTS,)} | changed
    with pytest.raises(ValueError, match=message):
        inversion.inverting_gradients(KEY, cases.SMOOTH, PARAMS, PARAMS, settings.pop("labels"), **settings)


def test_guesses_of_what_there_is_not_are_refused():
    images = np.zeros((3, 4, 4, 1))
    with pytest.raises(ValueError, match="there is no image of class 2"):
        inversion.guess(images, np.array([0, 1, 1]), np.array([0, 2]))
    with pytest.raises(ValueError, match=r"count is in \[1, 3\], the number of images; got 4"):
        inversion.guess_random(KEY, images, count=4)
    with pytest.raises(ValueError, match="images: at least 1; got 0"):
        inversion.dlg(KEY, cases.SMOOTH, PARAMS, PARAMS, images=0, shape=(5,), classes=3)
