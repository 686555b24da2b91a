"""Attacks stay in their ball, treat every image alone, and reach what closed forms and exhaustive search give."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import attacks, keys, quantize
from subspace_jax.core.attacks import balls, objectives
from subspace_jax.core.attacks.apgd import checkpoints
from subspace_jax.core.attacks.square import shares

SEEDS = st.integers(0, 2**31 - 1)
EPS = st.sampled_from([0.0, 0.05, 0.3, 1.0])
ROUNDED = 1e-6
COUNT, SHAPE, CLASSES = 5, (3, 4, 2), 3
LINF = {
    "fgsm": attacks.fgsm(), "pgd": attacks.pgd(steps=4), "margin": attacks.pgd(steps=4, objective="margin"),
    "dlr": attacks.pgd(steps=4, objective="dlr", restarts=2), "mi_fgsm": attacks.mi_fgsm(steps=4),
    "apgd": attacks.apgd(steps=12, objective="dlr"), "square": attacks.square(queries=12), "noise": attacks.noise(),
}  # fmt: skip
L2 = {
    "pgd_l2": attacks.pgd(steps=4, norm="l2"), "apgd_l2": attacks.apgd(steps=12, norm="l2"),
    "cw_l2": attacks.cw_l2(steps=6, rounds=3, weight=1.0), "noise_l2": attacks.noise(tries=3, norm="l2"),
}  # fmt: skip
ALL = LINF | L2


def network(weights, x):
    hidden = jnp.tanh(x.reshape(len(x), -1) @ weights["first"])
    return hidden @ weights["second"]


def linear(w, x):
    return x.reshape(len(x), -1) @ w


def coarse(w, x):
    return linear(w, quantize.quantize_input(x, 2, 0, 1))


def drawn(seed, count=COUNT, shape=SHAPE):
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    first, second = rng.normal(size=(size, 6)), rng.normal(size=(6, CLASSES))
    weights = {"first": jnp.asarray(first, jnp.float32), "second": jnp.asarray(2 * second, jnp.float32)}
    x = jnp.asarray(rng.uniform(size=(count, *shape)).clip(0.02, 0.98), jnp.float32)
    return jax.tree_util.Partial(network, weights), x, jnp.asarray(rng.integers(0, CLASSES, count))


def own_keys(seed, index):
    return keys.sample_keys(jax.random.key(seed), np.asarray(index))


@pytest.mark.parametrize("name", ALL)
@given(SEEDS, EPS)
def test_an_attack_stays_in_its_ball_and_in_the_range_of_pixels(name, seed, eps):
    fn, x, y = drawn(seed)
    found = attacks.run(own_keys(seed, range(COUNT)), ALL[name], fn, x, y, eps=eps)
    change = np.asarray(found - x, np.float64).reshape(COUNT, -1)
    length = np.abs(change).max(1) if name in LINF else np.linalg.norm(change, axis=1)
    assert length.max() <= eps + ROUNDED
    assert found.min() >= 0
    assert found.max() <= 1
    if eps == 0:
        np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_changed_in_the_same_way_alone_or_in_any_batch(name):
    fn, x, y = drawn(1, count=9)
    rows, others = np.arange(COUNT), np.array([8, 3, 7, 1, 5])
    whole, mixed = (attacks.run(own_keys(0, own), ALL[name], fn, x[own], y[own], eps=0.2) for own in (rows, others))
    np.testing.assert_allclose(mixed[1:4:2], whole[3:0:-2], atol=ROUNDED)
    if name in ("pgd", "square"):  # another shape is another program
        alone = attacks.run(own_keys(0, [2]), ALL[name], fn, x[2:3], y[2:3], eps=0.2)
        np.testing.assert_allclose(alone, whole[2:3], atol=ROUNDED)


@given(SEEDS, st.sampled_from(["linf", "l2"]))
def test_a_linear_classifier_falls_as_its_closed_form_says(seed, norm):
    """Two classes: the margin falls by eps ||w||_1 in linf, by eps ||w||_2 in l2, on images away from 0 and 1."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(6, 2))
    x = rng.uniform(0.3, 0.7, size=(COUNT, 6))
    y, eps = rng.integers(0, 2, COUNT), 0.2
    gap = (w[:, 1] - w[:, 0]) * np.where(y == 0, 1, -1)[:, None]  # towards the other class
    best = np.sign(gap) if norm == "linf" else gap / np.linalg.norm(gap, axis=1, keepdims=True)
    fn = jax.tree_util.Partial(linear, jnp.asarray(w, jnp.float32))
    for attack in (
        attacks.pgd(steps=30, step_size=2.0, norm=norm),
        attacks.apgd(steps=30, norm=norm, objective="margin"),
    ):
        found = attacks.run(own_keys(seed, range(COUNT)), attack, fn, jnp.asarray(x, jnp.float32), y, eps=eps)
        margins = [((x + eps * best) * gap).sum(1), (np.asarray(found, np.float64) * gap).sum(1)]
        np.testing.assert_allclose(margins[1], margins[0], rtol=1e-3, atol=1e-3)


def corners(fn, x, y, eps):
    """Whether no corner of the ball changes the answer, image by image."""
    signs = np.array(list(itertools.product([-1, 1], repeat=x[0].size)), np.float32).reshape(-1, *x.shape[1:])
    right = [
        bool((np.asarray(fn(jnp.clip(image[None] + eps * signs, 0, 1))).argmax(1) == label).all())
        for image, label in zip(x, y, strict=True)
    ]
    return np.array(right)


@pytest.mark.parametrize("seen", [linear, coarse])
def test_square_finds_what_all_corners_hold(seen):
    """On 2 x 3 images of one channel, of a network whose margin rises or falls with each pixel alone."""
    rng = np.random.default_rng(0)
    fn = jax.tree_util.Partial(seen, jnp.asarray(rng.normal(size=(6, 2)), jnp.float32))
    x = jnp.asarray(rng.uniform(size=(40, 2, 3, 1)), jnp.float32)
    y, own = np.asarray(fn(x).argmax(1)), own_keys(0, range(40))
    found = attacks.run(own, attacks.square(queries=300), fn, x, y, eps=0.1)
    withstood = corners(fn, x, y, 0.1)
    np.testing.assert_array_equal(attacks.right(own, fn, found, y), withstood)
    assert 0.2 < withstood.mean() < 0.8


@given(SEEDS)
def test_mi_fgsm_follows_the_sign_of_summed_normalised_gradients(seed):
    fn, x, y = drawn(seed)
    loss = jax.grad(lambda x: objectives.ce(fn(x), y).sum())
    now, kept = np.asarray(x), np.zeros_like(x)
    for _ in range(4):
        new = np.asarray(loss(jnp.asarray(now)))
        kept = kept + new / np.abs(new).reshape(COUNT, -1).sum(1)[:, None, None, None]
        now = np.clip(x + np.clip(now + 0.05 * np.sign(kept) - x, -0.2, 0.2), 0, 1)
    found = attacks.run(own_keys(0, range(COUNT)), LINF["mi_fgsm"], fn, x, y, eps=0.2)
    np.testing.assert_allclose(found, now, atol=ROUNDED)


def test_objectives_are_what_they_say():
    logits = jnp.array([[3.0, 1.0, 0.5], [0.0, 2.0, 1.0]])
    y = jnp.array([0, 0])
    np.testing.assert_allclose(objectives.margin(logits, y), [-2, 2])
    np.testing.assert_allclose(objectives.dlr(logits, y), [-2 / 2.5, 2 / 2], rtol=1e-6)
    np.testing.assert_allclose(objectives.ce(logits, y), -jax.nn.log_softmax(logits)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(objectives.dlr(100 * logits + 7, y), objectives.dlr(logits, y), rtol=1e-5)


def test_schedules_are_those_of_the_papers():
    """APGD, 100 steps: 22, 41, 57, 70, 80, 87, 93, 99; Square, 10,000 queries: p halved after 10, 50, 200, ..."""
    np.testing.assert_array_equal(np.flatnonzero(checkpoints(100)) + 1, [22, 41, 57, 70, 80, 87, 93, 99])
    p = shares(10_000, 0.8)
    np.testing.assert_allclose(p[[0, 10, 11, 50, 51, 201, 8001]], 0.8 / np.array([1, 1, 2, 2, 4, 8, 512]))


@given(SEEDS)
def test_apgd_is_no_weaker_than_the_start_and_keeps_the_best_image(seed):
    fn, x, y = drawn(seed)
    own = own_keys(seed, range(COUNT))
    found = attacks.run(own, attacks.apgd(steps=12), fn, x, y, eps=0.2)
    begun = jax.vmap(jax.random.fold_in, (0, None))(own, 1 << 19)
    start = balls.uniform("linf", begun, x, jnp.float32(0.2))
    assert (objectives.ce(fn(found), y) >= objectives.ce(fn(start), y) - ROUNDED).all()


def test_restarts_keep_the_first_image_that_changes_the_answer():
    fn, x, y = drawn(4, count=40)
    y, own = fn(x).argmax(1), own_keys(0, range(40))
    one, more = (attacks.pgd(steps=1, step_size=0.3, objective="dlr", restarts=n) for n in (1, 6))
    first, joined = (attacks.run(own, attack, fn, x, y, eps=0.1) for attack in (one, more))
    fell = ~np.asarray(attacks.right(own, fn, first, y))
    np.testing.assert_array_equal(joined[fell], first[fell])
    assert (~attacks.right(own, fn, joined, y)).sum() > fell.sum()


def test_a_random_network_is_attacked_through_the_mean_of_its_draws():
    def noisy(x, key):
        return (x + 3 * jax.random.normal(key, x.shape)) @ jnp.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.1]])

    x, y = jnp.full((6, 3), 0.5), jnp.zeros(6, int)
    own = own_keys(0, range(6))
    found = attacks.run(own, attacks.pgd(steps=20, objective="margin"), noisy, x, y, eps=0.1, draws=3)
    np.testing.assert_allclose(found, np.tile([0.4, 0.6, 0.4], (6, 1)), atol=ROUNDED)
    alone = attacks.run(own[2:3], attacks.pgd(steps=10), noisy, x[2:3], y[2:3], eps=0.1, draws=3)
    whole = attacks.run(own, attacks.pgd(steps=10), noisy, x, y, eps=0.1, draws=3)
    np.testing.assert_allclose(alone, whole[2:3], atol=ROUNDED)
    assert attacks.right(own, noisy, x, y, draws=400).shape == (6,)


def test_one_program_serves_all_strengths_and_all_networks_of_a_shape():
    traces = []

    def counted(weights, x):
        traces.append(1)
        return network(weights, x)

    fn, x, y = drawn(0)
    attack = attacks.pgd(steps=3)
    for strength, factor in ((0.1, 1.0), (0.2, 2.0), (0.3, 3.0)):
        weights = jax.tree.map(lambda leaf, factor=factor: factor * leaf, fn.args[0])
        attacks.run(own_keys(0, range(COUNT)), attack, jax.tree_util.Partial(counted, weights), x, y, eps=strength)
        made = len(traces) if strength == 0.1 else made
    assert len(traces) == made  # nor is the network looked at again


def test_a_convolution_on_a_cpu_takes_one_program_a_step_and_gives_the_same():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, CLASSES)), jnp.float32)
    _, x, y = drawn(0)

    def convolved(x):
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(out).sum((1, 2))

    own, attack = own_keys(0, range(COUNT)), attacks.pgd(steps=3)
    steps = attacks.run(own, attack, convolved, x, y, eps=0.1)
    loop = jax.jit(lambda x: attacks.run(own, attack, convolved, x, y, eps=0.1))(x)
    np.testing.assert_allclose(steps, loop, atol=ROUNDED)


def test_many_networks_are_attacked_at_once():
    weights, x, y = [], None, None
    for seed in (0, 1):
        fn, x, y = drawn(seed)
        weights.append(fn.args[0])
    own, attack = own_keys(0, range(COUNT)), attacks.pgd(steps=3)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
    both = jax.vmap(lambda w: attacks.run(own, attack, jax.tree_util.Partial(network, w), x, y, eps=0.1))(together)
    for number, one in enumerate(weights):
        alone = attacks.run(own, attack, jax.tree_util.Partial(network, one), x, y, eps=0.1)
        np.testing.assert_allclose(both[number], alone, atol=ROUNDED)


X, Y = np.full((2, 4), 0.5, np.float32), np.array([0, 1])
LINEAR = functools.partial(jnp.matmul, b=np.eye(4, 3, dtype=np.float32))


@pytest.mark.parametrize(("changed", "message"), [
    ({"x": 255 * X}, r"images must lie in \[0, 1\]; got 127.5 to 127.5: pass pixels"),
    ({"x": np.full((2, 4), 127, np.uint8)}, r"images must be floats in \[0, 1\]; got uint8: divide"),
    ({"x": np.full((2, 4), np.nan, np.float32)}, "images must be finite"),
    ({"eps": 8}, r"eps is in pixels of \[0, 1\], at most 1 in linf; got 8: 8 instead of 8/255"),
    ({"eps": -0.1}, "eps is in pixels"),
    ({"eps": 2.1, "attack": attacks.cw_l2()}, "at most 2 in l2; got 2.1"),
    ({"y": np.eye(3)[Y]}, "take .argmax"),
    ({"y": np.array([0, 3])}, r"labels must lie in \[0, 3\); got 3"),
    ({"y": Y[:1]}, r"x and labels must have one entry per sample; got 2 and 1"),
    ({"attack": attacks.pgd(objective="dlr"), "fn": functools.partial(jnp.matmul, b=np.eye(4, 2, dtype=np.float32))},
     "this objective compares 3 classes at least; got 2: use ce"),
    ({"fn": lambda x: x.sum(1)}, r"logits_fn gives logits \(b, classes\); got shape \(2,\)"),
    ({"fn": lambda x, key: x}, r"takes 'key' beside the images: a random network needs draws=8"),
    ({"fn": lambda x, key: x, "draws": 0}, "draws of a random network are at least 1; got 0"),
])  # fmt: skip
def test_what_cannot_be_attacked_is_refused(changed, message, unchecked):
    given_ = {"fn": LINEAR, "attack": attacks.pgd(), "x": X, "y": Y, "eps": 0.1, "draws": None} | changed
    with pytest.raises(ValueError, match=message):
        attacks.run(own_keys(0, range(2)), given_["attack"], given_["fn"], given_["x"], given_["y"], eps=given_["eps"],
                    draws=given_["draws"])  # fmt: skip


@pytest.mark.parametrize(("build", "message"), [
    (lambda: attacks.pgd(steps=0), "1 step and 1 start at least; got 0"),
    (lambda: attacks.pgd(step_size=0.0), "step_size is a positive share"),
    (lambda: attacks.pgd(objective="hinge"), "no objective 'hinge'; there are ce, margin, dlr"),
    (lambda: attacks.mi_fgsm(steps=0), "1 step"),
    (lambda: attacks.mi_fgsm(momentum=-1.0), "momentum is the kept share"),
    (lambda: attacks.square(start=1.2), "start is the share of pixels"),
    (lambda: attacks.cw_l2(weight=0.0), "weight positive; got 0.0 and 0.0"),
])  # fmt: skip
def test_settings_without_a_meaning_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_integer_seeds_are_no_keys(unchecked):
    with pytest.raises(ValueError, match="key must be a key"):
        attacks.run(0, attacks.pgd(), LINEAR, X, Y, eps=0.1)
