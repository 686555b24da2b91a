"""The joined accuracy is below every single one, and the checks fire on networks that were built to hide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from subspace_jax.core import attacks, keys
from subspace_jax.robustness import audit, trend

COUNT, EPS = 60, 0.1
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(COUNT, 4, 4, 1)).astype(np.float32)
TEACHER = RNG.normal(size=(16, 3))
KEYS = keys.sample_keys(jax.random.key(0), np.arange(COUNT))
FEW = {"pgd": attacks.pgd(steps=30), "long": attacks.pgd(steps=60), "square": attacks.square(queries=150)}


def network(scale, x):
    return scale * (x.reshape(len(x), -1) - 0.5) @ jnp.asarray(TEACHER, jnp.float32)


PLAIN, MASKED = (jax.tree_util.Partial(network, jnp.float32(scale)) for scale in (4.0, 1e4))
Y = np.asarray(PLAIN(X).argmax(1))


@functools.cache
def audited(fn, **settings):
    return audit.audit(KEYS, fn, X, Y, eps=EPS, attacks=FEW, **settings)


@functools.cache
def plain():
    return audited(PLAIN, reference=PLAIN)


@functools.cache
def masked():
    return audited(MASKED, reference=PLAIN)


def test_worst_is_right_under_all_attacks_and_examples_are_what_fooled():
    found = plain()
    np.testing.assert_array_equal(found.worst, found.clean & np.all(list(found.right.values()), axis=0))
    assert all(found.accuracy["min"] <= value for value in found.accuracy.values())
    right = np.asarray(attacks.right(KEYS, PLAIN, found.examples, Y))
    np.testing.assert_array_equal(right, found.worst)
    np.testing.assert_array_equal(found.examples[found.worst], X[found.worst])
    assert np.abs(found.examples - X).max() <= EPS + 1e-6


def test_over_strengths_every_attack_finds_what_the_audit_finds_at_each():
    found = audit.over_strengths(KEYS, PLAIN, X, Y, strengths=(EPS / 2, EPS), attacks=FEW)
    assert set(found) == set(FEW)
    for name, right in plain().right.items():
        np.testing.assert_array_equal(found[name][1], right)
    assert found["pgd"][0].mean() == plain().curve[EPS / 2]


def test_a_plain_network_gives_no_warning():
    found = plain()
    assert found.warnings == ()
    assert found.masked < audit.MASKED
    assert 0.8 <= found.power <= 1.1
    assert "no sign of masked gradients" in str(found)
    assert list(found.curve) == [EPS / 2, EPS, 2 * EPS, 1.0]


def test_a_network_whose_gradients_underflow_is_found_out():
    """The same answers for every image, but logits times 1e4: cross-entropy is flat."""
    found = masked()
    np.testing.assert_array_equal(found.clean, plain().clean)
    assert found.accuracy["pgd"] > plain().accuracy["pgd"] + 0.3
    assert found.masked > 0.2
    said = " ".join(found.warnings)
    for sign in ("masked: Square, without gradients, is stronger", "at eps = 1 the accuracy"):
        assert sign in said
    assert abs(found.accuracy["min"] - plain().accuracy["min"]) < 0.1


def report(**changed):
    """An audit of 100 images with these shares of right ones."""
    of = lambda share: np.arange(100) < 100 * share  # noqa: E731
    shares = {"pgd": 0.5, "long": 0.5, "restarts": 0.5, "square": 0.55} | changed
    curve = dict(zip((0.05, 0.1, 0.2, 1.0), changed.pop("curve", (0.7, 0.5, 0.2, 0.0)), strict=True))
    right = {name: of(share) for name, share in shares.items() if name not in ("power", "curve")}
    return audit.Audit(of(0.9), right, of(0.5), X, curve, changed.pop("power", 0.9), 10)


@pytest.mark.parametrize(("changed", "sign"), [
    ({"square": 0.47}, "masked: Square, without gradients, is stronger than PGD by 0.030"),
    ({"curve": (0.5, 0.5, 0.53, 0.0)}, "accuracy rises with eps"),
    ({"curve": (0.5, 0.5, 0.5, 0.2)}, "at eps = 1 the accuracy is 0.200, above chance"),
    ({"long": 0.53}, "more steps are weaker: 0.530"),
    ({"restarts": 0.53}, "more restarts are weaker: 0.530"),
    ({"power": 0.5}, "reaches 0.50 of PGD on the reference: it proves nothing; raise its queries"),
])  # fmt: skip
def test_each_sign_is_said_alone(changed, sign):
    (said,) = report(**changed).warnings
    assert sign in said
    assert report().warnings == ()


def test_power_compares_successes_on_the_reference():
    clean, square, pgd = (np.arange(10) < k for k in (8, 5, 2))
    assert audit.power_of(clean, square, pgd) == pytest.approx(0.5)
    assert np.isnan(audit.power_of(clean, square, clean))


def test_batches_change_nothing_and_further_attacks_and_images_join():
    made = {"transfer": np.clip(X + EPS, 0, 1), "noise": attacks.noise()}
    whole = audited(PLAIN)
    parts = audit.audit(KEYS, PLAIN, X, Y, eps=EPS, attacks=FEW, extra=made, batch=45)
    for name in FEW:
        np.testing.assert_array_equal(parts.right[name], whole.right[name])
    assert list(parts.right) == [*FEW, "transfer", "noise"]
    assert np.isnan(whole.power)


def test_the_usual_attacks_leave_dlr_out_of_two_classes():
    assert set(audit.battery(3)) - set(audit.battery(2)) == {"dlr"}
    assert {"pgd", "square"} <= set(audit.battery(2))


CALLS = [0]


def restless(x):
    CALLS[0] += 1
    return PLAIN(x) + CALLS[0]


def normalised(x):
    return PLAIN(x - x.mean(0, keepdims=True))


@pytest.mark.parametrize(("changed", "message"), [
    ({"x": 255 * X}, "pass pixels in"),
    ({"fn": restless}, "gives other logits in a second call"),
    ({"fn": normalised}, "put the network in inference mode"),
    ({"fn": trend.ensemble([PLAIN, normalised])}, "member 1 of the vote: .*put the network in inference mode"),
    ({"fn": lambda x: jnp.nan * PLAIN(x)}, "logits must be finite"),
    ({"fn": lambda x, key: x}, "a random network needs draws"),
    ({"attacks": {"pgd": attacks.pgd()}}, "compares the attacks pgd and square; square is not among pgd"),
    ({"extra": {"mine": X[:3]}}, r"mine is an attack, or images \(60, 4, 4, 1\); got shape \(3, 4, 4, 1\)"),
    ({"extra": {"mine": 1 - X}}, "the images of mine change a pixel by"),
    ({"y": Y[:5]}, "must have one entry per sample"),
])  # fmt: skip
def test_what_cannot_be_audited_is_refused(changed, message, unchecked):
    settings = {"fn": PLAIN, "x": X, "y": Y, "attacks": FEW, "extra": {}} | changed
    fn, x, y = (settings.pop(name) for name in ("fn", "x", "y"))
    with pytest.raises(ValueError, match=message):
        audit.audit(KEYS, fn, x, y, eps=EPS, **settings)
