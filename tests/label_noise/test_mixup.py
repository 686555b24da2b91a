import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from subspace_jax import nn, training
from subspace_jax.label_noise.mixup import mixup

KEY = jax.random.key(0)
ROUNDING = 1e-5  # the same sums in float32, in another order
EDGE = 1e-6
N = 6
WEIGHTS = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y, UNIT = np.arange(N) % 3, np.eye(N, dtype=np.float32)


def linear(variables, x, key):
    """Logits, and for "statistics" the inputs it was given."""
    return x @ variables["params"], x


def run(seed, batches, alpha=0.2):
    return jax.device_get(jax.jit(mixup(linear, alpha=alpha))(WEIGHTS, {}, batches, None, jax.random.key(seed)))


def cross_entropy(logits, labels):
    return -log_softmax(np.asarray(logits, np.float64), axis=1)[np.arange(len(labels)), labels].mean()


@given(st.integers(0, 2**31 - 1))
def test_inputs_and_losses_are_mixed_alike(seed):
    """Of unit vectors every mixed row says itself who met whom, and in which shares."""
    loss, mixed = run(seed, ((UNIT, Y),), alpha=1.0)
    other = np.where(np.diag(mixed) == 1, np.arange(N), (mixed - np.diag(np.diag(mixed))).argmax(1))
    alone = other == np.arange(N)
    assert sorted(other) == list(range(N))
    np.testing.assert_allclose(mixed.sum(1), np.ones(N), rtol=ROUNDING)
    share = np.diag(mixed)[~alone]
    np.testing.assert_allclose(share, share[:1].repeat(len(share)), rtol=ROUNDING)  # one for the batch
    share = share[:1].sum() if len(share) else 1.0
    each = [cross_entropy(mixed @ WEIGHTS, labels) for labels in (Y, Y[other])]
    np.testing.assert_allclose(loss, share * each[0] + (1 - share) * each[1], rtol=ROUNDING)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_beta_distributed(alpha):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)), within five standard errors; of two samples that met each other."""
    draws = 4000
    keys = jax.random.split(KEY, draws)
    objective = mixup(linear, alpha=alpha)
    _, mixed = jax.jit(jax.vmap(lambda key: objective(WEIGHTS, {}, ((UNIT[:2], Y[:2]),), None, key)))(keys)
    share = np.asarray(mixed[:, 0, 0])
    share = share[(share > EDGE) & (share < 1 - EDGE)]  # a share that rounds to 1 looks as if they had not met
    assert len(share) > draws / 4
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 5 * np.sqrt(variance / len(share))
    assert abs(share.var() - variance) < 5 * np.sqrt(1 / 64 / len(share))  # (share - 1/2)^2 lies in [0, 1/4]


def test_samples_of_all_sets_meet_and_a_sample_alone_is_itself():
    one, two = (UNIT[:3], Y[:3]), (UNIT[3:], Y[3:])
    met = sum(np.asarray(run(seed, (one, two))[1])[:3, 3:].sum() for seed in range(10))
    assert met > 0
    loss, mixed = run(0, ((UNIT[:1], Y[:1]),))
    np.testing.assert_allclose(mixed, UNIT[:1], rtol=ROUNDING)
    np.testing.assert_allclose(loss, cross_entropy(WEIGHTS[:1], Y[:1]), rtol=ROUNDING)


def test_it_trains_and_is_one_function_object():
    model = nn.build("mlp", classes=3, widths=(8,))
    objective, plain = mixup(model.train_apply), training.mean_loss(model.train_apply)
    assert mixup(model.train_apply) is objective
    x = np.asarray(jax.random.normal(KEY, (40, 5)))
    y = x[:, :3].argmax(1)
    start = jax.jit(model.init)(KEY, x[:1])
    found = training.minimise(KEY, objective, optax.sgd(0.3), start, [(x, y)], steps=60, batch=20)
    loss = jax.jit(lambda params: plain(params, {}, ((x, y),), None, KEY)[0])
    before, after = (float(loss(v["params"])) for v in (start, found))
    assert after < before


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_a_distribution_that_is_none_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha of the Beta distribution.*got {alpha}"):
        mixup(linear, alpha=alpha)
