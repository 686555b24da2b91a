"""SPACE: its counts against the card's own recursion on the rows, and that earlier tasks stay bit for bit."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax import nn, trees
from subspace_jax.continual import protocol, space, tasks
from subspace_jax.core import capture
from subspace_jax.core import moments as _moments
from subspace_jax.core.moments import Moments

SEEDS = st.integers(0, 2**31 - 1)
SHARES = st.sampled_from([0.3, 0.8, 0.95, 0.999])
KEY = jax.random.key(0)
M, N = 9, 40


def rows(seed, n=N, m=M):
    """Outputs whose channels depend on each other, not centred."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, m)) * 0.6 ** np.arange(m) @ rng.normal(size=(m, m)) + rng.normal(size=m)


def sums(x):
    return Moments(x.T @ x, x.sum(0), float(len(x)))


def covariance(x):
    return _moments.covariance(sums(x))


def wide(fn, cov, *args, **options):
    with jax.enable_x64(True):
        return int(fn(jnp.asarray(cov, jnp.float64), *args, **options))


def count_by_projection(x, core, v):
    """R = A - Q Q'A on the rows themselves, and the loop of the paper."""
    x = x - x.mean(0)
    basis = np.linalg.svd(x[:, :core], full_matrices=False)[0] if core else np.zeros((len(x), 0))
    rest = x[:, core:] - basis @ (basis.T @ x[:, core:])
    total, energies = (x[:, core:] ** 2).sum(), np.linalg.svd(rest, compute_uv=False) ** 2
    explained, k = (total - energies.sum()) / total, 0
    while explained < v:
        explained, k = explained + energies[k] / total, k + 1
    return k


@given(SEEDS, st.integers(0, M - 1), SHARES)
def test_the_schur_complement_counts_what_the_projection_of_the_rows_counts(seed, core, v):
    x = rows(seed)
    assert wide(space.residual_count, covariance(x), core, v=v) == count_by_projection(x, core, v)


@given(SEEDS, SHARES)
def test_the_first_task_counts_the_singular_values_below_the_share(seed, v):
    x = rows(seed)
    energies = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    expected = int((np.cumsum(energies) / energies.sum() < v).sum())
    assert wide(space.pca_count, covariance(x), v=v) == expected
    assert wide(space.residual_count, covariance(x), 0, v=v) == expected + 1


@given(SEEDS, st.integers(1, M), SHARES)
def test_combinations_of_the_core_need_nothing(seed, core, v):
    x = rows(seed)
    x[:, core:] = x[:, :core] @ np.random.default_rng(seed).normal(size=(core, M - core))
    assert wide(space.residual_count, covariance(x), core, v=v) == 0


@given(SEEDS, st.integers(0, M), SHARES, st.sampled_from([1e-3, 7.0]))
def test_scale_and_constants_do_not_count(seed, core, v, scale):
    x = rows(seed)
    other = scale * x + np.random.default_rng(seed).normal(size=M)
    assert wide(space.residual_count, covariance(other), core, v=v) == wide(
        space.residual_count, covariance(x), core, v=v
    )


@given(SEEDS, st.integers(0, M))
def test_a_larger_share_counts_no_fewer_and_no_more_than_there_are(seed, core):
    x = rows(seed)
    counts = [wide(space.residual_count, covariance(x), core, v=v) for v in (0.2, 0.5, 0.8, 0.95, 1.0)]
    assert counts == sorted(counts)
    assert counts[-1] <= M - core


@given(SEEDS, st.integers(1, M))
def test_the_whole_variance_takes_as_many_directions_as_the_rows_have(seed, rank):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=shape))[0] for shape in [(N, rank), (M, rank)])
    assert wide(space.residual_count, covariance((left - left.mean(0)) @ right.T), 0, v=1) == rank


def test_dead_channels_count_nothing_and_a_dead_core_explains_nothing():
    x = rows(0)
    x[:, 4:] = 1.5
    assert wide(space.residual_count, covariance(x), 4, v=0.9) == 0
    assert wide(space.residual_count, np.zeros((M, M)), 0, v=0.9) == wide(space.pca_count, np.zeros((M, M)), v=0.9) == 0
    x = rows(0)
    x[:, :4] = 0
    assert wide(space.residual_count, covariance(x), 4, v=0.9) == wide(
        space.residual_count, covariance(x[:, 4:]), 0, v=0.9
    )


def test_counts_run_compiled_over_layers_and_cores():
    covs = jnp.asarray(np.stack([covariance(rows(seed)) for seed in range(3)]), jnp.float32)
    cores = jnp.array([0, 2, 5])
    count = lambda cov, core: space.residual_count(cov, core, v=0.8)  # noqa: E731
    one_by_one = [count(cov, core) for cov, core in zip(covs, cores, strict=True)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(count))(covs, cores), jnp.stack(one_by_one))


def test_widths_say_what_bounds_them():
    few, dead = {"a": sums(rows(0, n=5))}, {"a": sums(np.ones((N, M)))}
    with pytest.warns(UserWarning, match="a: 5 rows cannot count 9 channels; measure 900 or more"):
        space.task_widths(few, {"a": 0}, v=0.9)
    with pytest.warns(UserWarning, match="a: its outputs do not vary; at least 1 channel"):
        assert space.task_widths(dead, {"a": 0}, v=0.9) == {"a": 1}
    one = {"a": sums(np.outer(np.arange(N), np.arange(M)) * 1.0)}  # one direction holds any share: 0 of it are below
    assert space.task_widths(one, {"a": 0}, v=0.9) == {"a": 1}
    assert space.task_widths({"a": sums(rows(0))}, {"a": M}, v={"a": 1.0}) == {"a": M}


# --- the transform

MODEL = nn.multi_head(nn.build("mlp", classes=0, widths=(12, 8)), tasks=3, classes=3)
X = jax.random.normal(KEY, (5, 6))
VARIABLES = MODEL.init(KEY, X)
PARAMS = VARIABLES["params"]
TABLE = capture.layers(MODEL.apply, VARIABLES, X)
OWNED = space.channels(TABLE)
ONES = jax.tree.map(jnp.ones_like, PARAMS)
STATE = space.FreezeState(
    {"dense0/kernel": jnp.int32(3), "dense1/kernel": jnp.int32(0)},
    {"dense0/kernel": jnp.int32(7), "dense1/kernel": jnp.int32(8)},
    jnp.int32(1),
)


def test_only_columns_between_the_frozen_and_the_live_learn_and_one_head():
    updates, state = space.freeze(OWNED).update(ONES, STATE)
    chex.assert_trees_all_equal(state, STATE)
    between = (np.arange(12) >= 3) & (np.arange(12) < 7)
    np.testing.assert_array_equal(updates["dense0"]["kernel"], np.broadcast_to(between, (6, 12)))
    np.testing.assert_array_equal(updates["dense0"]["bias"], between)
    np.testing.assert_array_equal(updates["dense1"]["kernel"], np.ones((12, 8)))
    np.testing.assert_array_equal(updates["heads"]["kernel"].max((1, 2)), [0, 1, 0])


def test_norms_stand_still_with_their_channels():
    model = nn.multi_head(nn.build("resnet20", classes=0, blocks=(1, 1), width=4, norm="minibatch"), tasks=2, classes=2)
    x = jnp.zeros((2, 4, 4, 1))
    params = model.init(KEY, x)["params"]
    owned = space.channels(capture.layers(model.apply, {"params": params, "batch_stats": {}}, x))
    widths = dict.fromkeys(owned.layers, 3)
    masks = trees.flatten(space.space_masks(owned, params, stop=widths))
    assert set(masks) == set(trees.flatten(params))
    for path, mask in masks.items():
        expected = np.ones(mask.shape) if path.startswith("heads") else np.arange(mask.shape[-1]) < 3
        np.testing.assert_array_equal(mask, np.broadcast_to(expected, mask.shape), err_msg=path)


def test_at_first_everything_but_the_other_heads_learns():
    tx = space.freeze(OWNED)
    updates, _ = tx.update(ONES, tx.init(PARAMS))
    updates["heads"]["kernel"] = updates["heads"]["kernel"].at[1:].set(1)
    chex.assert_trees_all_equal(updates, ONES)


WRAPPED = {
    "momentum and weight decay": lambda: optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9), space.freeze(OWNED)
    ),
    "adam": lambda: optax.chain(optax.adamw(0.1), space.freeze(OWNED)),
    "every second step": lambda: optax.MultiSteps(optax.chain(optax.sgd(0.1), space.freeze(OWNED)), 2),
    "rate in the state": lambda: optax.chain(
        optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), space.freeze(OWNED)
    ),
    "without the biases": lambda: optax.chain(
        optax.sgd(0.1),
        optax.masked(space.freeze(OWNED), lambda p: trees.map_with_path(lambda path, _: path.endswith("kernel"), p)),
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_is_frozen_stands_still_bit_for_bit_in_any_chain(name):
    """Moments from before the freezing push, weight decay pulls; the limits are set midway, without a compilation."""
    chain, params = WRAPPED[name](), PARAMS
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(chain.update, 1))
    state = chain.init(params)
    for step in range(12):
        if step == 6:
            before, state = params, optax.tree.set(state, FreezeState=STATE)
        updates, state = update(jax.tree.map(jnp.add, params, ONES), state, params)
        params = optax.apply_updates(params, updates)
    still = jax.tree.map(lambda a, b: np.asarray(a == b), before, params)
    np.testing.assert_array_equal(still["dense0"]["kernel"].all(0), (np.arange(12) < 3) | (np.arange(12) >= 7))
    assert not still["dense1"]["kernel"].any()
    np.testing.assert_array_equal(still["heads"]["kernel"].all((1, 2)), [True, False, True])
    biases = (np.arange(12) < 3) | (np.arange(12) >= 7)
    np.testing.assert_array_equal(still["dense0"]["bias"], biases & (name != "without the biases"))


def test_the_transform_runs_over_seeds_and_gives_zero_for_zero():
    tx = space.freeze(OWNED)
    blank = jax.tree.map(jnp.zeros_like, PARAMS)
    chex.assert_trees_all_equal(tx.update(blank, STATE)[0], blank)
    stack = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)  # noqa: E731
    together, _ = jax.vmap(tx.update)(stack(ONES), stack(STATE))
    chex.assert_trees_all_equal(together, stack(tx.update(ONES, STATE)[0]))


def test_commit_writes_the_widths_and_starts_the_rest_anew():
    start = {path: leaf for path, leaf in trees.flatten(PARAMS).items() if not path.startswith("heads")}
    state = space.SpaceState({path: jnp.zeros(3, jnp.int32) for path in OWNED.layers}, start)
    widths = {"dense0/kernel": 4, "dense1/kernel": 8}
    state, params = space.commit(OWNED, state, ONES, widths=widths, task=1)
    np.testing.assert_array_equal(state.widths["dense0/kernel"], [0, 4, 0])
    np.testing.assert_array_equal(params["dense0"]["kernel"][:, :4], 1)
    np.testing.assert_array_equal(params["dense0"]["kernel"][:, 4:], PARAMS["dense0"]["kernel"][:, 4:])
    np.testing.assert_array_equal(params["dense1"]["kernel"], 1)
    np.testing.assert_array_equal(params["heads"]["kernel"], 1)
    chex.assert_trees_all_equal(space.effective(OWNED, params, state, 0), params)  # not learned: all channels
    narrow = space.effective(OWNED, params, state, 1)
    assert (np.asarray(narrow["dense0"]["kernel"]) != 0).any(0).sum() == 4


# --- the learner

CENTRES = np.random.default_rng(0).normal(size=(3, 6)) * 3


def blobs(n, seed, *shape):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (CENTRES[y] + rng.normal(size=(n, 6))).astype(np.float32).reshape(n, *shape), y


DATA = tasks.Task(*blobs(90, 1, 1, 6, 1), *blobs(60, 2, 1, 6, 1))
TURNED = DATA._replace(y=(DATA.y + 1) % 3, test_y=(DATA.test_y + 1) % 3)
SEQUENCE = [DATA, *tasks.permuted(jax.random.key(3), TURNED, tasks=2)[1:], TURNED]
SHORT = {"classes": 3, "length": 60, "batch": 10}
SGD = optax.sgd(0.05, momentum=0.9)
IMAGES = jnp.zeros((1, 1, 6, 1))


def method_for(trunk, tx=SGD, **options):
    model = nn.multi_head(trunk, tasks=3, classes=3)
    table = capture.layers(model.apply, jax.eval_shape(model.init, KEY, IMAGES), IMAGES)
    return space.space(model, tx, table, tasks=3, steps=60, batch=10, **options), table


def watched(method, seen):
    """The same learner, which keeps each task's logits and the parameters after every task."""

    def end(key, state, task, t):
        state = method.end(key, state, task, t)
        logits = [np.asarray(method.predict(state, other.test_x, i)) for i, other in enumerate(SEQUENCE[: t + 1])]
        seen.append((logits, state))
        return state

    return method._replace(end=end)


TRUNKS = {
    "mlp": (lambda: nn.build("mlp", classes=0, widths=(12, 8)), SGD),
    "mlp, weight decay": (lambda: nn.build("mlp", classes=0, widths=(12, 8)), optax.adamw(0.01, weight_decay=0.1)),
    "residual, minibatch": (
        lambda: nn.build("resnet20", classes=0, blocks=(1, 1), width=4, norm="minibatch"), SGD,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:full:UserWarning", "ignore:the score of sample 0:UserWarning")
@pytest.mark.parametrize("name", TRUNKS)
def test_logits_of_learned_tasks_are_bit_identical_for_ever(name):
    build, tx = TRUNKS[name]
    method, table = method_for(build(), tx, v=0.9)
    seen = []
    found = protocol.run(KEY, watched(method, seen), SEQUENCE, **SHORT)
    for t, (at_commit, _) in enumerate(seen):
        for later, _ in seen[t + 1 :]:
            np.testing.assert_array_equal(later[t], at_commit[t])
    assert protocol.measures(found.matrix).backward_transfer == 0
    assert (np.diagonal(found.matrix[1:]) > np.diagonal(found.matrix)).all()  # and each was learned
    kept = found.state.kept
    for path, widths in kept.widths.items():
        assert 1 <= widths[0] <= widths[1] <= widths[2] <= table[path].d_out
    owned = space.channels(table)
    masks = trees.flatten(space.space_masks(owned, found.state.variables["params"], stop=space.core(kept)))
    for path, initial in kept.initial.items():
        leaf = trees.flatten(found.state.variables["params"])[path]
        np.testing.assert_array_equal(leaf[~masks[path]], initial[~masks[path]])
    assert method.held(found.state)["floats"] == 3 * len(kept.widths) + sum(a.size for a in kept.initial.values())


def test_a_full_layer_is_named_and_the_head_goes_on():
    method, _ = method_for(nn.build("mlp", classes=0, widths=(4,)), v=1.0)
    with pytest.warns(UserWarning, match="full: dense0/kernel; no channel is left for task 2"):
        found = protocol.run(KEY, method, SEQUENCE, **SHORT)
    assert found.held["width/dense0/kernel"][1:].tolist() == [4, 4]
    assert found.matrix[3, 2] > found.matrix[2, 2]


def test_an_interrupted_sequence_goes_on_bit_for_bit(tmp_path):
    method, _ = method_for(nn.build("mlp", classes=0, widths=(12, 8)), v=0.9)
    whole = protocol.run(KEY, method, SEQUENCE, **SHORT, directory=tmp_path / "whole")

    def stops(key, state, task, t):
        if t == 2:
            raise KeyboardInterrupt
        return method.begin(key, state, task, t)

    with pytest.raises(KeyboardInterrupt):
        protocol.run(KEY, method._replace(begin=stops), SEQUENCE, **SHORT, directory=tmp_path / "cut")
    resumed = protocol.run(KEY, method, SEQUENCE, **SHORT, directory=tmp_path / "cut")
    chex.assert_trees_all_equal(resumed.state.variables, whole.state.variables)
    chex.assert_trees_all_equal(resumed.state.kept, whole.state.kept)
    np.testing.assert_array_equal(resumed.matrix, whole.matrix)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"v": 0.0}, r"v is the share of variance to explain, in \(0, 1\]; got 0.0"),
        ({"v": 1.5}, "got 1.5"),
        ({"v": float("nan")}, "got nan"),
        ({"v": {"dense0/kernel": 0.9, "dense1/kernel": -1.0}}, "got -1.0"),
        ({"v": {"dense0/kernel": 0.9}}, "v is for the layers dense0/kernel, dense1/kernel; got it for dense0/kernel"),
        ({"samples": 0}, "at least 1; got 3, 60, 10, 0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        method_for(nn.build("mlp", classes=0, widths=(12, 8)), **options)


def test_wrong_counts_networks_and_tasks_are_refused():
    with pytest.raises(ValueError, match="got 2"):
        space.pca_count(jnp.eye(2), v=2)
    with pytest.raises(ValueError, match="no channel owns 'other/kernel'"):
        space.freeze(OWNED).init(PARAMS | {"other": {"kernel": jnp.ones((2, 2))}})
    method = space.space(MODEL, SGD, TABLE, tasks=4, steps=1, batch=1)
    with pytest.raises(ValueError, match="heads are stacked by task: 'heads/kernel' has 3 for 4 tasks"):
        method.init(KEY, X)
    running = nn.multi_head(nn.build("mlp", classes=0, widths=(12, 8), norm="batch"), tasks=3, classes=3)
    fresh = running.init(KEY, X)  # traced with its statistics closed over, they are not among the leaves
    hidden = capture.layers(lambda params, x: running.apply(fresh | {"params": params}, x), fresh["params"], X)
    with pytest.raises(ValueError, match="running statistics change with every task"):
        space.space(running, SGD, hidden, tasks=3, steps=1, batch=1).init(KEY, X)
    method = space.space(MODEL, SGD, TABLE, tasks=3, steps=1, batch=1)
    state = method.init(KEY, X)
    for task in (3, -1):
        with pytest.raises(ValueError, match=f"tasks count from 0 to 2; got {task}"):
            method.predict(state, X, task)


def test_tests_leave_no_other_warning():
    method, _ = method_for(nn.build("mlp", classes=0, widths=(12, 8)), v=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        protocol.run(KEY, method, SEQUENCE[:1], **SHORT)
