"""The layer against softmax attention, closed-form gradients and hulls; its table against brute force."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.nn.layers.neighborhood import Neighborhood, log_memberships, nearest, neighborhood
from subspace_jax.robustness import neighborhood as tables

SEEDS = st.integers(0, 2**31 - 1)
WEIGHTINGS = st.sampled_from(["adaptive", "constant", "umap"])
COUNT, ENTRIES, WIDTH, OUT, K = 4, 12, 5, 3, 4
FLOAT32 = 1e-5
layer = jax.jit(neighborhood, static_argnames=("neighbors", "weighting", "held", "chunk"))


def drawn(seed):
    rng = np.random.default_rng(seed)
    shapes = (COUNT, WIDTH), (ENTRIES, WIDTH), (ENTRIES, OUT)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


@given(SEEDS, WEIGHTINGS)
def test_the_output_lies_in_the_hull_of_the_nearest_embeddings(seed, weighting):
    h, position, embedding = drawn(seed)
    v, found = layer(h, position, embedding, neighbors=K, weighting=weighting)
    squares = ((np.asarray(h)[:, None] - np.asarray(position)) ** 2).sum(2)
    order = np.argsort(squares, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_allclose(found.distance, np.take_along_axis(squares, order, 1), rtol=1e-4, atol=FLOAT32)
    np.testing.assert_allclose(found.weight.sum(1), 1, rtol=FLOAT32)
    assert found.weight.min() >= 0
    assert (np.diff(found.weight, axis=1) <= FLOAT32).all()
    near = embedding[found.index]
    assert (v <= near.max(1) + FLOAT32).all()
    assert (v >= near.min(1) - FLOAT32).all()


@given(SEEDS)
def test_all_entries_are_softmax_attention(seed):
    h, position, embedding = drawn(seed)
    v, _ = layer(h, position, embedding, neighbors=ENTRIES, weighting="constant", tau=0.7)
    scores = -((np.asarray(h, np.float64)[:, None] - np.asarray(position)) ** 2).sum(2) / 0.7
    weights = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(v, weights / weights.sum(1, keepdims=True) @ np.asarray(embedding), rtol=1e-3, atol=1e-5)


def jacobians(h, position, embedding, tau):
    def one(row):
        return neighborhood(row[None], position, embedding, neighbors=K, weighting="constant", tau=tau)[0][0]

    return jax.vmap(jax.jacrev(one))(h)


@given(SEEDS, st.sampled_from([0.5, 2.0]))
def test_the_gradient_is_its_formula_and_stays_below_the_bound(seed, tau):
    h, position, embedding = drawn(seed)
    v, found = layer(h, position, embedding, neighbors=K, weighting="constant", tau=tau)
    w, near, e = (np.asarray(a, np.float64) for a in (found.weight, position[found.index], embedding[found.index]))
    mean = np.einsum("bk,bkd->bd", w, near)
    formula = 2 / tau * np.einsum("bk,bkw,bkd->bwd", w, e - np.asarray(v)[:, None], near - mean[:, None])
    found = jacobians(h, position, embedding, tau)
    np.testing.assert_allclose(found, formula, atol=1e-4)
    bound = tables.jacobian_bound(h, position, embedding, neighbors=K, tau=tau)
    assert (np.linalg.norm(found, 2, axis=(1, 2)) <= bound * (1 + FLOAT32)).all()


@given(SEEDS, WEIGHTINGS)
def test_order_rotation_and_affine_maps_pass_through(seed, weighting):
    h, position, embedding = drawn(seed)
    v, _ = layer(h, position, embedding, neighbors=K, weighting=weighting)
    rng = np.random.default_rng(seed)
    order, turn = rng.permutation(ENTRIES), jnp.asarray(np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0], jnp.float32)
    moved, _ = layer(h @ turn + 2, (position @ turn + 2)[order], embedding[order], neighbors=K, weighting=weighting)
    np.testing.assert_allclose(moved, v, atol=1e-3)
    a = jnp.asarray(rng.normal(size=(OUT, OUT)), jnp.float32)
    mapped, _ = layer(h, position, embedding @ a - 1, neighbors=K, weighting=weighting)
    np.testing.assert_allclose(mapped, v @ a - 1, atol=1e-4)
    alone = jax.vmap(lambda row: layer(row[None], position, embedding, neighbors=K, weighting=weighting)[0][0])(h)
    np.testing.assert_allclose(alone, v, atol=FLOAT32)
    parts, _ = layer(h, position, embedding, neighbors=K, weighting=weighting, chunk=5)
    np.testing.assert_allclose(parts, v, atol=FLOAT32)


@given(SEEDS)
def test_embeddings_and_positions_have_the_gradients_of_their_formulas(seed):
    """dv/dE_i = w_i I and dv/dR_i = (2 / tau) w_i (E_i - v)(h - R_i)', 0 for entries that are no neighbours."""
    h, position, embedding = drawn(seed)
    v, found = layer(h, position, embedding, neighbors=K, weighting="constant", tau=0.7)
    moved, mixed = table_jacobians(h[:1], position, embedding)
    for i in range(ENTRIES):
        at = np.flatnonzero(np.asarray(found.index[0]) == i)
        w = float(found.weight[0, at[0]]) if len(at) else 0.0
        formula = 2 / 0.7 * w * np.outer(np.asarray(embedding[i] - v[0]), np.asarray(h[0] - position[i]))
        np.testing.assert_allclose(moved[0, :, i], formula, atol=1e-4)
        np.testing.assert_allclose(mixed[0, :, i], w * np.eye(OUT), atol=FLOAT32)


@jax.jit
def table_jacobians(h, position, embedding):
    def outputs(position, embedding):
        return neighborhood(h, position, embedding, neighbors=K, weighting="constant", tau=0.7)[0]

    return jax.jacrev(outputs, argnums=(0, 1))(position, embedding)


def test_limits_of_tau_and_of_one_neighbour():
    h, position, embedding = drawn(0)
    v, found = layer(h, position, embedding, neighbors=1)
    np.testing.assert_allclose(v, embedding[found.index[:, 0]], rtol=FLOAT32)
    slope = jax.grad(lambda h: neighborhood(h, position, embedding, neighbors=1)[0].sum())(h)
    np.testing.assert_array_equal(slope, 0)
    on, _ = layer(position[:COUNT], position, embedding, neighbors=K, weighting="constant", tau=1e-4)
    np.testing.assert_allclose(on, embedding[:COUNT], rtol=FLOAT32)
    flat, found = layer(h, position, embedding, neighbors=K, weighting="constant", tau=1e8)
    np.testing.assert_allclose(flat, embedding[found.index].mean(1), rtol=1e-4)
    alike, pull = jax.vjp(lambda h: neighborhood(h, position, jnp.ones_like(embedding), neighbors=K)[0], h)
    np.testing.assert_allclose(alike, 1, rtol=FLOAT32)
    np.testing.assert_allclose(pull(jnp.ones_like(alike))[0], 0, atol=FLOAT32)


def test_copies_in_a_table_count_in_the_order_of_their_numbers():
    h, position, embedding = drawn(0)
    twice, both = jnp.concatenate([position, position]), jnp.concatenate([embedding, embedding + 1])
    v, found = layer(h, twice, both, neighbors=2)
    first = nearest(h, position, 1)[:, 0]
    np.testing.assert_array_equal(found.index, np.stack([first, first + ENTRIES], 1))
    np.testing.assert_allclose(v, embedding[first] + 0.5, rtol=1e-4)


@given(SEEDS, st.sampled_from([3, 5, 12]))
def test_chunks_of_the_table_give_the_same_neighbours(seed, chunk):
    h, position, _ = drawn(seed)
    position = position.at[7].set(position[2])  # equally near: the lower number first
    np.testing.assert_array_equal(nearest(h, position, 3, chunk=chunk), nearest(h, position, 3))


@given(SEEDS)
def test_memberships_sum_to_the_logarithm_of_their_number(seed):
    distance = jnp.sort(jnp.asarray(np.random.default_rng(seed).uniform(0.1, 4, size=(3, 8)), jnp.float32), axis=1)
    member = jnp.exp(log_memberships(distance))
    np.testing.assert_allclose(member.sum(1), 3, rtol=1e-2)
    np.testing.assert_array_equal(member[:, 0], 1)


def test_a_width_that_is_not_held_has_another_gradient():
    h, position, embedding = drawn(1)
    slopes = [jax.grad(lambda h, held=held: neighborhood(h, position, embedding, neighbors=K, held=held)[0].sum())(h)
              for held in (True, False)]  # fmt: skip
    assert np.abs(slopes[0] - slopes[1]).max() > 1e-3


def test_the_linen_layer_is_the_function():
    h, _, _ = drawn(0)
    module = Neighborhood(entries=ENTRIES, width=OUT, neighbors=K)
    variables = module.init(jax.random.key(0), h)
    position, embedding = variables["batch_stats"]["position"], variables["params"]["embedding"]
    assert position.shape == (ENTRIES, WIDTH)
    np.testing.assert_allclose(module.apply(variables, h), layer(h, position, embedding, neighbors=K)[0], atol=FLOAT32)


def test_a_table_holds_each_class_as_often_and_follows_the_key():
    labels = np.repeat([0, 1, 2], [50, 20, 4])
    features = np.arange(74.0, dtype=np.float32)[:, None]
    table = tables.initial_table(jax.random.key(0), features, labels, features, entries=24)
    np.testing.assert_array_equal(np.bincount(labels[table.source]), [10, 10, 4])
    np.testing.assert_array_equal(table.position, features[table.source])
    other = tables.initial_table(jax.random.key(1), features, labels, features, entries=24)
    assert set(other.source) != set(table.source)
    with pytest.warns(UserWarning, match="2 entries cannot hold all 3 classes"):
        tables.initial_table(jax.random.key(0), features, labels, features, entries=2)


@pytest.mark.parametrize(("mixed", "warned"), [(False, False), (True, True)])
def test_a_table_of_noise_is_warned_of(mixed, warned):
    """Each class half on the left and half on the right: within a class entries are as far apart as between classes."""
    labels = np.repeat([0, 1], 10)
    side = np.tile([-1.0, 1.0], 10) if mixed else 2.0 * labels - 1
    features = (side[:, None] + 0.01 * np.random.default_rng(0).normal(size=(20, 3))).astype(np.float32)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tables.initial_table(jax.random.key(0), features, labels, features, entries=20)
    assert any("is the encoder trained" in str(one.message) for one in said) == warned


@given(SEEDS, st.sampled_from([0.0, 0.05, 0.5]))
def test_the_moving_average_is_its_formula(seed, rho):
    h, position, embedding = drawn(seed)
    _, found = layer(h, position, embedding, neighbors=K)
    moved = np.array(position, np.float64)
    for i in range(ENTRIES):
        pairs = [
            (w, h[b]) for b in range(COUNT) for n, w in zip(found.index[b], found.weight[b], strict=True) if n == i
        ]
        total = float(sum(w for w, _ in pairs))
        if total:
            mean = sum(float(w) * np.asarray(row, np.float64) for w, row in pairs) / total
            moved[i] += (1 - (1 - rho) ** total) * (mean - moved[i])
    np.testing.assert_allclose(tables.moving_average(position, h, found, rho=rho), moved, atol=1e-4)
    if rho == 0:
        np.testing.assert_array_equal(tables.moving_average(position, h, found, rho=rho), position)


def test_the_neighbour_loss_falls_where_neighbours_stay_neighbours():
    rng = np.random.default_rng(0)
    h = jnp.asarray(np.repeat(rng.normal(size=(4, 6)) * 5, 8, axis=0) + 0.1 * rng.normal(size=(32, 6)), jnp.float32)
    kept, mixed = h[:, :2], h[rng.permutation(32), :2]
    values = [tables.neighbor_loss(jax.random.key(0), h, v, neighbors=7) for v in (kept, mixed)]
    assert values[0] < 0.5 * values[1]
    slope = jax.grad(lambda h: tables.neighbor_loss(jax.random.key(0), h, kept, neighbors=7))(h)
    np.testing.assert_array_equal(slope, 0)
    same = jax.grad(lambda v: tables.neighbor_loss(jax.random.key(0), h, v, neighbors=7))(jnp.zeros((32, 2)))
    assert np.isfinite(same).all()


def test_drift_says_how_far_inputs_are_from_the_table():
    position = jnp.arange(5.0)[:, None] * jnp.ones((1, 2))
    assert tables.drift(position, position) == 0
    np.testing.assert_allclose(tables.drift(position + 100, position), 98, rtol=0.05)


@pytest.mark.parametrize(("call", "message"), [
    (lambda h, r, e: neighborhood(h, r, e, neighbors=13), "neighbors are 1 to 12, the entries of the table; got 13"),
    (lambda h, r, e: neighborhood(h[:, :2], r, e, neighbors=2), "positions of width 5; the layer reads 2"),
    (lambda h, r, e: neighborhood(h, r, e[:3], neighbors=2), "as many positions as embeddings; got 12 and 3"),
    (lambda h, r, e: neighborhood(h, r, e, neighbors=2, weighting="mean"), "no weighting 'mean'"),
    (lambda h, r, e: neighborhood(h.at[1, 2].set(jnp.nan), r, e, neighbors=2),
     r"inputs of the layer must be finite; got nan at position \(1, 2\).*the encoder diverged"),
    (lambda h, r, e: neighborhood(h, r.at[3, 0].set(jnp.inf), e, neighbors=2), "positions of the table must be finite"),
    (lambda h, r, e: tables.neighbor_loss(jax.random.key(0), h, h, neighbors=4), "a batch of 4 has 3 neigh"),
    (lambda h, r, e: tables.neighbor_loss(jax.random.key(0), h[:1], h[:1], neighbors=1), "a batch of 1 has 0"),
    (lambda h, r, e: tables.moving_average(r, h, None, rho=1.0), r"in \[0, 1\); got 1.0"),
    (lambda h, r, e: tables.initial_table(jax.random.key(0), r, np.zeros(12, int), e, entries=13), "1 to 12, the"),
    (lambda h, r, e: tables.initial_table(jax.random.key(0), r * jnp.nan, np.zeros(12, int), e), "x must be finite"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(*drawn(0))
