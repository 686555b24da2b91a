"""Designs from counted responses: exact properties of the counts, an oracle from scikit-learn, what is refused."""

import warnings

import flax.linen as lin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from subspace_jax.compression import pca_design
from subspace_jax.compression.channel_groups import INPUT
from subspace_jax.core import capture, convolution, costs
from subspace_jax.core.moments import Moments
from subspace_jax.core.subspace import significant_dims
from subspace_jax.nn import build, from_linen, from_nnx
from tests.compression.layers import draw

SEEDS = st.integers(0, 2**31 - 1)
TAUS = st.sampled_from([0.5, 0.9, 0.99, 0.999])
M, N = 7, 60
IMAGES = draw(0, 40, 8, 8, 1).astype(np.float32)


def sums(rows):
    return Moments(rows.T @ rows, rows.sum(0), float(len(rows)))


def response(seed, rank=M):
    """Rows of this rank with a decaying spectrum, not centred."""
    return draw(seed, N, rank) * 0.6 ** np.arange(rank) @ draw(seed + 1, rank, M) + draw(seed + 2, M)


def dims(rows, tau):
    return int(significant_dims(pca_design.spectrum("w", sums(rows), images=N).eigenvalues, tau=tau))


@given(SEEDS, TAUS)
def test_a_count_does_not_see_constants_order_scale_or_mixing(seed, tau):
    rows, rng = response(seed), np.random.default_rng(seed)
    mixing = np.linalg.qr(draw(seed, M, M))[0]
    k = dims(rows, tau)
    assert 1 <= k <= M
    for other in (rows + draw(seed, M), rows[rng.permutation(N)], rows[:, rng.permutation(M)], 3 * rows, rows @ mixing):
        assert dims(other, tau) == k


@given(SEEDS, TAUS, st.integers(1, M))
def test_rows_of_a_rank_need_no_more_filters_and_all_the_variance_needs_them_all(seed, tau, rank):
    rows = response(seed, rank)
    assert dims(rows, tau) <= dims(rows, 1.0) == rank
    assert dims(np.concatenate([rows, rows], 1), 1.0) == rank


def test_white_rows_need_their_share():
    rows = draw(0, 20_000, 50)
    for tau in (0.5, 0.9):
        assert abs(dims(rows, tau) - np.ceil(tau * 50)) <= 1


@pytest.fixture(scope="module")
def net():
    """A small chain on grey images: model, variables, spectra measured in two batches."""
    model = build("cnn", classes=3, widths=(12, 5), pools=(1,))
    variables = jax.jit(model.init)(jax.random.key(1), IMAGES[:1])
    return model, variables, pca_design.spectra(model, variables, [IMAGES[:20], IMAGES[20:]])


def test_spectra_are_those_of_scikit_learn_on_all_responses(net):
    model, variables, found = net
    _, rows = capture.record(model.apply, variables, IMAGES, of="outputs")
    assert [(one.path, one.width, one.images, one.group) for one in found] == [
        ("conv0/kernel", 12, 40, "conv0/kernel"), ("conv1/kernel", 5, 40, "conv1/kernel"),
    ]  # fmt: skip
    for one in found:
        oracle = PCA().fit(np.asarray(rows[one.path], np.float64))
        assert one.rows == len(rows[one.path])
        np.testing.assert_allclose(one.eigenvalues, oracle.explained_variance_ * (1 - 1 / one.rows), atol=1e-9)
        for tau in (0.9, 0.99, 0.999):
            assert significant_dims(one.eigenvalues, tau=tau) == PCA(tau).fit(rows[one.path]).n_components_


def test_a_grey_three_by_three_layer_never_needs_more_than_nine(net):
    assert significant_dims(net[2][0].eigenvalues, tau=1) == 9


def test_the_response_is_the_kernel_times_its_patches_zero_border_included(net):
    _, variables, found = net
    kernel = np.asarray(convolution.kernel_matrix(variables["params"]["conv0"]["kernel"]), np.float64)
    patches = np.asarray(convolution.patches(jnp.asarray(IMAGES), (3, 3), padding=[(1, 1), (1, 1)]), np.float64)
    expected = np.linalg.eigvalsh(kernel.T @ np.cov(patches.reshape(-1, 9).T, bias=True) @ kernel)[::-1]
    np.testing.assert_allclose(found[0].eigenvalues, expected, atol=1e-6)


def test_an_nnx_network_has_the_design_of_the_same_linen_one():
    class Linen(lin.Module):
        @lin.compact
        def __call__(self, x):
            return lin.Dense(3, name="b")(jax.nn.relu(lin.Dense(5, name="a")(x)))

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x):
            return self.b(jax.nn.relu(self.a(x)))

    x, model, other = draw(3, 600, 4).astype(np.float32), from_linen(Linen()), from_nnx(lambda rngs: Nnx(rngs))
    variables = model.init(jax.random.key(0), x)
    designs = [
        pca_design.propose(pca_design.spectra(one, variables, [x]), tau=0.9, min_width=1) for one in (model, other)
    ]
    assert designs[0].widths == designs[1].widths
    assert [line.path for line in designs[0].report] == ["a/kernel"]


def of(*counts, rows=10_000, group=None):
    """Spectra whose counts at .9, .99 and .999 are these, beside 200 filters."""
    made = []
    for i, k in enumerate(counts):
        values = np.zeros(200)
        values[:k] = 1.0
        values[k:] = 1e-7 / 200
        made.append(pca_design.LayerSpectrum(f"conv{i}", 200, values, rows, rows, group or f"conv{i}"))
    return made


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ((10, 20, 30, 40), 4), ((10, 20, 20, 30), 4), ((10, 20, 30, 25, 8), 3), ((10, 20, 15, 30), 2),
        ((100, 98, 120), 3),
    ],
)  # fmt: skip
def test_depth_ends_where_the_counts_fall(counts, kept):
    assert pca_design.depth_kept(counts) == kept
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        design = pca_design.propose(of(*counts), tau=0.9999, min_width=1)
    assert design.keep == tuple(i < kept for i in range(len(counts)))
    assert design.widths == counts[:kept]
    assert [line.dims for line in design.report] == list(counts)


def test_widths_are_bounded_rounded_and_fall_with_tau():
    spectra = [one._replace(rows=10**6) for one in of(3, 50, 199)]
    assert pca_design.propose(spectra, tau=0.9999, multiple_of=16).widths == (16, 64, 200)
    assert pca_design.propose(spectra, tau=0.9999, min_width=60).widths == (60, 60, 199)
    low = pca_design.propose(spectra, tau=0.49, min_width=1, depth=False)
    assert low.widths == (2, 25, 98)
    assert low.report[1].depth_dims == 50
    assert low.report[1].participation == pytest.approx(50, rel=1e-3)
    below = pca_design.propose(spectra, tau=0.49, min_width=1, depth=False, rule="below")
    assert below.widths == (1, 24, 97)


def test_layers_that_are_added_get_the_largest_count():
    model = build("resnet18", classes=3, blocks=(1,), width=4)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES[:1])
    found = pca_design.spectra(model, variables, [IMAGES])
    with pytest.raises(ValueError, match="'stem/kernel' is joined with other layers: no layer can go"):
        pca_design.propose(found, tau=0.9)
    design = pca_design.propose(found, tau=0.6, depth=False, min_width=1)
    by_path = {line.path.removesuffix("/kernel"): line for line in design.report}
    stem, last = by_path["stem"], by_path["stage1/block0/conv1"]
    assert stem.width == last.width == max(stem.dims, last.dims)
    assert by_path["stage1/block0/conv0"].width == by_path["stage1/block0/conv0"].dims


def test_uniform_widths_are_the_nearest_in_operations_of_the_network_itself():
    widths, pools, x = (6, 8, 5), (2,), jax.ShapeDtypeStruct((1, 8, 8, 1), "float32")

    def table(own):
        model = build("cnn", classes=3, widths=own, pools=pools)
        return capture.layers(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x)

    full = table(widths)
    cost = lambda own: pca_design.chain_macs(full, own)  # noqa: E731
    for own in ((6, 8, 5), (2, 7, 1)):
        assert cost(own) == costs.macs(table(own))
    target = 0.4 * cost(widths)
    found = pca_design.uniform_widths(widths, cost, target=target)
    factors = np.linspace(1e-3, 1, 5000)
    tried = {tuple(max(1, round(float(f) * w)) for w in widths) for f in factors}
    assert abs(cost(found) - target) == min(abs(cost(one) - target) for one in tried)
    assert pca_design.uniform_widths(widths, cost, target=2 * cost(widths)) == widths
    with pytest.raises(ValueError, match="3 layers come before the classifier; got 2 widths"):
        cost((1, 2))


@pytest.mark.parametrize("tau", [0, 1, 1.5])
def test_a_share_of_everything_or_nothing_is_refused(tau):
    with pytest.raises(ValueError, match=r"in \(0, 1\); got"):
        pca_design.propose(of(3), tau=tau)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"rows": 160, "images": 10}, {}, "160 rows cannot count 200 filters: measure at least 13 images, better 1250"),
        ({"eigenvalues": np.zeros(200)}, {}, "'conv0' gives the same for every row: it is dead"),
        ({"group": INPUT}, {}, "'conv0' meets the network's input or output"),
        ({}, {"slack": 1.0}, "slack is in [0, 1), min_width and multiple_of are at least 1; got 1.0, 4, 1"),
        ({}, {"min_width": 0}, "got 0.05, 0, 1"),
    ],
)  # fmt: skip
def test_spectra_that_tell_no_width_are_refused(change, options, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        pca_design.propose([of(3)[0]._replace(**change)], tau=0.9, **options)
    assert message in str(refused.value)


def test_thin_spectra_name_the_images_that_are_missing():
    with pytest.warns(UserWarning, match="conv0: fewer than 100 rows a filter; measure 20000 images, 10000 more"):
        pca_design.propose(of(3), tau=0.9)


class Normalised(lin.Module):
    @lin.compact
    def __call__(self, x):
        return lin.Dense(3, name="head")(jax.nn.relu(lin.WeightNorm(lin.Dense(4))(x)))


def test_networks_that_cannot_be_measured_are_refused(net):
    model, variables, _ = net
    with pytest.raises(ValueError, match="batches is empty"):
        pca_design.spectra(model, variables, [])
    one = build("mlp", classes=3, widths=())
    with pytest.raises(ValueError, match="'head/kernel' is the only layer"):
        pca_design.spectra(one, one.init(jax.random.key(0), IMAGES[:1]), [IMAGES])
    normed, x = from_linen(Normalised()), draw(0, 9, 5).astype(np.float32)
    with pytest.raises(ValueError, match="cannot follow the weight"):
        pca_design.spectra(normed, normed.init(jax.random.key(0), x), [x])


def test_a_dead_layer_has_no_spectrum():
    rows = np.ones((50, 3)) * np.array([1e6, 2.0, 3.0])
    assert not pca_design.spectrum("w", sums(rows), images=50).eigenvalues.any()


def test_responses_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="response of 'w' 'gram' must be finite; got nan"):
        pca_design.spectrum("w", sums(np.full((50, 3), np.nan)), images=50)
