"""Mixtures and the auxiliary class: limits of their shares, moments, targets, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import losses
from subspace_jax.ood import auxiliary_class, vrm

SEEDS = st.integers(0, 2**20)
K, B = 3, 12
NOISE = ((0.3, -0.1), (0.5, 2.0))


def batch(seed, b=B):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(b, 2, 2)), jnp.float32), jnp.asarray(rng.integers(K, size=b))


@given(SEEDS)
def test_partners_are_a_permutation_within_every_class(seed):
    _, y = batch(seed)
    other = np.asarray(vrm.partners(jax.random.key(seed), y))
    assert sorted(other.tolist()) == list(range(B))
    np.testing.assert_array_equal(np.asarray(y)[other], y)
    alone = np.asarray(vrm.partners(jax.random.key(seed), np.arange(4)))
    np.testing.assert_array_equal(alone, np.arange(4))


def test_every_partner_of_the_class_is_as_likely():
    y = np.array([0, 1, 0, 1, 0])
    found = jax.jit(jax.vmap(lambda key: vrm.partners(key, y)))(jax.random.split(jax.random.key(0), 2000))
    for k in (0, 1):
        mine = np.flatnonzero(y == k)
        shares = [(np.asarray(found)[:, mine[0]] == i).mean() for i in mine]
        np.testing.assert_allclose(shares, 1 / len(mine), atol=0.05)


def test_shares_of_one_and_none_give_either_end():
    x, y = batch(0)
    np.testing.assert_array_equal(vrm.blend(jnp.ones(B), x, -x), x)
    np.testing.assert_array_equal(vrm.blend(jnp.zeros(B), x, -x), -x)
    np.testing.assert_allclose(vrm.blend(jnp.full(B, 0.25), x, 0 * x), 0.25 * x)
    near = vrm.within_class(jax.random.key(0), x, y, alpha=1e-3)  # shares of 0 or 1: samples of the class
    same = np.abs(np.asarray(near)[:, None] - np.asarray(x)).max((2, 3)) < 1e-3
    assert (same & (np.asarray(y)[:, None] == np.asarray(y))).any(1).mean() > 0.9


def test_mixing_within_classes_keeps_means_and_two_thirds_of_the_covariance():
    rng = np.random.default_rng(0)
    y = np.arange(60_000) % 2
    x = (rng.normal(size=(60_000, 2)) @ np.array([[1, 0.5], [0, 2]]) + 3 * y[:, None]).astype(np.float32)
    mixed = np.asarray(vrm.within_class(jax.random.key(1), x, y))
    for k in (0, 1):
        before, after = x[y == k], mixed[y == k]
        np.testing.assert_allclose(after.mean(0), before.mean(0), atol=0.03)
        np.testing.assert_allclose(np.cov(after.T), np.cov(before.T) * 2 / 3, rtol=0.02, atol=0.02)


@given(SEEDS, st.sampled_from(["soft", "hard"]))
def test_targets_of_noise_mixtures_are_the_shares_of_the_sample(seed, target):
    x, y = batch(seed)
    key = jax.random.key(seed)
    mixed, targets = vrm.noise_vicinity(key, x, y, classes=K, noise=NOISE, target=target)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    noise, plain = (vrm.noise_vicinity(key, v * x, y, classes=K, noise=NOISE)[0] for v in (0.0, 1.0))
    share = np.asarray(vrm.noise_vicinity(key, x, y, classes=K, noise=NOISE)[1])[np.arange(B), np.asarray(y)]
    np.testing.assert_allclose(plain - noise, share[:, None, None] * np.asarray(x), atol=1e-5)
    np.testing.assert_array_equal(mixed, plain)
    if target == "hard":
        np.testing.assert_array_equal(targets[:, K], 1)


def test_the_noise_is_like_the_training_inputs():
    x = np.random.default_rng(0).normal([1, -2], [0.5, 3], size=(500, 8, 8, 2)).astype(np.float32)
    mean, std = vrm.noise_like(x)
    np.testing.assert_allclose(mean, [1, -2], atol=0.1)
    np.testing.assert_allclose(std, [0.5, 3], rtol=0.05)
    y = np.zeros(500, int)
    blank, _ = vrm.noise_vicinity(jax.random.key(0), 0 * x, y, classes=1, noise=(mean, std), share_max=1e-6)
    np.testing.assert_allclose(blank.std((0, 1, 2)), std, rtol=0.05)
    assert len(vrm.noise_like(x.reshape(500, -1))[0]) == 1


def net(variables, x, key):
    return x.reshape(len(x), -1) @ variables["params"], {"seen": jnp.float32(len(x))}


STEP, WEIGHTS = jax.random.key(3), jax.random.normal(jax.random.key(5), (4, K + 1))


def value(objective, outputs):
    """Loss, what the network kept, and the mean cross-entropy of given mixtures, of one batch."""
    x, y = batch(0)
    return jax.jit(lambda w: objective(w, {}, ((x, y),), None, STEP))(WEIGHTS[:, :outputs])


def hard(x, y, outputs=K):
    return losses.softmax_cross_entropy(x.reshape(B, -1) @ WEIGHTS[:, :outputs], y).mean()


def soft(x, targets, outputs):
    return losses.soft_cross_entropy(x.reshape(B, -1) @ WEIGHTS[:, :outputs], targets).mean()


@jax.jit
def expected():
    """The losses of intra, of both halves of the auxiliary class, and of mixup, step by step."""
    x, y = batch(0)
    within = vrm.within_class(jax.random.split(STEP)[0], x, y)
    first, second, _ = jax.random.split(STEP, 3)
    unknown, targets = vrm.noise_vicinity(second, x, y, classes=K, noise=NOISE)
    halves = hard(vrm.within_class(first, x, y), y, K + 1), soft(unknown, targets, K + 1)
    share, other = vrm.shares_of(first, 1.0, B), jax.random.permutation(second, B)
    mixed = share[:, None] * jax.nn.one_hot(y, K) + (1 - share)[:, None] * jax.nn.one_hot(y[other], K)
    return hard(within, y), halves, soft(vrm.blend(share, x, x[other]), mixed, K)


def test_objectives_are_cross_entropies_of_their_mixtures():
    within, (known, unknown), mixed = expected()
    found, kept = value(vrm.intra(net), K)
    assert float(found) == pytest.approx(float(within), rel=1e-5)
    assert kept["seen"] == B
    found, kept = value(vrm.auxiliary(net, classes=K, noise=NOISE, weight=2.0), K + 1)
    assert float(found) == pytest.approx(float(known + 2 * unknown), rel=1e-5)
    assert kept["seen"] == 2 * B, "both halves in one pass"
    found, _ = value(vrm.mixup(net), K)  # linear in the targets
    assert float(found) == pytest.approx(float(mixed), rel=1e-5)


def test_the_same_arguments_give_the_same_objective():
    assert vrm.auxiliary(net, classes=K, noise=NOISE) is vrm.auxiliary(net, classes=K, noise=NOISE)


def test_the_last_output_is_the_unknown():
    logits = np.array([[3.0, 1, 2], [0, 1, 5]])
    np.testing.assert_array_equal(auxiliary_class.flagged(logits), [False, True])
    np.testing.assert_array_equal(auxiliary_class.known_logits(logits, classes=2), logits[:, :2])


X, Y = batch(1)
KEY = jax.random.key(0)
OBJECTIVE = vrm.auxiliary(net, classes=K, noise=NOISE)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: OBJECTIVE(jnp.ones((4, K)), {}, ((X, Y),), None, KEY),
            "a network of 4 outputs for 3 classes; it has 3",
        ),
        (lambda: auxiliary_class.known_logits(np.zeros((2, 3)), classes=3), "it has 3: build it with classes=4"),
        (lambda: vrm.noise_vicinity(KEY, X, Y + 2, classes=K, noise=NOISE), r"labels must lie in \[0, 3\)"),
        (lambda: vrm.noise_vicinity(KEY, X, Y / 1, classes=K, noise=NOISE), "cast them by .astype"),
        (lambda: vrm.noise_vicinity(KEY, X.astype("uint8"), Y, classes=K, noise=NOISE), "got uint8: scale the pixels"),
        (lambda: vrm.noise_like(np.zeros((3, 2), np.uint8)), "got uint8: scale the pixels"),
        (lambda: vrm.noise_vicinity(KEY, X, Y, classes=K, noise=NOISE, target="no"), "target is soft or hard"),
        (lambda: vrm.mixup(net, alpha=0.0), "alpha of the Beta distribution is positive and finite; got 0.0"),
        (lambda: vrm.auxiliary(net, classes=K, noise=NOISE, alpha=-1.0), "got -1.0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, match, unchecked):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_batch_with_hardly_a_partner_warns():
    with pytest.warns(UserWarning, match="a batch of 5 has fewer than 2 samples for each of 3 classes"):
        jax.eval_shape(lambda: OBJECTIVE(jnp.ones((4, K + 1)), {}, ((X[:5], Y[:5]),), None, KEY))
