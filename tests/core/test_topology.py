import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspace_jax.core import topology

SEEDS = st.integers(0, 2**31 - 1)
EXACT = 1e-12  # a few sums of float64
CARD = 1e-6  # the decimals in which the radii are published
RADII = [
    *[("ring", n, (1 + 2 * np.cos(2 * np.pi / n)) / 3) for n in (5, 8, 10, 16, 20, 32)],
    *[("ring", 5, 0.539345), ("ring", 8, 0.804738), ("ring", 10, 0.872678)],
    *[("ring", 16, 0.949253), ("ring", 20, 0.967371), ("ring", 32, 0.987190)],
    *[("torus", 9, 0.4), ("torus", 16, 0.6), ("torus", 32, 0.882843)],
    *[("petersen", 10, 0.5), ("dyck", 32, 0.809017), ("florentine", 15, 0.942559)],
    *[("full", 7, 0.0), ("exponential", 8, 0.5), ("exponential", 16, 0.6), ("exponential", 32, 2 / 3)],
]
SIZES = {"petersen": 10, "dyck": 32, "florentine": 15, "torus": 12}
EVERY = [(name, SIZES.get(name, 8)) for name in topology.GRAPHS]


@pytest.mark.parametrize(("name", "n", "rho"), RADII)
def test_spectral_radii_are_the_published_ones(name, n, rho):
    w = topology.weights(name, n)
    assert abs(topology.spectral_radius(w) - rho) < CARD
    assert abs(topology.spectral_gap(w) - (1 - rho)) < CARD
    deflated = w - 1 / n  # 1 becomes 0 and every other eigenvalue stays
    assert abs(np.abs(np.linalg.eigvals(deflated)).max() - rho) < CARD


@pytest.mark.parametrize(("name", "n"), EVERY)
def test_every_named_graph_is_connected_and_its_weights_keep_the_mean(name, n):
    adjacency, w = topology.build(name, n), topology.weights(name, n)
    assert adjacency.shape == (n, n)
    assert adjacency.dtype == bool
    assert not adjacency.diagonal().any()
    assert topology.components(adjacency) == 1
    assert w.dtype == np.float64
    np.testing.assert_array_equal(topology.check_weights(w, agents=n, connected=True), w)
    np.testing.assert_array_equal((w.reshape(-1, n, n) > 0).any(0), adjacency | np.eye(n, dtype=bool))


def numbered(graph):
    return nx.to_numpy_array(graph, weight=None).T > 0  # networkx: row sends, ours: row receives


def directed_circulant(n):
    graph = nx.empty_graph(n, nx.DiGraph)
    graph.add_edges_from((i, (i + hop) % n) for i in range(n) for hop in (1, 2, 4))
    return graph


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (topology.ring(6), nx.cycle_graph(6)),
        (topology.directed_ring(6), nx.cycle_graph(6, nx.DiGraph)),
        (topology.chain(5), nx.path_graph(5)),
        (topology.star(5), nx.star_graph(4)),
        (topology.full(5), nx.complete_graph(5)),
        (topology.torus(12), nx.grid_2d_graph(3, 4, periodic=True)),
        (topology.grid(24), nx.grid_2d_graph(4, 6)),
        (topology.grid(9), nx.grid_2d_graph(3, 3)),
        (topology.exponential(8), directed_circulant(8)),
        (topology.exponential(6), directed_circulant(6)),
        (topology.dyck(), nx.LCF_graph(32, [5, -5, 13, -13], 8)),
        (topology.petersen(), nx.petersen_graph()),
    ],
    ids=[
        "ring", "directed_ring", "chain", "star", "full", "torus", "grid", "square", "exponential8", "exponential6",
        "dyck", "petersen",
    ],
)  # fmt: skip
def test_graphs_are_those_of_networkx(ours, theirs):
    np.testing.assert_array_equal(ours, numbered(theirs))
    np.testing.assert_array_equal(ours, topology.from_networkx(theirs))


def test_florentine_families_marry_as_in_networkx():
    ours = nx.from_numpy_array(topology.florentine())
    assert nx.is_isomorphic(ours, nx.florentine_families_graph())


def test_self_loops_and_parallel_edges_of_networkx_count_once_or_not_at_all():
    graph = nx.MultiDiGraph([("b", "a"), ("b", "a"), ("a", "a")])
    np.testing.assert_array_equal(topology.from_networkx(graph), [[False, False], [True, False]])


@pytest.mark.parametrize("n", [2, 4, 8, 32])
def test_one_peer_exponential_averages_exactly(n):
    steps = topology.one_peer_exponential(n)
    assert len(steps) == np.log2(n)
    np.testing.assert_array_equal(np.linalg.multi_dot([np.eye(n), *steps, np.eye(n)]), np.full((n, n), 1 / n))


def test_one_peer_exponential_warns_where_it_does_not():
    with pytest.warns(UserWarning, match="power of two only; 6 agents do not"):
        steps = topology.one_peer_exponential(6)
    assert np.abs(np.linalg.multi_dot(steps) - 1 / 6).max() > 0.01


def random_graph(seed, n, directed=False):
    """A connected random graph: a path through everybody (a cycle where directed) and more edges."""
    rng = np.random.default_rng(seed)
    adjacency = rng.random((n, n)) < rng.uniform(0, 0.6)
    order = rng.permutation(n)
    adjacency[order[1:], order[:-1]] = adjacency[order[0], order[-1]] = True
    np.fill_diagonal(adjacency, False)
    return adjacency if directed else adjacency | adjacency.T


@given(SEEDS, st.sampled_from([3, 6, 17]))
def test_metropolis_hastings_is_symmetric_doubly_stochastic_and_averages(seed, n):
    adjacency = random_graph(seed, n)
    w = topology.metropolis_hastings(adjacency)
    topology.check_weights(w, agents=n, symmetric=True, connected=True)
    np.testing.assert_array_equal(w, w.T)
    assert (w.diagonal() > 0).all()
    np.testing.assert_allclose(w.sum(0), 1, atol=EXACT)
    degree = adjacency.sum(1)
    for i, j in np.argwhere(adjacency):
        assert w[i, j] == 1 / (1 + max(degree[i], degree[j]))
    assert topology.spectral_radius(w) < 1


@given(SEEDS, st.sampled_from([2, 7, 12]), st.booleans())
def test_components_are_those_of_networkx(seed, n, directed):
    rng = np.random.default_rng(seed)
    adjacency = (rng.random((n, n)) < 1.2 / n) & ~np.eye(n, dtype=bool)
    adjacency = adjacency if directed else adjacency | adjacency.T
    graph = nx.from_numpy_array(adjacency, create_using=nx.DiGraph)
    assert topology.components(adjacency) == nx.number_strongly_connected_components(graph)


def test_a_long_chain_is_one_component():
    assert topology.components(topology.chain(100)) == 1


def test_the_radius_of_a_graph_in_two_parts_is_one():
    w = np.kron(np.eye(2), topology.weights("ring", 3))
    assert abs(topology.spectral_radius(w) - 1) < EXACT
    assert topology.spectral_radius(np.ones((1, 1))) == 0


# --- permutation form


def circulant_degree(form, degree):
    assert len(form.sources) == degree
    for source in form.sources:
        assert len({(s - i) % len(source) for i, s in enumerate(source)}) == 1


def check_form(w):
    form = topology.permutations(w)
    np.testing.assert_array_equal(topology.dense(form), w)
    assert form.weights.shape == (len(form.sources), len(w))
    seen = np.zeros(w.shape, int)
    for source, weight in zip(form.sources, form.weights, strict=True):
        assert sorted(source) == list(range(len(w)))
        assert all(type(agent) is int for agent in source)
        assert (weight[np.array(source) == np.arange(len(w))] == 0).all()
        seen[np.arange(len(w))[weight != 0], np.array(source)[weight != 0]] += 1
        there = np.arange(len(w))[list(source)]
        np.testing.assert_array_equal(there[list(topology.inverse(source))], np.arange(len(w)))
    np.testing.assert_array_equal(seen, (w != 0) & ~np.eye(len(w), dtype=bool))
    return form


@pytest.mark.parametrize(
    ("name", "n", "degree"),
    [("ring", 6, 2), ("ring", 2, 1), ("directed_ring", 5, 1), ("full", 5, 4), ("exponential", 8, 3)],
)
def test_circulant_graphs_take_one_shift_a_neighbour(name, n, degree):
    circulant_degree(check_form(topology.weights(name, n)), degree)


def test_each_step_of_one_peer_exponential_is_one_shift():
    for step in topology.one_peer_exponential(8):
        circulant_degree(check_form(step), 1)


@given(SEEDS, st.sampled_from([4, 9, 16]))
def test_undirected_graphs_are_edge_coloured_within_the_bound_of_vizing(seed, n):
    adjacency = random_graph(seed, n)
    w = topology.metropolis_hastings(adjacency)
    form = check_form(w)
    assert len(form.sources) <= adjacency.sum(1).max() + 1
    offsets = (np.argwhere(adjacency) @ [-1, 1]) % n
    if len(np.unique(offsets)) * n > adjacency.sum():  # not circulant
        assert all(topology.inverse(source) == source for source in form.sources)


@pytest.mark.parametrize("name", ["torus", "grid", "chain", "star", "petersen", "dyck", "florentine"])
def test_named_undirected_graphs_are_edge_coloured(name):
    n = SIZES.get(name, 8)
    form = check_form(topology.weights(name, n))
    assert all(topology.inverse(source) == source for source in form.sources)
    degree = topology.build(name, n).sum(1).max()
    assert degree <= len(form.sources) <= degree + 1


@given(SEEDS, st.sampled_from([(3, 4), (8, 5)]))
def test_graphs_without_odd_cycles_take_no_colour_more_than_their_degree(seed, sides):
    across = np.random.default_rng(seed).random(sides) < 0.5
    across[0, 0] = True
    adjacency = np.block([[np.zeros((sides[0],) * 2), across], [across.T, np.zeros((sides[1],) * 2)]]) > 0
    form = check_form(topology.metropolis_hastings(adjacency))
    assert len(form.sources) == adjacency.sum(1).max()


def test_the_petersen_graph_takes_four_colours():
    assert len(topology.permutations(topology.weights("petersen", 10)).sources) == 4  # Petersen, 1898: not three


@given(SEEDS, st.sampled_from([3, 8, 15]))
def test_directed_graphs_take_as_many_permutations_as_their_degree(seed, n):
    adjacency = random_graph(seed, n, directed=True)
    w = (adjacency + np.eye(n)) / (1.0 + adjacency.sum(0))  # columns sum to 1, as push-sum has it
    topology.check_weights(w, columns_only=True, connected=True)
    form = check_form(w)
    if (adjacency != adjacency.T).any():
        assert len(form.sources) == max(adjacency.sum(0).max(), adjacency.sum(1).max())


def test_without_edges_there_is_nothing_to_send():
    form = check_form(np.eye(3))
    assert form.sources == ()


# --- bad input

RING = topology.weights("ring", 4)
EDGE = np.array([[0.5, 0.25, 0.25], [0.25, 0.75, 0], [0.25, 0, 0.75]])
ONE_WAY = topology.weights("directed_ring", 3)
STACK = np.stack([np.eye(4), RING])
ROWS = np.array([[1.0, 0.0], [0.5, 0.5]])
SINK = np.array([[1.0, 0.5], [0.0, 0.5]])  # agent 1 hears nobody


def spoiled(w, place, value):
    w = w.copy()
    w[place] = value
    return w


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topology.ring(1), "at least 2 agents, got 1"),
        (lambda: topology.chain(0), "got 0"),
        (lambda: topology.one_peer_exponential(1), "got 1"),
        (lambda: topology.torus(7), "both at least 3, but 7 is prime; take 9 agents, or another graph"),
        (lambda: topology.torus(8), "8 is 2 x 4 at best; take 9 agents"),
        (lambda: topology.torus(14), "14 is 2 x 7 at best; take 15 agents"),
        (lambda: topology.torus(0), "0 is no number of agents; take 9"),
        (lambda: topology.grid(7), "both at least 2, but 7 is prime; take 8 agents, or a chain"),
        (lambda: topology.grid(1), "1 is 1 x 1 at best; take 4 agents"),
        (lambda: topology.build("petersen", 8), "petersen has 10 agents; got 8"),
        (lambda: topology.weights("dyck", 16), "dyck has 32 agents; got 16"),
        (lambda: topology.build("florentine", 16), "florentine has 15 agents; got 16"),
        (lambda: topology.weights("mesh", 16), "graph is one of ring, .*, florentine; got 'mesh'"),
        (lambda: topology.metropolis_hastings(topology.directed_ring(3)), "the reverse edge 0 -> 2 is missing"),
        (lambda: topology.metropolis_hastings(np.ones((2, 2), bool)), "no self-loops, agent 0 has one"),
        (lambda: topology.metropolis_hastings(np.ones((2, 3), bool)), r"square matrix .* got \(2, 3\)"),
        (lambda: topology.uniform(topology.star(4)), "column 0 of the mixing weights sums to 1.75, not 1"),
        (lambda: topology.spectral_radius(STACK), r"got \(2, 4, 4\)"),
        (lambda: topology.permutations(STACK), r"got \(2, 4, 4\); of a stack take each by itself"),
        (lambda: topology.check_weights(np.ones(3)), r"\(N, N\), or \(T, N, N\) .*; got \(3,\)"),
        (lambda: topology.check_weights(np.ones((2, 3))), r"got \(2, 3\)"),
        (lambda: topology.check_weights(np.ones((0, 0))), r"got \(0, 0\)"),
        (lambda: topology.check_weights(RING, agents=5), "weights are of 4 agents, but there are 5"),
        (lambda: topology.check_weights(spoiled(RING, (2, 1), -0.1)), r"not negative, but W\[2, 1\] is -0.1"),
        (lambda: topology.check_weights(spoiled(RING, (2, 1), np.nan)), r"W\[2, 1\] is nan"),
        (lambda: topology.check_weights(spoiled(STACK, (1, 2, 1), -0.1)), r"W\[2, 1\] at step 1 is -0.1"),
        (lambda: topology.check_weights(spoiled(RING, (2, 1), 0.5)), "column 1 of the mixing weights sums to 1.166666"),
        (lambda: topology.check_weights(spoiled(STACK, (0, 3, 3), 0.5)), "column 3 .* at step 0 sums to 0.5"),
        (lambda: topology.check_weights(spoiled(RING, (2, 1), 1 / 3 + 2e-8)), "not 1"),
        (lambda: topology.check_weights(ROWS.T), "row 0 of the mixing weights sums to 1.5, not 1"),
        (lambda: topology.check_weights(ROWS, columns_only=True), "column 0 of the mixing weights sums to 1.5"),
        (lambda: topology.check_weights(ONE_WAY, symmetric=True), "agent 0 hears agent 2, but the reverse edge 0 -> 2"),
        (lambda: topology.check_weights(topology.one_peer_exponential(4), symmetric=True), "missing at step 0"),
        (lambda: topology.check_weights(np.eye(3), connected=True), "graph has 3 components; consensus impossible"),
        (lambda: topology.check_weights(np.kron(np.eye(2), RING), connected=True), "graph has 2 components"),
        (lambda: topology.check_weights(SINK, columns_only=True, connected=True), "graph has 2 components"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_good_weights_pass():
    topology.check_weights(RING, agents=4, symmetric=True, connected=True)
    topology.check_weights(EDGE, symmetric=True, connected=True)
    topology.check_weights(STACK, agents=4, symmetric=True, connected=True)  # connected over its steps together
    topology.check_weights(ONE_WAY, connected=True)
    topology.check_weights(ROWS.T, columns_only=True)
    topology.check_weights(RING + 1e-10)
    topology.check_weights(np.kron(np.eye(2), RING))
