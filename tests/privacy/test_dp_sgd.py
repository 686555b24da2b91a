"""Whole private runs: what they equal without noise, what they cost, what a resumption adds, what is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from subspace_jax import checkpoint
from subspace_jax.privacy import accounting, dp_sgd
from subspace_jax.privacy.sampling import poisson_sets
from tests.privacy.cases import PARAMS, draw, loss, model_loss

VARIABLES = {"params": PARAMS, "batch_stats": {}}
X, Y = draw(0, 60)
SGD = optax.sgd(0.5)
ORDER = 1e-5  # sums in another order
RUN = {"sigma": 1.0, "clip": 0.5, "batch": 12, "steps": 6, "delta": 1e-3, "every": 3}
KEY = jax.random.key(3)


def run(**changes):
    options = RUN | changes
    data, variables = options.pop("data", (X, Y)), options.pop("variables", VARIABLES)
    return dp_sgd.fit(options.pop("key", KEY), model_loss, SGD, variables, data, **options)


@functools.cache
def whole():
    return run()


def test_without_clipping_and_noise_it_is_ordinary_descent_on_the_same_batches():
    sets = poisson_sets(jax.random.fold_in(KEY, dp_sgd.SAMPLE_KEY), 60, q=0.2, steps=6)
    params, gradient = PARAMS, jax.grad(lambda params, x, y: loss(params, x, y).sum())
    for index, padding in zip(*sets, strict=True):
        drawn = index[~padding]
        params = jax.tree.map(lambda p, g: p - 0.5 * g / 12, params, gradient(params, X[drawn], Y[drawn]))
    found = run(sigma=0.0, clip=np.inf)
    chex.assert_trees_all_close(found.variables["params"], params, atol=ORDER)
    assert found.report.epsilon == np.inf
    np.testing.assert_array_equal(found.history["samples"], (~sets.is_padding).sum(axis=1))


def test_the_report_is_what_the_accountant_says_and_the_same_key_gives_the_same_run():
    found = whole()
    assert found.report.epsilon == accounting.epsilon(0.2, 1.0, 6, 1e-3)
    assert found.report.segments == (accounting.Segment(0.2, 1.0, 6, 0.5),)
    chex.assert_trees_all_equal(run().variables, found.variables)
    other = run(key=jax.random.key(4)).variables
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (other, found.variables)), strict=True))
    assert all(len(values) == 6 and np.isfinite(values).all() for values in found.history.values())


def test_steps_without_samples_are_pure_noise():
    found = run(batch=1e-6, steps=3)
    assert found.history["samples"].sum() == 0
    chex.assert_tree_all_finite((found.variables, found.history))
    moved = np.asarray(found.variables["params"]["w"] - PARAMS["w"])
    assert np.abs(moved).max() > 1e3  # noise of .5 over an expected batch of a millionth
    assert found.report.epsilon < whole().report.epsilon


def test_one_program_for_all_noises_and_keys():
    whole()
    program = dp_sgd._program(dp_sgd.of_params(model_loss), SGD, None, True)
    before = program._cache_size()
    run(sigma=2.0, clip=0.25, key=jax.random.key(9))
    assert program._cache_size() == before


def test_microbatches_and_single_steps_give_the_same_run(monkeypatch):
    chex.assert_trees_all_close(run(microbatch=5).variables, whole().variables, atol=ORDER)
    monkeypatch.setattr(dp_sgd, "likes_scan", lambda params: False)
    found = run()
    chex.assert_trees_all_close(found.variables, whole().variables, atol=ORDER)
    chex.assert_trees_all_close(found.history, whole().history, atol=ORDER)


class Stopped(BaseException):
    pass


def test_a_run_that_is_stopped_goes_on_to_the_same_and_is_accounted_once(tmp_path, monkeypatch):
    saved, count = checkpoint.save, [0]

    def stop(*args, **kwargs):
        saved(*args, **kwargs)
        count[0] += 1
        if count[0] == 1:
            raise Stopped

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(Stopped):
        run(directory=tmp_path)
    found = run(directory=tmp_path)
    chex.assert_trees_all_equal(found.variables, whole().variables)
    chex.assert_trees_all_equal(found.history, whole().history)
    assert found.report == whole().report
    again = run(directory=tmp_path)
    assert again.report == whole().report
    chex.assert_trees_all_equal(again.variables, whole().variables)


def test_another_noise_or_rate_is_a_further_segment_and_nothing_is_forgotten(tmp_path):
    run(directory=tmp_path, config={"model": {"name": "mine"}})
    found = run(directory=tmp_path, sigma=2.0, batch=6, steps=9)
    first, second = accounting.Segment(0.2, 1.0, 6, 0.5), accounting.Segment(0.1, 2.0, 3, 0.5)
    assert found.report.segments == (first, second)
    assert found.report.epsilon == accounting.total((first, second), delta=1e-3) > whole().report.epsilon
    assert {len(values) for values in found.history.values()} == {9}
    with checkpoint.manager(tmp_path) as folder:
        config = checkpoint.latest_config(folder)
    assert config["privacy"]["epsilon"] == found.report.epsilon
    assert [segment["steps"] for segment in config["privacy"]["segments"]] == [6, 3]
    quiet = run(directory=tmp_path, sigma=0.0, steps=10)
    assert quiet.report.epsilon == np.inf
    with checkpoint.manager(tmp_path) as folder:
        assert checkpoint.latest_config(folder)["privacy"]["epsilon"] is None
    assert run(directory=tmp_path, steps=10).report.epsilon == np.inf


def test_a_budget_stops_the_run_before_it_is_overspent_and_saves_it(tmp_path):
    limit = accounting.epsilon(0.2, 1.0, 4, 1e-3)
    found = run(directory=tmp_path, max_epsilon=limit)
    assert [segment.steps for segment in found.report.segments] == [4]
    assert found.report.epsilon <= limit
    assert run(directory=tmp_path, max_epsilon=limit).report == found.report
    chex.assert_trees_all_equal(run(directory=tmp_path).variables, whole().variables)


def test_progress_tells_what_was_spent(monkeypatch):
    said = []

    def track(steps, *, label, **rest):
        for step in steps:
            yield step
            said.append(label())

    monkeypatch.setattr(dp_sgd, "track", track)
    run(label="mine")
    assert said == [f"mine, epsilon {accounting.epsilon(0.2, 1.0, steps, 1e-3):.3g}" for steps in (3, 6)]


BATCH_NORM = {"params": PARAMS, "batch_stats": {"stem_norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": BATCH_NORM}, "BatchNorm is not differentially private.*: stem_norm keep statistics"),
        ({"sigma": -1.0}, "sigma, the noise multiplier, is at least 0 and finite; got -1.0"),
        ({"clip": 0.0}, "clip is the largest norm of a gradient, above 0; got 0.0"),
        ({"clip": np.inf}, "without clipping no noise suffices"),
        ({"batch": 61}, r"batch, the expected samples of a step, is in \(0, 60\], the data; got 61"),
        ({"batch": 0}, "got 0"),
        ({"steps": 0}, "steps and every are at least 1; got 0 and 3"),
        ({"delta": 0.0}, r"delta is the chance of no guarantee, in \(0, 1\); got 0.0"),
        ({"accountant": "moments"}, "there are the accountants pld and rdp; got 'moments'"),
        ({"max_epsilon": 1e-3}, "the largest epsilon, 0.001, allows no step: the first spends"),
        ({"max_epsilon": -1.0}, "the largest epsilon is above 0; got -1.0"),
        ({"max_batch": 3}, "and max_batch is 3: raise it"),
        ({"data": (X, Y[:-1])}, "x and y must have one entry per sample; got 60 and 59"),
        ({"data": (np.where(X > 2, np.nan, X), Y)}, "x must be finite"),
    ],
)
def test_what_guarantees_nothing_is_refused(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        run(**change)


def test_a_run_that_knows_of_no_privacy_is_not_continued(tmp_path):
    with checkpoint.manager(tmp_path) as folder:
        checkpoint.save(folder, 1, dp_sgd._fresh(KEY, SGD, PARAMS, NUMBERS), config={})
    with pytest.raises(ValueError, match="holds a run without a privacy report: nothing is guaranteed of it"):
        run(directory=tmp_path)


NUMBERS = {"sigma": 1.0, "clip": 1.0, "expected_batch": 12.0}


def test_a_large_delta_is_warned_of():
    with pytest.warns(UserWarning, match=r"delta should be below 1/N = 0.017; got 0.05"):
        run(delta=0.05, steps=3)
