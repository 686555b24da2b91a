"""What no attack can be made of is refused in one sentence that says what to do."""

import numpy as np
import pytest

from subspace_jax.core import roc
from subspace_jax.privacy import membership
from tests.privacy.synthetic import outputs, population, take

SEEN, KEEP = outputs(0, models=6, n=8, queries=1)
TARGET, SHADOWS, MASKS = take(SEEN, [4, 5]), take(SEEN, slice(4)), KEEP[:4]
OTHERS = population(1, models=6, z=5, queries=1)
POPULATION = take(OTHERS, [4, 5]), take(OTHERS, slice(4))


def changed(side, at, value):
    label_logit = side.label_logit.copy()
    label_logit[at] = value
    return side._replace(label_logit=label_logit)


def masks(column, values):
    keep = MASKS.copy()
    keep[:, column] = values
    return keep


def call(name="lira_online", target=TARGET, shadows=SHADOWS, keep=MASKS, **options):
    return membership.attack(name, target, shadows, keep, **options)


WRONG = {
    "unknown name": (lambda: call("lira"), "no attack 'lira'; there are yeom"),
    "never IN": (
        lambda: call(keep=masks([2, 5], False)),
        "2 of 8 samples are IN for fewer than 2 of the 4 shadow models and cannot be fitted: 2, 5; train more",
    ),
    "never OUT": (lambda: call("watson", keep=masks(3, True)), "1 of 8 samples are OUT for fewer than 1 .*: 3;"),
    "IN once": (lambda: call(keep=masks(1, [True, False, False, False])), "IN for fewer than 2 of the 4"),
    "one shadow": (lambda: call(shadows=take(SEEN, [0]), keep=KEEP[:1]), "at least 2; got 1"),
    "keep of numbers": (lambda: call(keep=MASKS.astype(int)), r"keep is boolean .* = \(4, 8\).*int64"),
    "keep turned": (lambda: call(keep=MASKS.T), r"got bool \(8, 4\)"),
    "target a shadow": (lambda: call(target=take(SEEN, [5, 2])), "target 1 is shadow model 2, number for number"),
    "other samples": (
        lambda: call(target=outputs(1, models=2, n=7, queries=1)[0]), "must have the same queries and samples"
    ),
    "nan": (lambda: call(target=changed(TARGET, (0, 0, 3), np.nan)), r"target must be finite; got nan at position \(0"),
    "inf": (lambda: call(shadows=changed(SHADOWS, (1, 0, 3), np.inf)), "shadows must be finite; got inf"),
    "no shadows": (lambda: membership.attack("watson", TARGET), "watson takes shadow models and keep"),
    "no population": (lambda: call("rmia"), "rmia takes a population"),
    "other population": (
        lambda: call("rmia", population=(POPULATION[0], OTHERS)), "the population has the same models and queries"
    ),
    "no curvature": (
        lambda: call("curvature_nll", target=TARGET._replace(curvature=None)), "curvature, which was not measured"
    ),
    "flat": (
        lambda: call("curvature_lr", shadows=SHADOWS._replace(curvature=0 * SHADOWS.curvature)), "larger step"
    ),
    "negative": (
        lambda: call("curvature_nll", target=TARGET._replace(curvature=-TARGET.curvature)), "16 values are negative"
    ),
    "alpha": (lambda: call("ye", alpha=2.0), r"alpha lies in \[0, 1\]; got 2"),
    "gamma": (lambda: call("rmia", population=POPULATION, gamma=0.0), "gamma is above 0"),
    "a": (lambda: call("rmia", population=POPULATION, a=1.5), r"a in \[0, 1\]; got 1.0 and 1.5"),
    "spread": (lambda: call(spread="variance"), "spread is .*; got 'variance'"),
    "beyond float64": (
        lambda: call("lira_online", target=changed(TARGET, (1, 0, 3), 1e200)), "no finite score for 1 of 16 samples"
    ),
    "all members": (lambda: roc.summary(call()[0], np.ones(8, bool)), "all 8 samples are members"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_attacked_is_refused(case, unchecked):
    ask, match = WRONG[case]
    with pytest.raises(ValueError, match=match):
        ask()


def test_the_long_list_of_samples_is_cut_and_the_right_call_passes():
    seen, keep = outputs(3, models=6, n=40, queries=1)
    with pytest.raises(ValueError, match=r"40 of 40 samples are IN .*: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.;"):
        call(target=take(seen, [4, 5]), shadows=take(seen, slice(4)), keep=np.zeros_like(keep[:4]))
    assert call("rmia", population=POPULATION).shape == (2, 8)


def test_attacks_without_shadow_models_ignore_them():
    np.testing.assert_array_equal(call("yeom"), membership.attack("yeom", TARGET))
