"""EWC, replay, A-GEM and joint training against their own arithmetic; each method learns a sequence once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import nn
from subspace_jax.continual import protocol
from subspace_jax.continual.baselines import a_gem, er, ewc, multitask
from tests.continual.sequences import DATA, KEY, PERMUTED, SGD, SHORT, TURNED, drawn

MODEL = nn.build("mlp", classes=3, widths=(12,), use_bias=False)
CONFLICT = [DATA, TURNED]  # to learn the second is to forget the first
METHODS = {
    "finetune": protocol.learner(MODEL, SGD),
    "er": er.er_learner(MODEL, SGD, capacity=30),
    "a_gem": a_gem.a_gem_learner(MODEL, SGD, capacity=30),
}


@functools.cache
def matrix_of(name):
    return protocol.run(KEY, METHODS[name], PERMUTED, **SHORT).matrix


def test_the_fisher_diagonal_is_that_of_softmax_regression():
    """For logits z = xK, E[dz dz'] = diag(p) - pp', so F[i, c] = mean x_i^2 p_c (1 - p_c)."""
    linear = nn.build("mlp", classes=3, widths=(), use_bias=False)
    x, variables = DATA.x[:4], drawn(linear)
    draw = jax.jit(jax.vmap(lambda key: ewc._fisher(key, linear, variables, jnp.asarray(x), 0)["head"]["kernel"]))
    found = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    rows = x.reshape(4, 6)
    p = np.exp(rows @ np.asarray(variables["params"]["head"]["kernel"]))
    p = p / p.sum(1, keepdims=True)
    oracle = np.einsum("ni,nc->ic", np.square(rows), p * (1 - p)) / 4
    assert (np.abs(found.mean(0) - oracle) <= 4 * found.std(0) / np.sqrt(4000) + 1e-6).all()


def test_ewc_without_strength_is_finetuning_and_with_much_of_it_keeps_the_first_task():
    finetune = protocol.run(KEY, METHODS["finetune"], CONFLICT, **SHORT).matrix
    free = protocol.run(KEY, ewc.ewc_learner(MODEL, SGD, strength=0.0, samples=20), CONFLICT, **SHORT).matrix
    np.testing.assert_array_equal(free, finetune)
    _, kept, held = protocol.run(KEY, ewc.ewc_learner(MODEL, SGD, strength=300.0, samples=20), CONFLICT, **SHORT)
    assert finetune[2, 0] < 0.1
    assert kept[2, 0] > finetune[2, 0] + 0.3
    np.testing.assert_array_equal(held["floats"], 2 * (6 * 12 + 12 * 3))


def test_the_reservoir_is_a_uniform_sample_of_all_that_was_seen():
    buffer = {"x": np.zeros((10, 1, 6, 1), np.float32), "y": np.zeros(10, np.int32), "t": np.zeros(10, np.int32),
              "seen": np.int32(0)}  # fmt: skip
    rng, share = np.random.default_rng(0), []
    for _ in range(100):
        filled = er.fill(rng, er.fill(rng, buffer, DATA, 0), DATA._replace(x=DATA.x[:30], y=DATA.y[:30]), 1)
        share.append(np.mean(filled["t"]))
    assert filled["seen"] == 120
    assert abs(np.mean(share) - 30 / 120) < 4 * np.sqrt(0.25 * 0.75 / 10 / 100)
    few = er.fill(rng, buffer, DATA._replace(x=DATA.x[:4], y=DATA.y[:4]), 2)
    np.testing.assert_array_equal(np.sort(few["x"][:4].ravel()), np.sort(DATA.x[:4].ravel()))
    drawn = er.draw(KEY, jax.device_put(few), 50)
    assert set(np.asarray(drawn[2])) == {2}


@pytest.mark.parametrize("name", ["er", "a_gem"])
def test_replay_before_anything_was_seen_is_finetuning(name):
    np.testing.assert_array_equal(matrix_of(name)[:2], matrix_of("finetune")[:2])


def test_replay_forgets_less_than_finetuning():
    forgot, replay, gem = (protocol.measures(matrix_of(name)).backward_transfer for name in ("finetune", "er", "a_gem"))
    assert replay > forgot + 0.1
    assert gem > forgot
    buffered = METHODS["er"]
    assert buffered.held(buffered.init(KEY, DATA.x)) == {"floats": 30 * (6 + 1 + 1)}


def test_a_gem_removes_what_goes_against_memory_and_nothing_else():
    memory = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([2.0])}
    against = {"a": jnp.array([-3.0, 5.0]), "b": jnp.array([1.0])}
    cut = a_gem.project(against, memory, active=True)
    assert float(optax.tree.vdot(cut, memory)) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(cut["a"], [-3 + 1 / 5, 5], atol=1e-6)
    for kept in (a_gem.project(memory, memory, active=True), a_gem.project(against, memory, active=False)):
        assert kept["b"] in (memory["b"], against["b"])


def test_all_tasks_at_once_beat_the_sequence():
    _, together = multitask.multitask(KEY, MODEL, SGD, PERMUTED, classes=3, steps=600, batch=10)
    assert together.shape == (3,)
    assert together.mean() > protocol.measures(matrix_of("finetune")).accuracy


def test_with_a_head_a_task_all_tasks_at_once_read_their_own():
    heads = nn.multi_head(nn.build("mlp", classes=0, widths=(12,)), tasks=2, classes=3)
    _, together = multitask.multitask(KEY, heads, SGD, CONFLICT, classes=3, steps=400, batch=10)
    assert together.min() > 0.9  # one head could not: the labels contradict each other


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: er.er_learner(MODEL, SGD, capacity=0), "at least 1 sample; got 0"),
        (lambda: a_gem.a_gem_learner(MODEL, SGD, capacity=0), "at least 1 sample; got 0"),
        (lambda: ewc.ewc_learner(MODEL, SGD, strength=-1.0), "strength is at least 0 and samples at least 1; got -1.0"),
        (lambda: ewc.ewc_learner(MODEL, SGD, strength=1.0, samples=0), "samples at least 1; got 1.0 and 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
