"""Counts by brute force, directions by their definitions, fits that recover what made the counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import attacks, keys, quantize
from subspace_jax.robustness import trend

SEEDS = st.integers(0, 2**31 - 1)
EXACT = 1e-3  # of fitted a and b, relative
COUNT = 6


def member(w, x):
    return jnp.tanh(x @ w["first"]) @ w["second"]


def members(seed, count=3):
    rng = np.random.default_rng(seed)
    weights = [
        {"first": jnp.asarray(rng.normal(size=(8, 5)), jnp.float32),
         "second": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)}
        for _ in range(count)
    ]  # fmt: skip
    x = jnp.asarray(rng.uniform(size=(COUNT, 8)), jnp.float32)
    return [jax.tree_util.Partial(member, w) for w in weights], x, jnp.asarray(rng.integers(0, 4, COUNT))


IMAGES = np.full((1, 2, 2, 1), 0.5, np.float32)
KEYS = keys.sample_keys(jax.random.key(0), np.arange(COUNT))


@given(SEEDS)
def test_counts_are_those_of_a_loop_over_images(seed):
    rng = np.random.default_rng(seed)
    clean, attacked = rng.random((3, 20)) < 0.8, rng.random((2, 3, 20)) < 0.4
    counts, given_ = trend.transfer_counts(clean, attacked)
    for s, t in itertools.product(range(2), range(3)):
        moved = [clean[s, i] and not attacked[s, s, i] and clean[t, i] for i in range(20)]
        assert given_[s, t] == sum(moved)
        assert counts[s, t] == sum(m and not attacked[s, t, i] for i, m in enumerate(moved))
    own = np.diagonal(counts)
    assert (counts <= given_).all()
    assert (given_ <= own[:, None]).all()
    np.testing.assert_array_equal(own, np.diagonal(given_))


@given(SEEDS)
def test_counts_follow_the_order_of_networks_and_are_zero_without_a_change(seed):
    rng = np.random.default_rng(seed)
    clean, attacked = rng.random((4, 20)) < 0.8, rng.random((4, 4, 20)) < 0.4
    order = rng.permutation(4)
    moved = trend.transfer_counts(clean[order], attacked[np.ix_(order, order)])
    for counts, whole in zip(moved, trend.transfer_counts(clean, attacked), strict=True):
        np.testing.assert_array_equal(counts, whole[np.ix_(order, order)])
    still, _ = trend.transfer_counts(clean, np.broadcast_to(clean, (4, 4, 20)))
    np.testing.assert_array_equal(still, 0)


def test_no_strength_fools_nobody():
    three, x, y = members(3)
    y = three[0](x).argmax(1)
    made = [attacks.run(KEYS, attacks.pgd(steps=3), one, x, y, eps=0.0) for one in three]
    answers = np.array([[np.asarray(t(images)).argmax(1) == np.asarray(y) for t in three] for images in made])
    counts, _ = trend.transfer_counts(answers[0], answers)
    np.testing.assert_array_equal(counts, 0)


def test_ratios_divide_by_the_source_or_by_the_target():
    counts = np.array([[10, 4], [6, 8]])
    np.testing.assert_allclose(trend.raw_ratio(counts), [[1, 0.4], [0.75, 1]])
    np.testing.assert_allclose(trend.share(counts), [[1, 0.5], [0.6, 1]])


def test_a_source_without_a_success_is_named_and_gives_nan():
    counts = np.array([[0, 0], [3, 8]])
    with pytest.warns(UserWarning, match="source still has no white-box success"):
        found = trend.raw_ratio(counts, ["still", "other"])
    assert np.isnan(found[0]).all()
    with pytest.warns(UserWarning, match="target 0 has no white-box success"):
        assert np.isnan(trend.share(counts)[:, 0]).all()


@given(st.floats(1, 1e4), st.floats(1.01, 60))
def test_the_fit_recovers_what_made_the_counts(a, rate):
    eps = [0.025, 0.05, 0.075, 0.1]
    counts = a * (1 - np.exp(-rate * np.array(eps)))
    fit = trend.fit_strength(eps, np.stack([[counts, counts / 2], [0 * counts, counts]]))
    np.testing.assert_allclose(fit.a[0], [a, a / 2], rtol=EXACT)
    np.testing.assert_allclose(fit.b[0], -rate, rtol=EXACT)
    assert fit.rmse.max() < EXACT * a
    assert (fit.a[1, 0], fit.b[1, 0]) == (0, 0)
    np.testing.assert_allclose(trend.transfer_metric(fit, 0.08), [[1, 0.5], [0, 1]], rtol=EXACT)
    assert not fit.weak[0, 0]  # below a rate of 1 it is


def test_counts_that_do_not_saturate_are_marked_weak():
    fit = trend.fit_strength([0.025, 0.05, 0.075], np.array([[[13, 46, 90]]]))
    assert fit.weak.all()
    assert fit.rmse[0, 0] > 1


@given(SEEDS, st.floats(1.5, 1e6))
def test_votes_of_signs_ignore_the_size_of_a_gradient(seed, factor):
    gradients = jnp.asarray(np.random.default_rng(seed).normal(size=(3, 2, 5)), jnp.float32)
    grown = gradients.at[1].multiply(factor)
    for rule in ("agd", "ugd"):
        same = trend.ensemble_direction(gradients, rule)
        np.testing.assert_array_equal(trend.ensemble_direction(grown, rule), same)
        np.testing.assert_array_equal(trend.ensemble_direction(gradients[::-1], rule), same)
    agd, ugd = (np.asarray(trend.ensemble_direction(gradients, rule)) for rule in ("agd", "ugd"))
    np.testing.assert_array_equal(ugd[ugd != 0], agd[ugd != 0])
    np.testing.assert_array_equal(
        trend.ensemble_direction(gradients.at[1].multiply(1e9), "dag"), jnp.sign(gradients[1])
    )
    swapped = [trend.ensemble_direction(gradients[jnp.array(order)], "dag") for order in ((0, 1, 2), (1, 0, 2))]
    np.testing.assert_array_equal(*swapped)


@pytest.mark.parametrize("rule", trend.RULES)
def test_one_member_or_the_same_one_thrice_gives_the_sign_of_its_gradient(rule):
    gradient = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 5)), jnp.float32).at[0, 0, 0].set(0)
    for stacked in (gradient, jnp.tile(gradient, (3, 1, 1))):
        np.testing.assert_array_equal(trend.ensemble_direction(stacked, rule), jnp.sign(gradient[0]))


def test_attacks_of_one_member_are_pgd_on_it():
    (one, *_), x, y = members(0)
    plain = attacks.run(KEYS, attacks.pgd(steps=4), one, x, y, eps=0.1)
    alone = trend.ensemble([one])
    for rule in (*trend.RULES, "softmean", "summed"):
        found = attacks.run(KEYS, trend.ensemble_attack(rule, steps=4), alone, x, y, eps=0.1)
        np.testing.assert_allclose(found, plain, atol=1e-6)


def test_attacks_of_several_members_follow_their_gradients():
    three, x, y = members(1)

    def losses(x):
        return jnp.stack([-jax.nn.log_softmax(m(x))[jnp.arange(COUNT), y] for m in three])

    gradients = jax.jacrev(lambda x: losses(x).sum(1))(x)
    mean = jax.grad(lambda x: -jnp.log(jnp.exp(-losses(x)).mean(0)).sum())(x)
    expected = {rule: trend.ensemble_direction(gradients, rule) for rule in trend.RULES}
    expected |= {"softmean": jnp.sign(mean), "member": jnp.sign(gradients[2])}
    for rule, direction in expected.items():
        attack = trend.ensemble_attack(rule, steps=1, step_size=1.0, member=2 if rule == "member" else None)
        begun = attack._replace(init=lambda problem: problem.x)
        found = attacks.run(KEYS, begun, trend.ensemble(three), x, y, eps=0.05)
        np.testing.assert_allclose(found, jnp.clip(x + 0.05 * direction, 0, 1), atol=1e-6)


def test_a_vote_counts_answers_and_probabilities_decide_ties():
    logits = jnp.array([
        [[9.0, 0, 0], [1, 0, 0], [1, 0, 0]], [[0, 1.0, 0], [0, 3, 0], [0, 3, 0]], [[0, 1.0, 0], [0, 0, 2], [0, 3, 0]],
    ])  # fmt: skip
    shown = [jax.tree_util.Partial(lambda held, x: held, one) for one in logits]
    scores = trend.ensemble(shown)(jnp.zeros((3, 1)))
    np.testing.assert_array_equal(scores.argmax(1), [1, 1, 1])
    np.testing.assert_array_equal(trend.vote(KEYS[:3], logits)[jnp.array([0, 2])], [1, 1])
    other = trend.ensemble([shown[k] for k in (2, 0, 1)])(jnp.zeros((3, 1)))
    np.testing.assert_allclose(other, scores, rtol=1e-6)
    many = jnp.tile(logits[:, 1:2], (1, 300, 1))
    drawn = np.asarray(trend.vote(keys.sample_keys(jax.random.key(1), np.arange(300)), many))
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 300, 1 / 3, atol=0.1)


@given(SEEDS, st.sampled_from(["mean", "max"]))
def test_the_design_is_the_best_of_all_subsets(seed, by):
    rng = np.random.default_rng(seed)
    transfer, accuracy = rng.random((6, 6)), rng.uniform(0.93, 1, 6)
    accuracy[:4] = 0.99
    able = [m for m in range(6) if accuracy[m] >= accuracy.max() - 0.03]

    def cost(group):
        between = [transfer[s, t] for s in group for t in group if s != t]
        return np.mean(between) if by == "mean" else max(between)

    best = min(map(cost, itertools.combinations(able, 3)))
    found = trend.design_ensemble(transfer, accuracy, size=3, by=by)
    assert cost(found) == pytest.approx(best)


def test_many_networks_are_chosen_one_by_one(monkeypatch):
    monkeypatch.setattr(trend, "EXHAUSTIVE", 3)
    transfer = np.full((5, 5), 0.9)
    transfer[np.ix_([0, 2, 4], [0, 2, 4])] = 0.1
    assert trend.design_ensemble(transfer, np.ones(5), size=3) == (0, 2, 4)


def test_changeable_pixels_are_those_near_an_edge_of_their_bin():
    x = np.array([[0.0, 0.45, 0.5, 0.55, 0.62, 1.0]], np.float32)
    np.testing.assert_array_equal(trend.changeable(x, bits=1, eps=0.1), [[False, True, True, True, False, False]])
    np.testing.assert_array_equal(trend.changeable(x, bits=1, eps=0.0), np.zeros((1, 6), bool))


@given(SEEDS, st.sampled_from([1, 2, 4]), st.sampled_from([0.03, 0.1, 0.3]))
def test_changeable_pixels_are_those_of_a_search_through_all_changes(seed, bits, eps):
    """Of 17 grey levels, which lie on the edges of bins, and of others."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((2, 6)) < 0.5, rng.integers(0, 17, (2, 6)) / 16, rng.random((2, 6))).astype(np.float32)
    tried = jnp.clip(x[None] + jnp.linspace(-eps, eps, 101, dtype=jnp.float32)[:, None, None], 0, 1)
    seen = np.asarray(quantize.quantize_input(tried, bits, 0, 1))
    moved = (seen != np.asarray(quantize.quantize_input(x, bits, 0, 1))).any(0)
    np.testing.assert_array_equal(trend.changeable(x, bits=bits, eps=eps), moved)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: trend.transfer_counts(np.ones((2, 4), bool), np.ones((2, 3, 4), bool)), "one answer a source, network"),
    (lambda: trend.transfer_counts(np.ones((2, 3), int), np.ones((2, 2, 3), int)), "answers == y; got int64, int64"),
    (lambda: trend.fit_strength([2, 4, 8], np.ones((1, 1, 3))), "got 2.0: 8 instead of 8/255"),
    (lambda: trend.fit_strength([-0.1, 0.1, 0.2], np.ones((1, 1, 3))), "eps is in pixels"),
    (lambda: trend.fit_strength([0.0, 0.1, 0.2], np.ones((1, 1, 3))), "3 positive strengths"),
    (lambda: trend.changeable(IMAGES, bits=2, eps=8), "8 instead of 8/255"),
    (lambda: trend.changeable(255 * IMAGES, bits=2, eps=0.1), "pass pixels in"),
    (lambda: trend.changeable(IMAGES, bits=0, eps=0.1), r"bits of an input are an integer in \[1, 8\]; got 0"),
    (lambda: trend.design_ensemble(np.ones((2, 3)), np.ones(3), size=2), r"a pair of 3 networks; got shape \(2, 3\)"),
    (lambda: trend.fit_strength([0.1, 0.2], np.ones((1, 1, 2))), r"3 positive strengths or more.*\[0.1, 0.2\]"),
    (lambda: trend.design_ensemble(np.ones((3, 3)), np.array([1.0, 0.9, 1]), size=3), "has 2 to 2 members.*got 3"),
    (lambda: trend.ensemble([]), "has 1 to 99 members; got 0"),
    (lambda: trend.ensemble_direction(jnp.ones((1, 1, 1)), "mean"), "no rule 'mean'; there are dag, agd, ugd"),
    (lambda: trend.ensemble_attack("best"), "no rule 'best'"),
    (lambda: trend.ensemble_attack("member"), "member numbers one member"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(build, message, unchecked):
    with pytest.raises(ValueError, match=message):
        build()
