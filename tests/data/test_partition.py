import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.data import partition

SEEDS = st.integers(0, 2**31 - 1)
KEY = jax.random.key(0)
SIZES = st.sampled_from([(100, 3, 5), (203, 10, 10), (900, 10, 16)])  # (samples, classes, agents)
NAMES = st.sampled_from(list(partition.PARTITIONS))
BALANCED = np.repeat(np.arange(10), 500)


def draw(size, seed):
    n, classes, agents = size
    labels = np.random.default_rng(seed).permutation(np.arange(n) % classes)
    return jax.random.key(seed), labels, agents


@given(SIZES, SEEDS, NAMES)
def test_parts_are_disjoint_equal_and_a_function_of_the_key(size, seed, name):
    key, labels, agents = draw(size, seed)
    before = labels.copy()
    parts = partition.build(key, name, labels, agents=agents, skew=0.5, alpha=1.0)
    assert parts.dtype == np.int64
    assert parts.shape[0] == agents
    assert len(np.unique(parts)) == parts.size > 0
    assert 0 <= parts.min() <= parts.max() < len(labels)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(parts, partition.build(key, name, labels, agents=agents, skew=0.5, alpha=1.0))
    other = partition.build(jax.random.fold_in(key, 1), name, labels, agents=agents, skew=0.5, alpha=1.0)
    assert (parts != other).any()
    if name in ("label_sorted", "dirichlet", "iid"):
        assert parts.shape[1] == len(labels) // agents


@given(SIZES, SEEDS, NAMES)
def test_histogram_counts_every_sample_once(size, seed, name):
    key, labels, agents = draw(size, seed)
    parts = partition.build(key, name, labels, agents=agents, alpha=1.0)
    found = partition.histogram(labels, parts, classes=size[1])
    assert found.dtype.kind == "i"
    oracle = [[(labels[part] == c).sum() for c in range(size[1])] for part in parts]
    np.testing.assert_array_equal(found, oracle)
    assert (found.sum(1) == parts.shape[1]).all()


# --- label-sorted


@given(SEEDS)
def test_skew_one_is_a_stable_sort_in_contiguous_slices(seed):
    key, labels, agents = draw((203, 10, 10), seed)
    parts = partition.label_sorted(key, labels, agents=agents)
    np.testing.assert_array_equal(parts, np.argsort(labels, kind="stable")[:200].reshape(10, 20))


@given(SEEDS)
def test_skew_zero_is_a_shuffle_that_does_not_see_the_labels(seed):
    key, labels, agents = draw((203, 10, 10), seed)
    parts = partition.label_sorted(key, labels, agents=agents, skew=0.0)
    np.testing.assert_array_equal(parts, partition.iid(key, labels[::-1].copy(), agents=agents))
    assert (np.sort(parts, axis=None) != parts.ravel()).any()


@given(SEEDS, st.sampled_from([0.2, 0.5, 0.8]))
def test_between_a_part_is_a_slice_of_the_sorted_pool_then_of_the_shuffled_one(seed, skew):
    key, labels, agents = draw((203, 10, 10), seed)
    parts = partition.label_sorted(key, labels, agents=agents, skew=skew)
    pool = [i for c in range(10) for i in np.flatnonzero(labels == c)[: int(skew * (labels == c).sum())]]
    each = len(pool) // agents
    np.testing.assert_array_equal(parts[:, :each], np.array(pool)[: each * agents].reshape(agents, each))
    assert parts.shape == (10, 20)
    assert not np.isin(parts[:, each:], pool[: each * agents]).any()


def test_more_skew_is_more_skewness():
    found = [
        partition.skewness(partition.histogram(BALANCED, parts, classes=10))
        for parts in (partition.label_sorted(KEY, BALANCED, agents=10, skew=s) for s in (0.0, 0.5, 0.8, 1.0))
    ]
    assert found[0] < 0.06
    assert abs(found[1] - 0.45) < 0.03  # half of a part is one class, the other half a sample of all
    assert abs(found[2] - 0.72) < 0.03
    assert abs(found[3] - 0.9) < 1e-12


@pytest.mark.parametrize("agents", [11, 16, 20, 32, 40])
@pytest.mark.parametrize("skew", [0.5, 1.0])
def test_with_more_agents_than_classes_a_class_goes_to_agents_that_are_not_adjacent(agents, skew):
    n = 60 * agents
    labels = np.random.default_rng(0).permutation(np.arange(n) % 10)
    parts = partition.label_sorted(KEY, labels, agents=agents, skew=skew)
    each = sum(int(skew * (labels == c).sum()) for c in range(10)) // agents
    held = partition.histogram(labels, parts[:, :each], classes=10) > 0
    assert not (held & np.roll(held, 1, axis=0)).any()
    assert held.any(0).all()


# --- Dirichlet


@pytest.mark.parametrize("seed", range(3))
def test_a_large_alpha_is_close_to_uniform(seed):
    parts = partition.dirichlet(jax.random.key(seed), BALANCED, agents=10, alpha=1e6)
    counts = partition.histogram(BALANCED, parts, classes=10)
    chi_square = ((counts - 50) ** 2 / 50).sum()
    assert chi_square < 30  # 81 degrees of freedom: a random cut has 81 +- 13, equal shares less
    assert partition.skewness(counts) < 0.03


def test_a_small_alpha_leaves_two_or_three_classes_an_agent():
    parts = [partition.dirichlet(jax.random.key(seed), BALANCED, agents=10, alpha=0.01) for seed in range(5)]
    counts = np.concatenate([partition.histogram(BALANCED, part, classes=10) for part in parts])
    assert 1 < (counts > 0).sum(1).mean() <= 3  # single agents reach more, by slivers of their neighbour's
    assert np.sort(counts, axis=1)[:, -3:].sum() >= 0.95 * counts.sum()


def test_skewness_falls_with_alpha():
    parts = [partition.dirichlet(KEY, BALANCED, agents=16, alpha=alpha) for alpha in (0.01, 0.1, 1.0, 10.0)]
    found = [partition.skewness(partition.histogram(BALANCED, part, classes=10)) for part in parts]
    assert sorted(found, reverse=True) == found


@given(SEEDS)
def test_groups_of_ten_share_out_their_own_slice(seed):
    """With one class nothing is skewed: each group's agents hold one slice of the one shuffle."""
    key = jax.random.key(seed)
    parts = partition.dirichlet(key, np.zeros(400, int), agents=20, alpha=50.0)
    order = partition._generator(key).permutation(400)
    assert set(parts[:10].ravel()) == set(order[:200])
    assert set(parts[10:].ravel()) == set(order[200:])


def test_shares_that_all_go_to_full_agents_are_drawn_again():
    rng = np.random.default_rng(0)
    hungry = np.arange(5) == 3
    for _ in range(20):  # alpha this small names one agent, four times in five a full one
        np.testing.assert_array_equal(partition._cuts(rng, hungry, 1e-6, 7), [0, 0, 0, 7, 7])


def test_a_hopeless_alpha_ends(monkeypatch):
    monkeypatch.setattr(partition, "ATTEMPTS", 20)
    with pytest.raises(
        ValueError, match=r"in 20 draws with alpha 0.001 some of 10 agents .* of the 300 samples; raise"
    ):
        partition.dirichlet(KEY, np.arange(300) % 3, agents=10, alpha=0.001)


# --- shards and pairs


@given(SEEDS, st.sampled_from([1, 2, 5]))
def test_shards_are_whole_pieces_of_the_sorted_set(seed, shards):
    key, labels, agents = draw((203, 10, 10), seed)
    parts = partition.shards(key, labels, agents=agents, shards=shards)
    size = 203 // (10 * shards)
    pieces = np.argsort(labels, kind="stable")[: 10 * shards * size].reshape(-1, size)
    assert {tuple(piece) for piece in parts.reshape(-1, size)} == {tuple(piece) for piece in pieces}
    assert len(parts[0]) == shards * size


@pytest.mark.parametrize(("agents", "size"), [(3, 1000), (5, 1000), (7, 500), (10, 500), (20, 250)])
def test_everybody_holds_half_and_half_of_two_classes(agents, size):
    counts = partition.histogram(BALANCED, partition.label_pairs(KEY, BALANCED, agents=agents), classes=10)
    assert ((counts > 0).sum(1) == 2).all()
    assert (counts[counts > 0] == size // 2).all()
    assert (counts > 0).any(0).sum() == min(10, 2 * agents)


def test_the_rarest_class_sets_the_size_of_pairs():
    labels = np.repeat([0, 1, 2], [40, 7, 40])
    parts = partition.label_pairs(KEY, labels, agents=3)
    assert parts.shape == (3, 6)  # two agents hold each class, 3 of the rarest


def test_skewness_is_mean_total_variation():
    assert partition.skewness(np.full((4, 3), 5)) == 0
    assert partition.skewness(np.eye(4, dtype=int) * 9) == 0.75
    assert abs(partition.skewness(np.array([[3, 1], [1, 3]])) - 0.25) < 1e-12


LABELS = np.arange(12) % 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition.iid(KEY, LABELS, agents=13), r"in \[1, 12\], so that nobody's part .* is empty; got 13"),
        (lambda: partition.label_sorted(KEY, LABELS, agents=0), "got 0"),
        (lambda: partition.label_sorted(KEY, LABELS, agents=3, skew=1.5), r"in \[0, 1\]; got 1.5"),
        (lambda: partition.label_sorted(KEY, LABELS, agents=3, skew=float("nan")), "got nan"),
        (lambda: partition.label_sorted(KEY, LABELS / 2, agents=3), "cast them by"),
        (lambda: partition.iid(KEY, np.eye(3, dtype=int), agents=3), "argmax.* of one-hot labels"),
        (lambda: partition.dirichlet(KEY, LABELS, agents=3, alpha=0.0), "above 0 and finite; got 0.0"),
        (lambda: partition.dirichlet(KEY, LABELS, agents=3, alpha=-1.0), "got -1.0"),
        (lambda: partition.dirichlet(KEY, LABELS, agents=3, alpha=float("inf")), "got inf"),
        (lambda: partition.dirichlet(KEY, LABELS, agents=5, alpha=1.0), "5 agents and 3 classes take 15 .* are 12"),
        (lambda: partition.shards(KEY, LABELS, agents=4, shards=0), r"in \[1, 3\] for 4 agents and 12 samples; got 0"),
        (lambda: partition.shards(KEY, LABELS, agents=4, shards=4), "got 4"),
        (lambda: partition.shards(KEY, LABELS, agents=13), "got 13"),
        (lambda: partition.label_pairs(KEY, LABELS * 0, agents=3), "at least 2 classes, got 1"),
        (lambda: partition.label_pairs(KEY, LABELS, agents=9), "has 4 samples for 6 agents; take fewer"),
        (lambda: partition.build(KEY, "random", LABELS, agents=3), "one of label_sorted, .*, iid; got 'random'"),
        (lambda: partition.histogram(LABELS, np.array([[0, 1]]), classes=2), r"in \[0, 2\); got 2 at position"),
        (lambda: partition.histogram(LABELS - 1, np.array([[0, 1]]), classes=3), "got -1"),
        (lambda: partition.skewness(np.array([[1, 2], [0, 0]])), "agent 1 holds no sample"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
