"""Each attack against its formula, sample by sample, and what all of them have in common."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm

from subspace_jax.core import roc
from subspace_jax.privacy import membership
from subspace_jax.privacy.attacks import curvature, fits, lira, rmia, thresholds
from subspace_jax.unlearning import evaluation
from tests.privacy.synthetic import outputs, population, take

SEEDS = st.integers(0, 2**31 - 1)
TARGETS, SHADOWS = slice(12, 14), slice(12)
CLOSE = 1e-9  # float64, sums in another order


def run(name, target, shadows, keep, others=None):
    others = others or population(5)
    needed = {"population": (take(others, TARGETS), take(others, SHADOWS))}
    return membership.attack(
        name, target, shadows, keep, **(needed if "population" in membership.TABLE[name].needs else {})
    )


def released(density, s, inside, outside):
    """The two sums of the released script, queries one after the other."""
    top, bottom = (sum(density(s[q], m[q], v[q]) for q in range(len(s))) for m, v in (inside, outside))
    return top / (bottom + 1e-22)


def oracle(name, of, target, shadows, keep, others, i):
    """The score of sample i for one target, straight from the formulas: lists of its own IN and OUT models."""
    s, inside, outside = target[:, i], shadows[keep[:, i], :, i], shadows[~keep[:, i], :, i]  # (q,), (m, q)
    mean_in, mean_out, std_in, std_out = inside.mean(0), outside.mean(0), inside.std(0), outside.std(0)
    if name in ("yeom", "mentr"):
        return -s.mean()
    if name in ("sablayrolles", "watson"):
        return -(s - (mean_out if name == "watson" else (mean_in + mean_out) / 2)).mean()
    if name == "ye":
        return -(s - np.quantile(outside, 1e-4, axis=0)).mean()
    if name == "lira_online":
        return (norm.logpdf(s, mean_in, std_in) - norm.logpdf(s, mean_out, std_out)).mean()
    if name == "lira_offline":
        return -norm.logsf(s, mean_out, std_out).mean()
    if name == "lira_fixed_variance":
        residuals = [
            np.concatenate([shadows[m[:, j], :, j] - shadows[m[:, j], :, j].mean(0) for j in range(len(keep[0]))])
            for m in (keep, ~keep)
        ]
        both = zip((mean_in, mean_out), residuals, strict=True)
        return np.subtract(*(norm.logpdf(s, mean, r.std(0)) for mean, r in both)).mean()
    if name == "lira_fixed_variance_reference":
        spread = np.concatenate([shadows[keep[:, j], :, j] for j in range(len(keep[0]))]).std()
        return np.subtract(*(norm.logpdf(s, np.median(v, axis=0), spread) for v in (inside, outside))).mean()
    if name == "lira_as_released":
        return released(norm.pdf, s, (mean_in, std_in**2 + 1e-22), (mean_out, std_out**2 + 1e-22))
    if name == "rmia":
        mean_z = np.exp(-others.loss[SHADOWS]).mean(0)
        ratio_z = np.exp(-others.loss[12 + of]) / (1.3 * mean_z + 0.7) * 2
        ratio_x = np.exp(-s) / (1.3 * np.exp(-outside).mean(0) + 0.7) * 2
        return (ratio_x[:, None] / ratio_z > 1).mean()
    log, inside, outside = np.log(s), np.log(inside), np.log(outside)
    mean_in, mean_out, std_in, std_out = inside.mean(0), outside.mean(0), inside.std(0), outside.std(0)
    if name == "curvature_lr":
        return np.log(released(norm.pdf, log, (mean_in, std_in), (mean_out, std_out)))
    tau = std_in**2 if name == "curvature_nll_as_released" else std_in
    return (((log - mean_out) ** 2 - (log - mean_in) ** 2) / (2 * tau**2)).sum()


@pytest.mark.parametrize("name", membership.TABLE)
def test_scores_are_the_formula_of_each_sample(name):
    seen, keep = outputs(1)
    others = population(5)
    found = run(name, take(seen, TARGETS), take(seen, SHADOWS), keep[SHADOWS], others)
    values = getattr(seen, membership.TABLE[name].statistic)
    expected = [
        [oracle(name, t, values[12 + t], values[SHADOWS], keep[SHADOWS], others, i) for i in range(40)] for t in (0, 1)
    ]
    assert found.shape == (2, 40)
    np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)


FITTED = [name for name, attack in membership.TABLE.items() if attack.spread]


@pytest.mark.parametrize("name", FITTED)
def test_variances_stand_for_deviations_where_asked_for(name):
    """Against the formula with the squares of the deviations, which rank differently."""
    seen, keep = outputs(1)
    target, shadows = take(seen, TARGETS), take(seen, SHADOWS)
    found = membership.attack(name, target, shadows, keep[SHADOWS], spread="var_as_std")
    values, known = (
        getattr(target, membership.TABLE[name].statistic),
        getattr(shadows, membership.TABLE[name].statistic),
    )
    values, known = (np.log(v) if name in ("curvature_nll", "curvature_lr") else v for v in (values, known))
    for i in range(40):
        sides = known[keep[SHADOWS][:, i], :, i], known[~keep[SHADOWS][:, i], :, i]
        (m1, v1), (m0, v0) = ((side.mean(0), side.var(0)) for side in sides)
        s = values[0, :, i]
        expected = {
            "lira_online": (norm.logpdf(s, m1, v1) - norm.logpdf(s, m0, v0)).mean(),
            "curvature_nll": (((s - m0) ** 2 - (s - m1) ** 2) / (2 * v1**2)).sum(),
            "curvature_lr": np.log(norm.pdf(s, m1, v1).sum()) - np.log(norm.pdf(s, m0, v0).sum()),
        }[name]
        assert found[0, i] == pytest.approx(expected, rel=CLOSE)
    assert (found != membership.attack(name, target, shadows, keep[SHADOWS])).any()


@pytest.mark.parametrize("name", membership.TABLE)
def test_order_of_models_and_samples_does_not_matter_nor_do_the_other_targets(name):
    seen, keep = outputs(2)
    rng = np.random.default_rng(0)
    models, samples = rng.permutation(12), rng.permutation(40)
    others = population(5)
    whole = run(name, take(seen, TARGETS), take(seen, SHADOWS), keep[SHADOWS], others)
    shuffled = take(others, [*models, 12, 13])
    of_shadows = run(name, take(seen, TARGETS), take(seen, models), keep[models], shuffled)
    np.testing.assert_allclose(of_shadows, whole, rtol=CLOSE, atol=CLOSE)
    moved = [take(seen, rows)._replace(**{
        field: getattr(seen, field)[rows][:, :, samples] for field in seen._fields
    }) for rows in (TARGETS, SHADOWS)]  # fmt: skip
    np.testing.assert_allclose(run(name, *moved, keep[SHADOWS][:, samples], others), whole[:, samples], rtol=CLOSE)
    alone = membership.attack(
        name, take(seen, slice(13, 14)), take(seen, SHADOWS), keep[SHADOWS],
        population=(take(others, slice(13, 14)), take(others, SHADOWS)),
    )  # fmt: skip
    np.testing.assert_allclose(alone, whole[1:], rtol=CLOSE)


@pytest.mark.parametrize("name", membership.TABLE)
def test_masks_that_tell_nothing_give_half(name):
    samples = 2000
    seen, _ = outputs(3, n=samples, gap=0.0)
    rng = np.random.default_rng(9)
    member = rng.random(samples) < 0.5  # neither these nor the masks below are those of `seen`
    other = rng.permuted(np.arange(12)[:, None] % 2 * np.ones(samples), axis=0) == 1
    scores = run(name, take(seen, TARGETS), take(seen, SHADOWS), other)
    for row in scores:
        assert abs(roc.auroc(roc.curve(row, member)) - 0.5) < 3 / np.sqrt(samples)


@pytest.mark.parametrize("name", membership.TABLE)
def test_every_attack_finds_members_that_stand_out(name):
    seen, keep = outputs(6, n=300, gap=3.0)
    scores = run(name, take(seen, TARGETS), take(seen, SHADOWS), keep[SHADOWS])
    for row, member in zip(scores, keep[TARGETS], strict=True):
        assert roc.auroc(roc.curve(row, member)) > 0.58


@given(SEEDS)
def test_in_and_out_exchanged_turn_the_likelihood_ratios_round(seed):
    rng = np.random.default_rng(seed)
    keep = np.arange(8)[:, None] % 2 == np.arange(5)[None] % 2
    target, shadows = rng.normal(size=(2, 2, 5)), rng.normal(size=(8, 2, 5))
    for attack in (lira.lira_fixed_variance, lira.lira_online):
        np.testing.assert_allclose(attack(target, shadows, ~keep), -attack(target, shadows, keep), atol=CLOSE)
    np.testing.assert_allclose(
        thresholds.sablayrolles(target, shadows, ~keep), thresholds.sablayrolles(target, shadows, keep), atol=CLOSE
    )
    target, shadows = np.exp(target), np.exp(shadows)
    np.testing.assert_allclose(
        curvature.curvature_lr(target, shadows, ~keep), -curvature.curvature_lr(target, shadows, keep), atol=CLOSE
    )
    inside = rng.normal(size=(4, 2, 1))  # one spread on both sides
    alike = np.exp(np.concatenate([inside, inside + 1.5]) + rng.normal(size=(1, 2, 5)))
    halves = np.repeat([True, False], 4)[:, None] & np.ones((1, 5), bool)
    np.testing.assert_allclose(
        curvature.curvature_nll(target, alike, ~halves), -curvature.curvature_nll(target, alike, halves), atol=1e-7
    )


@given(SEEDS)
def test_medians_for_the_means_are_those_of_each_sample(seed):
    rng = np.random.default_rng(seed)
    keep = np.arange(8)[:, None] % 2 == np.arange(5)[None] % 2
    target, shadows = rng.normal(size=(2, 1, 5)), rng.normal(size=(8, 1, 5))
    sides = []
    for mask in (keep, ~keep):
        own = [shadows[mask[:, j], 0, j] for j in range(5)]
        middle = np.array([np.median(values) for values in own])
        residuals = np.concatenate([values - m for values, m in zip(own, middle, strict=True)])
        sides.append(norm.logpdf(target[:, 0], middle, np.sqrt((residuals**2).mean())))
    found = lira.lira_fixed_variance(target, shadows, keep, center="median")
    np.testing.assert_allclose(found, np.subtract(*sides), atol=CLOSE)


def test_many_shadow_models_give_the_closed_form_of_known_gaussians():
    rng = np.random.default_rng(0)
    keep = np.repeat([True, False], 20_000)[:, None]
    shadows = np.where(keep, rng.normal(2, 1.5, size=keep.shape), rng.normal(0, 1, size=keep.shape))[:, None]
    s = np.array([-1.0, 0, 1, 2, 4])[:, None, None]
    closed = norm.logpdf(s, 2, 1.5) - norm.logpdf(s, 0, 1)
    np.testing.assert_allclose(lira.lira_online(s, shadows, keep), closed[..., 0], atol=0.1)
    np.testing.assert_allclose(lira.lira_fixed_variance(s, shadows, keep), closed[..., 0], atol=0.1)


def test_raw_gaussian_scores_have_the_auroc_of_theory():
    rng, n = np.random.default_rng(0), 20_000
    member = np.arange(n) % 2 == 0
    loss = np.where(member, rng.normal(1, 1.5, n), rng.normal(2, 1, n))
    found = roc.auroc(roc.curve(thresholds.yeom(loss[None, None])[0], member))
    assert abs(found - ndtr(1 / np.sqrt(1.5**2 + 1))) < 3 * 0.5 / np.sqrt(n)


def test_the_audit_of_unlearned_networks_is_the_same_attack():
    rng = np.random.default_rng(0)
    sides = (rng.normal(size=(2, 6, 50)) * 2 + np.array([1.0, 0])[:, None, None]).astype(np.float32)
    expected = evaluation.ulira(*sides)
    for model in range(6):
        rest = np.delete(sides, model, axis=1).reshape(10, 1, 50)
        keep = np.repeat([True, False], 5)[:, None] & np.ones(50, bool)
        ratio = lira.lira_online(sides[:, model, None], rest, keep).ravel()
        assert roc.auroc(roc.curve(ratio, np.arange(100) < 50)) == pytest.approx(float(expected.auc[model]), abs=1e-4)


def test_a_positive_factor_of_the_curvature_drops_out_and_zeros_are_censored():
    seen, keep = outputs(7)
    target, shadows, keep = seen.curvature[TARGETS], seen.curvature[SHADOWS], keep[SHADOWS]
    for attack in (curvature.curvature_nll, curvature.curvature_lr):
        np.testing.assert_allclose(attack(3 * target, 3 * shadows, keep), attack(target, shadows, keep), atol=1e-8)
        flat, least = target.copy(), shadows.min(axis=(0, 2))
        flat[0, :, 3] = 0
        at_least = flat.copy()
        at_least[0, :, 3] = least
        np.testing.assert_array_equal(attack(flat, shadows, keep), attack(at_least, shadows, keep))


@pytest.mark.parametrize(("gamma", "a"), [(0.5, 0.0), (1.0, 1.0), (2.0, 0.6)])
def test_a_sample_beats_others_by_the_factor_asked_for(gamma, a):
    (seen, keep), others = outputs(9), population(5)
    p, of_z = np.exp(-seen.loss), np.exp(-others.loss)
    outside = np.stack([p[:12][~keep[:12, i], :, i].mean(0) for i in range(40)], axis=-1)
    ratio_x = p[12] / ((1 + a) * outside + 1 - a) * 2
    ratio_z = of_z[12] / ((1 + a) * of_z[:12].mean(0) + 1 - a) * 2
    expected = (ratio_x[:, :, None] / ratio_z[:, None] > gamma).mean(axis=(0, 2))
    losses = seen.loss[12:13], seen.loss[:12], keep[:12], others.loss[12:13], others.loss[:12]
    np.testing.assert_allclose(rmia.rmia(*losses, gamma=gamma, a=a)[0], expected, rtol=CLOSE)


@given(SEEDS, st.sampled_from([0.0, 1e-4, 0.3, 0.5, 1.0]))
def test_masked_quantiles_are_those_of_each_samples_own_models(seed, share):
    rng = np.random.default_rng(seed)
    values, mask = rng.normal(size=(9, 2, 6)), rng.random((9, 1, 6)) < 0.5
    mask[0] = True
    expected = [[np.quantile(values[mask[:, 0, i], q, i], share) for i in range(6)] for q in (0, 1)]
    np.testing.assert_allclose(fits.quantile(values, mask, share), expected, atol=1e-12)


def test_models_that_agree_exactly_and_certain_ones_have_finite_scores():
    seen, keep = outputs(8)
    for name in membership.TABLE:
        field = membership.TABLE[name].statistic
        values = getattr(seen, field).copy()
        values[SHADOWS, :, 0] = values[0, :, 0]  # no spread
        values[12, :, 1] *= 1e3  # far from everyone
        odd = seen._replace(**{field: values})
        scores = run(name, take(odd, TARGETS), take(odd, SHADOWS), keep[SHADOWS])
        assert np.isfinite(scores).all(), name
