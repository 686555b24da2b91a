"""A factorised network is a model: equal to the projected one at first, then trained by the same engine."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import checkpoint, nn, training
from subspace_jax.compression import eigenpairs, factorised, utilized_rank
from subspace_jax.core import capture
from tests.compression.layers import draw

MODEL = nn.build("mlp", widths=(12, 12), norm="batch", classes=4)
ROUNDING = 1e-5  # of float32 logits, relative


@pytest.fixture(scope="module")
def net():
    """x, y, ranks, projected dense variables, factorised variables; the inputs span 3 of 8 features."""
    x = (draw(0, 64, 3) @ draw(1, 3, 8)).astype(np.float32)
    variables = jax.jit(MODEL.init)(jax.random.key(2), x)
    _, variables["batch_stats"] = jax.jit(MODEL.train_apply)(variables, x, jax.random.key(3))
    moments = capture.collect(MODEL.apply, variables, [x], dtype="float64")
    table = capture.layers(MODEL.apply, variables, x)
    solved = eigenpairs.spectra(table, variables, moments)
    ranks = utilized_rank.ranks(utilized_rank.utilization(table, variables, solved, energy=0.9))
    projected = utilized_rank.project(table, variables, solved, energy=0.9)
    factors = utilized_rank.factorise(table, variables["params"], solved, energy=0.9)
    assert set(factors["factors"]) >= {"dense0/kernel", "dense1/kernel"}
    y = x[:, :4].argmax(1).astype(np.int32)
    return x, y, ranks, projected, {"params": factors, "batch_stats": variables["batch_stats"]}


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def tuned(net, lr):
    x, y, ranks, _, start = net
    objective = training.mean_loss(factorised.factorised_model(MODEL, ranks).train_apply)
    return training.minimise(jax.random.key(4), objective, optax.sgd(lr), start, [(x, y)], steps=20, batch=32)


def test_it_starts_as_the_projected_network_in_both_modes(net):
    x, y, ranks, projected, start = net
    model = factorised.factorised_model(MODEL, ranks)
    assert relative(training.predict(model.apply, start, x), training.predict(MODEL.apply, projected, x)) < ROUNDING
    assert training.evaluate(model.apply, start, x, y) == training.evaluate(MODEL.apply, projected, x, y)
    thin, dense = (jax.jit(m.train_apply)(v, x, jax.random.key(0)) for m, v in ((model, start), (MODEL, projected)))
    chex.assert_trees_all_close(thin, dense, rtol=1e-4, atol=1e-4)
    stages = jax.jit(model.features)(start, x)
    assert list(stages) == list(jax.eval_shape(MODEL.features, projected, x))
    assert relative(stages["logits"], training.predict(model.apply, start, x)) < ROUNDING


def test_fine_tuning_moves_the_thin_kernels_and_the_statistics(net):
    x, y, ranks, _, start = net
    model = factorised.factorised_model(MODEL, ranks)
    end = tuned(net, 0.05)
    chex.assert_trees_all_equal_shapes_and_dtypes(end, start)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), end, start)
    assert all(jax.tree.leaves(moved))

    def loss(variables):
        logits = training.predict(model.apply, variables, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    assert loss(end) < 0.9 * loss(start)


def test_statistics_are_no_parameters_and_replaced_kernels_are_gone(net):
    start, end = net[-1], tuned(net, 0.0)
    assert {path for path in start["params"]["params"] if "mean" in path or "var" in path} == set()
    assert not set(start["params"]["factors"]) & set(start["params"]["params"])
    chex.assert_trees_all_equal(end["params"], start["params"])
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), end["batch_stats"], start["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_a_checkpoint_of_it_is_restored_from_the_ranks(net, tmp_path):
    x, _, ranks, _, start = net
    model = factorised.factorised_model(MODEL, ranks)
    state = training.TrainState(jnp.int32(0), **start, opt_state={}, key=jax.random.key(0))
    with checkpoint.manager(tmp_path / "thin") as to:
        checkpoint.save(to, 1, state, config={"model": {"name": "thin", "kwargs": {}}, "input_shape": [8]})
    _, found, _ = checkpoint.load_model(tmp_path / "thin", model=model)
    chex.assert_trees_all_equal(*(training.predict(model.apply, v, x) for v in (found, start)))


def test_equal_shapes_compile_once(net):
    ranks = net[2]
    one, other = (factorised.factorised_model(MODEL, r) for r in (ranks, dict.fromkeys(ranks, 1)))
    assert one[1:] == other[1:]
