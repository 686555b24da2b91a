"""Distillation over any method: its batches, its thresholds, and training without labels as the method alone."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import exchange
from subspace_jax.core.exchange import Comm
from subspace_jax.decentralized import idkd, labelling, methods, protocol, train
from subspace_jax.decentralized.state import State
from tests.decentralized import cases
from tests.decentralized.cases import AGENTS, CLASSES, COMM, GRAPHS, INPUTS

COMMON, BATCH, OWN = 13, 4, 12
KEY, SEEDS = jax.random.key(3), st.integers(0, 2**31 - 1)
FLOAT64 = 1e-10
RNG = np.random.default_rng(0)
PUBLIC = RNG.normal(size=(COMMON, INPUTS)).astype(np.float32)
SETS = tuple(np.concatenate([cases.batch(t, np.float32)[k] for t in (0, 1)], 1) for k in (0, 1))
HELD = np.stack([np.bincount(y, minlength=CLASSES) for y in SETS[1]])
INSIDE, OUTSIDE = SETS[0][:, :5], RNG.normal(size=(9, INPUTS)).astype(np.float32)
START = jax.tree.map(lambda leaf: leaf[0], cases.variables(np.float32))


def apply(variables, x):
    params = variables["params"]
    return jnp.tanh(x @ params["kernel"] + params["bias"][None]) @ params["head"]


LOSS = idkd.distillation(lambda variables, x, key: (apply(variables, x), variables["batch_stats"]))


@functools.cache
def algorithm(base="qgm", comm=COMM):
    below = methods.build(base, LOSS, comm=comm, weights=GRAPHS["ring"], lr=0.1)
    return below, idkd.idkd(below, samples=COMMON, classes=CLASSES)


@functools.cache
def trainer(base="qgm", distils=True, comm=COMM, runner=exchange.vmap):
    """(state, start, steps) -> state."""
    method = algorithm(base, comm)[distils]
    y = SETS[1] if distils else np.eye(CLASSES, dtype=np.float32)[SETS[1]]
    run = train.trainer(method, comm=comm, runner=runner, batch=BATCH, draw=idkd.draw if distils else train.uniform)
    sets, common = exchange.place((SETS[0], y), comm), exchange.copies(PUBLIC, comm) if distils else None
    return lambda state, start, steps: run(KEY, state, sets, start, steps, common)[0]


@functools.cache
def begun(base="qgm", distils=True, comm=COMM):
    return train.stacked(KEY, algorithm(base, comm)[distils], comm, START)


@functools.cache
def halfway(base="qgm", comm=COMM, runner=exchange.vmap):
    return trainer(base, True, comm, runner)(begun(base, True, comm), 0, 3)


@functools.cache
def homogenizer(threshold="youden", rule="mean", comm=COMM, runner=exchange.vmap):
    given = {"comm": comm, "runner": runner, "weights": GRAPHS["ring"], "threshold": threshold, "rule": rule}
    return labelling.homogenizer(apply, chunk=8, **given)


def labelled(threshold="youden", comm=COMM, runner=exchange.vmap, **changed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return homogenizer(threshold, comm=comm, runner=runner).label(
            halfway(comm=comm, runner=runner), PUBLIC, HELD, INSIDE, OUTSIDE, **changed
        )


# --- batches


@functools.cache
def draw():
    return jax.jit(lambda key, memory, x, y: idkd.draw(key, State(0, 0, 0, 0, memory), (x, y), x[::2] + 100, 64))


@given(SEEDS)
def test_a_batch_is_of_own_and_labelled_samples_with_their_labels(seed):
    rng = np.random.default_rng(seed)
    x, y = np.arange(10.0, dtype=np.float32)[:, None], rng.integers(0, CLASSES, 10)
    covered = rng.random(5) < 0.5
    labels = rng.dirichlet(np.ones(CLASSES), 5).astype(np.float32) * covered[:, None]
    found, p = draw()(jax.random.key(seed), idkd.Memory((), labels, covered), x, y)
    allowed = [*x[:, 0], *(x[::2, 0] + 100)[covered]]
    table = dict(zip([*x[:, 0], *(x[::2, 0] + 100)], [*np.eye(CLASSES)[y], *labels], strict=True))
    assert set(np.asarray(found[:, 0]).tolist()) <= set(allowed)
    np.testing.assert_allclose(p, [table[float(value)] for value in found[:, 0]])
    if not covered.any():
        rows = jax.random.randint(jax.random.key(seed), (64,), 0, 10)
        np.testing.assert_array_equal(found, x[rows])


def test_every_sample_has_the_same_chance():
    x, y = np.arange(10.0, dtype=np.float32)[:, None], np.zeros(10, int)
    covered = np.array([True, False, True, True, False])
    memory = idkd.Memory((), np.eye(CLASSES, dtype=np.float32)[[0] * 5] * covered[:, None], covered)
    drawn = np.concatenate([draw()(jax.random.key(k), memory, x, y)[0][:, 0] for k in range(200)])
    values, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(values, [*range(10), 100, 104, 106])
    mean = len(drawn) / 13
    assert np.square(counts - mean).sum() / mean < 33  # chi-square of 12 degrees of freedom: .999


# --- training


@pytest.mark.parametrize("base", ["d_psgd", "qgm"])
def test_without_labels_it_is_the_method_alone_bit_for_bit(base):
    alone = trainer(base, False)(begun(base, False), 0, 3)
    found = halfway(base)
    jax.tree.map(np.testing.assert_array_equal, found._replace(memory=found.memory.base), alone)
    nothing = homogenizer().label(found, PUBLIC, HELD, keep=np.zeros(COMMON, bool))[0]
    both = trainer(base)(nothing, 3, 3)
    jax.tree.map(
        np.testing.assert_array_equal, both._replace(memory=both.memory.base), trainer(base, False)(alone, 3, 3)
    )


def test_labels_stay_and_change_the_training():
    state, _ = labelled(0.0)
    on = trainer()(state, 3, 3)
    np.testing.assert_array_equal(on.memory.labels, state.memory.labels)
    assert not np.allclose(on.params["head"], trainer()(halfway(), 3, 3).params["head"], atol=1e-4)


@pytest.mark.filterwarnings("ignore:the threshold of agent")
def test_over_devices_labels_and_training_are_the_same():
    comm = Comm(AGENTS, 2)
    with jax.enable_x64(True):
        ends = []
        for where in ((COMM, exchange.vmap), (comm, exchange.shard_map)):
            start = jax.tree.map(lambda leaf: leaf[0], cases.variables())
            method = idkd.idkd(
                methods.build("qgm", LOSS, comm=where[0], weights=GRAPHS["ring"], lr=0.1), samples=COMMON,
                classes=CLASSES,
            )  # fmt: skip
            run = train.trainer(method, comm=where[0], runner=where[1], batch=BATCH, draw=idkd.draw)
            sets, common = exchange.place(SETS, where[0]), exchange.copies(PUBLIC, where[0])
            state, _ = run(KEY, train.stacked(KEY, method, where[0], start), sets, 0, 3, common)
            given = {"comm": where[0], "runner": where[1], "weights": GRAPHS["ring"], "threshold": "tpr95"}
            state, noted = labelling.homogenizer(apply, **given).label(state, PUBLIC, HELD, INSIDE)
            state, _ = run(KEY, state, sets, 3, 3, common)
            ends.append((exchange.fetch(state), noted))
    cases.assert_close(*ends, atol=FLOAT64)
    assert ends[0][0].memory.labels.dtype == np.float64


def test_a_run_is_saved_with_its_labels_and_read_back(tmp_path):
    start = exchange.fetch(labelled("tpr95")[0])

    def run():
        return protocol.run(
            KEY, algorithm()[1], start, SETS, (SETS[0][0], SETS[1][0]), comm=COMM, runner=exchange.vmap, apply=apply,
            weights=GRAPHS["ring"], steps=3, batch=BATCH, every=3, directory=tmp_path, draw=idkd.draw, common=PUBLIC,
            final=protocol.PARTS,
        )  # fmt: skip

    whole, again = run(), run()
    assert whole.keys() == again.keys() > {"final/memory/labels", "final/memory/covered", "final/memory/base/kernel"}
    for name, values in whole.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    np.testing.assert_array_equal(whole["step"], [6])
    np.testing.assert_array_equal(whole["final/memory/labels"], start.memory.labels)


# --- labels


def probabilities(x):
    """Softmax of every agent's own model, in NumPy."""
    params = jax.tree.map(np.asarray, halfway().params)
    logits = np.tanh(x @ params["kernel"] + params["bias"][:, None]) @ params["head"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_an_agent_labels_what_reaches_its_threshold_and_hears_its_neighbours():
    state, noted = labelled()
    p, own, other = (probabilities(x).max(-1) for x in (PUBLIC[None], INSIDE, OUTSIDE[None]))
    for i in range(AGENTS):
        every = np.concatenate([own[i], other[i]])
        best = max(every, key=lambda t: ((own[i] >= t - 1e-6).mean() - (other[i] >= t - 1e-6).mean(), t))
        gain = [(own[i] >= t - 1e-6).mean() - (other[i] >= t - 1e-6).mean() for t in (best, noted.threshold[i])]
        assert gain[1] == pytest.approx(max(gain[0], 0))
    np.testing.assert_array_equal(noted.kept, p >= noted.threshold[:, None] - 1e-6)
    near = (np.arange(AGENTS)[:, None] + [-1, 0, 1]) % AGENTS
    np.testing.assert_array_equal(noted.covered, noted.kept[near].any(1))
    count = noted.kept[near].sum(1)
    total = (probabilities(PUBLIC[None]) * noted.kept[..., None])[near].sum(1)
    np.testing.assert_allclose(state.memory.labels, total / np.maximum(count, 1)[..., None], atol=1e-5)
    np.testing.assert_array_equal(noted.sent, 2 * (2 + 4 * CLASSES * noted.kept.sum(1)))


def test_labels_travel_one_edge_further_without_any_prediction():
    state, noted = labelled("tpr95")
    further, again = homogenizer("tpr95").propagate(state, HELD)
    near = (np.arange(AGENTS)[:, None] + [-1, 0, 1]) % AGENTS
    np.testing.assert_array_equal(again.covered, noted.covered[near].any(1))
    np.testing.assert_array_equal(further.memory.covered, again.covered)
    np.testing.assert_allclose(further.memory.labels.sum(-1), again.covered, atol=1e-6)


def test_a_choice_made_outside_replaces_the_thresholds():
    keep = np.arange(COMMON) < 4
    state, noted = labelled(keep=keep)
    np.testing.assert_array_equal(noted.kept, np.broadcast_to(keep, (AGENTS, COMMON)))
    np.testing.assert_array_equal(state.memory.covered, noted.kept)
    assert np.isnan(noted.threshold).all()


# --- thresholds


@given(SEEDS)
def test_youden_and_tpr95_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(0, 12, 20) / 12, rng.integers(0, 9, 15) / 12
    gain = {t: (inside >= t).mean() - (outside >= t).mean() for t in [np.inf, *inside, *outside]}
    cut = labelling.cutoff("youden", inside, outside)
    assert gain[cut] == pytest.approx(max(gain.values()))
    stretched = labelling.cutoff("youden", np.exp(inside), np.exp(outside))
    np.testing.assert_array_equal(np.exp(inside) >= stretched, inside >= cut)
    cut = labelling.cutoff("tpr95", inside)
    assert (inside >= cut).mean() >= 0.95 > (inside > cut).mean()


def test_scores_that_separate_have_a_threshold_that_does():
    inside, outside = np.array([0.8, 0.9, 0.7]), np.array([0.4, 0.6])
    assert labelling.cutoff("youden", inside, outside) == 0.7
    assert labelling.cutoff(0.98, inside) == 0.98


@pytest.mark.parametrize(
    ("threshold", "said"),
    [(1.0, "agent 0, 1, 2, 3, 4, 5, 6, 7 keeps no common sample"), (1e-6, "keeps every common sample")],
)
def test_a_threshold_that_detects_nothing_is_said(threshold, said):
    with pytest.warns(UserWarning, match=said):
        state, noted = homogenizer(threshold).label(halfway(), PUBLIC, HELD)
    assert noted.kept.all() == noted.covered.all() == (threshold < 1)
    assert np.isfinite(state.memory.labels).all()


# --- refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: labelling.cutoff("fpr95", np.ones(2)), "youden, tpr95 or a number in .* got 'fpr95'"),
        (lambda: labelling.cutoff(1.5, np.ones(2)), "lies in .* got 1.5"),
        (lambda: labelling.cutoff("tpr95", np.ones(0)), "measured on held-out samples of each agent; there are none"),
        (lambda: labelling.cutoff("youden", np.ones(2)), "also takes samples that are unlike"),
        (lambda: homogenizer("median"), "got 'median'"),
        (lambda: idkd.idkd(algorithm()[0], samples=0, classes=3), "at least 1 sample and 2 classes; got 0 and 3"),
        (lambda: labelling.check_order(np.array([5, 5, 6])), "agent 2 has other common samples .* or another order"),
        (lambda: label(PUBLIC[:, :4]), r"common samples are \(4,\), held-out samples of the agents \(5,\): bring"),
        (lambda: label(PUBLIC, OUTSIDE[:, :2]), r"common samples are \(5,\), unlike samples of the agents \(2,\)"),
        (lambda: label(PUBLIC[:9]), "room for labels of 13 common samples; got 9"),
        (lambda: label(np.where(PUBLIC > 1, np.nan, PUBLIC)), "common samples must be finite"),
        (lambda: wider().label(halfway(), PUBLIC, HELD, INSIDE, OUTSIDE), r"3 classes, the network gives \(6,\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call()


def label(common, outside=OUTSIDE):
    return homogenizer().label(halfway(), common, HELD, INSIDE, outside)


def wider():
    def twice(variables, x):
        return jnp.concatenate([apply(variables, x)] * 2, axis=1)

    return labelling.homogenizer(twice, comm=COMM, runner=exchange.vmap, weights=GRAPHS["ring"])
