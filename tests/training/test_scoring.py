import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from subspace_jax import nn, training
from subspace_jax.memorization import scores
from tests.several import together

DEVICES = 1e-5  # of the largest score: programs for other shard sizes round differently
FOUR_DIGITS = 1e-4  # of the largest: all that a difference of gradients at step 1e-3 keeps between matrix kernels
X = np.asarray(jax.random.normal(jax.random.key(0), (257, 12)))
Y = np.arange(257) % 3
MODEL = nn.build("mlp", classes=3, widths=(16, 8))
VARIABLES = jax.jit(MODEL.init)(jax.random.key(1), X[:1])
FN = scores.scorer("fd_norm", MODEL.apply, probes=3)
apply = jax.jit(MODEL.apply)


@functools.cache
def reference():
    return run(batch=64)


def run(x=X, y=Y, index=None, **options):
    options = {"devices": jax.devices()[:1]} | options
    return np.asarray(training.score_dataset(jax.random.key(2), FN, VARIABLES, (x, y), index=index, **options))


def test_scores_are_in_order_and_bit_equal_for_any_batch_size():
    assert reference().shape == (257,)
    for batch in (100, 128, 512):
        np.testing.assert_array_equal(reference(), run(batch=batch))
    fold = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(2), i))
    direct = jax.jit(lambda: FN(fold(jnp.arange(257)), VARIABLES, X, Y))()
    np.testing.assert_allclose(reference(), direct, atol=FOUR_DIGITS * reference().max())


def test_permuted_samples_have_permuted_scores_bit_for_bit():
    order = np.random.default_rng(0).permutation(257)
    np.testing.assert_array_equal(reference()[order], run(X[order], Y[order], order, batch=64))


def test_four_devices_agree_with_one():
    one, four = reference(), run(batch=64, devices=jax.devices()[:4])
    assert np.abs(one - four).max() <= DEVICES * one.max()
    assert stats.spearmanr(one, four).statistic >= 0.99999


class Read:
    """Rows that note which of them are read."""

    shape, dtype = X.shape, X.dtype

    def __init__(self):
        self.rows = set()

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        self.rows |= {*np.asarray(rows).tolist()}
        return X[rows]


@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_give_each_the_scores_of_one_bit_for_bit(processes, monkeypatch):
    """Each reads its own rows, and sample 0, with which a batch is filled up; eight devices in each."""
    alone = run(devices=None, batch=64)

    def share():
        read = Read()
        return run(read, devices=None, batch=64), read.rows

    found = together(monkeypatch, processes, share)
    for scores_of, _ in found:
        np.testing.assert_array_equal(scores_of, alone)
    read = [rows - {0} for _, rows in found]
    assert set.union(*read) == set(range(1, 257))
    assert sum(map(len, read)) == 256


def test_one_of_several_processes_computes_alone_on_its_own_devices(monkeypatch):
    def apart():
        return run(X[:65], Y[:65], batch=64) if jax.process_index() else None

    np.testing.assert_array_equal(together(monkeypatch, 2, apart)[1], reference()[:65])


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65])
def test_every_size_is_padded_and_cut(count):
    np.testing.assert_array_equal(run(X[:count], Y[:count], batch=64), reference()[:count])


def test_samples_that_interact_are_told():
    def coupled(keys, variables, x, y):
        return (x - x.mean(axis=0, keepdims=True)).sum(axis=1)

    with pytest.warns(UserWarning, match="samples interact"):
        training.score_dataset(jax.random.key(0), coupled, {}, (X, Y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run()


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one length of at least 1; got \[257, 3\]"):
        run(y=Y[:3])


def test_evaluate_is_the_accuracy_of_the_predictions():
    expected = np.mean(np.asarray(apply(VARIABLES, X)).argmax(1) == Y)
    assert float(training.evaluate(MODEL.apply, VARIABLES, X, Y, batch=50)) == pytest.approx(expected)


def test_predict_gives_logits():
    found = training.predict(MODEL.apply, VARIABLES, X, batch=50)
    np.testing.assert_allclose(found, apply(VARIABLES, X), atol=1e-5)
