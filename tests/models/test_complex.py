"""Complex kernels, against the same networks with real block matrices and against complex NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax import nn, training
from subspace_jax.compression import utilized_rank
from subspace_jax.continual import gpm, leak, sgp, tasks, trgp, widths
from subspace_jax.continual.baselines import ewc, owm
from subspace_jax.core import capture, moments, subspace
from subspace_jax.decentralized import state
from subspace_jax.label_noise import verifix
from subspace_jax.privacy import noise
from subspace_jax.unlearning import class_projection
from subspace_jax.unlearning.baselines import importance
from tests.core.grams import draw
from tests.models.test_networks import onto

N, D, H, OUT = 4, 6, 6, 3  # fewer rows than features, so that no projector is the identity
FLOAT32 = 2e-5
FLOAT64_EIGH = 1e-6  # at the floor of 1e-12 of the energy
SEEDS = st.integers(0, 2**31 - 1)


def cdraw(seed, *shape):
    return draw(seed, *shape) + 1j * draw(seed + 1, *shape)


def block(kernel):
    """The real matrix by which [Re x, Im x] is multiplied where x is by the complex kernel."""
    kernel = np.asarray(kernel)
    return np.block([[kernel.real, kernel.imag], [-kernel.imag, kernel.real]])


def side_by_side(z):
    return np.concatenate([np.asarray(z).real, np.asarray(z).imag], -1)


def folded(gram):
    """X^H X from the real Gram of [Re X, Im X]."""
    d = len(gram) // 2
    re, im, across = gram[:d, :d], gram[d:, d:], gram[:d, d:]
    return re + im + 1j * (across - across.T)


def split_tanh(z):
    return jnp.tanh(z.real) + 1j * jnp.tanh(z.imag)


def network(params, x):
    z = split_tanh(x @ params["first"] + params["bias"]) @ params["second"]
    return jnp.concatenate([z.real, z.imag], -1)


def blocks(params, x):
    """The same network in real numbers, on [Re x, Im x]."""
    return jnp.tanh(x @ params["first"] + params["bias"]) @ params["second"]


def loss(fn):
    return lambda params, x: jnp.sum(jnp.sin(fn(params, x)))


@functools.cache
def case():
    params = {"first": cdraw(0, D, H) / 3, "bias": cdraw(2, 1, H), "second": cdraw(4, H, OUT) / 3}
    x = cdraw(6, N, D)
    real = {"first": block(params["first"]), "bias": side_by_side(params["bias"]), "second": block(params["second"])}
    return params, x, jax.tree.map(jnp.asarray, real), jnp.asarray(side_by_side(x))


@functools.cache
def measured():
    """Table, float64 moments and rows of the complex network."""
    params, x, _, _ = case()
    table = capture.layers(network, params, x)
    return table, capture.collect(network, params, [x], dtype="float64"), capture.record(network, params, x)[1]


def doubled(table, seen):
    """Moments of the block network over x and i x: each complex direction is two of its own."""
    return {
        path: moments.Moments(block(seen[path].gram), np.zeros(2 * len(seen[path].gram)), 100.0 * N) for path in table
    }


def repeated(seen):
    """Enough rows for their rank to be measured: the same ones, which changes no projector."""
    return {path: own._replace(count=np.float64(100 * N)) for path, own in seen.items()}


@pytest.mark.parametrize("of", ["inputs", "outputs", "gradients"])
def test_moments_are_those_of_the_block_network(of):
    params, x, real, xs = case()
    fns = (loss(network), loss(blocks)) if of == "gradients" else (network, blocks)
    (_, found), (_, expected) = (
        capture.observe(fn, *own, of=of) for fn, own in zip(fns, ((params, x), (real, xs)), strict=True)
    )
    for path, own in found.items():
        np.testing.assert_allclose(own.gram, folded(np.asarray(expected[path].gram)), atol=FLOAT32, err_msg=path)
        np.testing.assert_allclose(side_by_side(own.total), expected[path].total, atol=FLOAT32)
        assert own.count.dtype == np.float32
        assert float(own.count) == N


def test_float64_sums_are_exact_and_centred_ones_hermitian():
    _, seen, rows = measured()
    for path, atol in ("first", 1e-12), ("second", FLOAT32):  # the rows of the second are computed in float32
        row = np.asarray(rows[path], np.complex128)
        np.testing.assert_allclose(seen[path].gram, row.conj().T @ row, rtol=0, atol=atol)
        np.testing.assert_allclose(moments.covariance(seen[path]), np.cov(row.conj().T, bias=True), atol=atol)


@jax.jit
def spaces(gram, new, rows):
    """Ranks, projectors and a share of energy, of matrices of either kind."""
    whole, half = (subspace.from_gram(gram, energy=energy) for energy in (1.0, 0.5))
    both = subspace.union(whole, subspace.from_rows(rows, energy=1.0))
    found = whole, subspace.grow(whole, new, energy=1.0), subspace.complement(whole), both
    share = subspace.energy_share(whole, new)
    return half.rank, [own.rank for own in found], list(map(subspace.projector, found)), share


@settings(max_examples=4)
@given(SEEDS)
def test_subspaces_are_those_of_the_block_gram(seed):
    """Each complex direction is two real ones, of which a share of the energy may need one less."""
    rows, more = (np.asarray(cdraw(seed + 2 * i, N, D), np.complex128) for i in range(2))
    with jax.enable_x64(True):
        given = rows.conj().T @ rows, more.conj().T @ more, more[:1]
        half, ranks, projectors, share = jax.device_get(spaces(*given))
        real_half, real_ranks, real_projectors, real_share = jax.device_get(spaces(*map(block, given)))
    assert half == -(-real_half // 2)
    assert [2 * rank for rank in ranks] == real_ranks == [2 * N, 2 * D, 2 * (D - N), 2 * (N + 1)]
    for ours, theirs in zip(projectors, real_projectors, strict=True):
        np.testing.assert_allclose(block(ours), theirs, atol=FLOAT64_EIGH)
    np.testing.assert_allclose(rows @ projectors[0], rows, atol=FLOAT64_EIGH)
    np.testing.assert_allclose(share, real_share, atol=1e-9)


def soft(rows, alpha):
    """M by the singular values of the rows."""
    _, s, vh = np.linalg.svd(np.asarray(rows, np.complex128), full_matrices=False)
    p = s**2 / (s**2).sum()
    return (vh.conj().T * (alpha * p / ((alpha - 1) * p + 1))) @ vh


def test_verifix_and_unlearning_are_their_svd_formulas():
    params, _, _, _ = case()
    table, seen, rows = measured()
    edited = verifix.verifix(table, params, seen, alpha=30)
    forgotten = class_projection.unlearn_classes(table, params, seen, seen, alpha_r=10, alpha_f=3)
    for path in table:
        kernel, m_r, m_f = np.asarray(params[path]), soft(rows[path], 10), soft(rows[path], 3)
        np.testing.assert_allclose(edited[path], soft(rows[path], 30) @ kernel, atol=FLOAT32)
        np.testing.assert_allclose(forgotten[path], kernel - m_f @ (kernel - m_r @ kernel), atol=FLOAT32)
        assert edited[path].dtype == params[path].dtype


def test_edits_that_change_nothing_keep_imaginary_parts():
    params, x, _, _ = case()
    table, seen, _ = measured()
    same = class_projection.unlearn_classes(table, params, seen, seen, alpha_r=10, alpha_f=0)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    for edit in (
        verifix.verifix(table, params, seen, alpha=1e12),
        utilized_rank.project(table, params, repeated(seen), energy=1.0),
    ):
        assert float(jnp.abs(edit["first"] - params["first"]).max()) > 1e-2
        np.testing.assert_allclose(network(edit, x), network(params, x), atol=FLOAT32)


def test_a_projected_network_is_the_projected_block_network():
    params, _, real, _ = case()
    table, seen, _ = measured()
    theirs = capture.layers(blocks, real, jnp.ones((N, 2 * D)))
    ours = utilized_rank.project(table, params, repeated(seen), energy=1.0)
    expected = utilized_rank.project(theirs, real, doubled(table, seen), energy=1.0)
    ranks = utilized_rank.utilization(table, params, repeated(seen), energy=0.9)
    block_ranks = utilized_rank.utilization(theirs, real, doubled(table, seen), energy=0.9)
    for path in table:
        np.testing.assert_allclose(block(ours[path]), expected[path], atol=FLOAT32)
        assert int(ranks[path].inputs) == -(-int(block_ranks[path].inputs) // 2)
    thin = capture.factorise(table, ours, {"first": 2})
    u, s, vh = np.linalg.svd(ours["first"], full_matrices=False)
    factors = thin["factors"]["first"]
    np.testing.assert_allclose(factors["A"] @ factors["B"], (u[:, :2] * s[:2]) @ vh[:2], atol=FLOAT32)


def test_gpm_moves_kernels_as_in_the_block_network():
    params, x, real, xs = case()
    table, seen, rows = measured()
    theirs = capture.layers(blocks, real, xs)
    ours, tx = (optax.chain(optax.sgd(1.0), gpm.gpm(t)) for t in (table, theirs))
    state, other = ours.init(params), tx.init(real)
    assert jnp.iscomplexobj(optax.tree.get(state, "bases")["first"].basis)
    state = optax.tree.set(state, bases=gpm.update(optax.tree.get(state, "bases"), seen, energy=1))
    other = optax.tree.set(other, bases=gpm.update(optax.tree.get(other, "bases"), doubled(table, seen), energy=1))
    grads = {"first": cdraw(20, D, H), "bias": cdraw(22, 1, H), "second": cdraw(24, H, OUT)}
    as_blocks = {path: jnp.asarray(block(grads[path])) for path in table} | {"bias": jnp.zeros((1, 2 * H))}
    moved, expected = jax.jit(lambda: (ours.update(grads, state, params)[0], tx.update(as_blocks, other, real)[0]))()
    for path in table:
        np.testing.assert_allclose(block(moved[path]), expected[path], atol=FLOAT32)
        assert float(jnp.abs(moved[path]).max()) > 1e-2
    np.testing.assert_allclose(network(optax.apply_updates(params, moved), x), network(params, x), atol=FLOAT32)
    assert max(leak.leak(jax.random.key(0), table, ours, params, state).values()) < 1e-5
    wrong = optax.chain(gpm.gpm(table), optax.add_decayed_weights(1.0))
    state = optax.tree.set(wrong.init(params), bases=optax.tree.get(state, "bases"))
    assert leak.leak(jax.random.key(0), table, wrong, params, state)["first"] > 0.1
    change = {path: rows[path] @ moved[path] for path in table}
    found = leak.interference(table, params, optax.apply_updates(params, grads), seen)
    for path in table:
        np.testing.assert_allclose(change[path], 0, atol=FLOAT32)
        np.testing.assert_allclose(found[path], np.linalg.norm(rows[path] @ grads[path]) ** 2, rtol=1e-4)


def test_sgp_weighs_directions_by_their_singular_values():
    params, _, _, _ = case()
    table, seen, rows = measured()
    state = sgp.sgp(table).init(params)
    state = sgp.update(state, seen, energy=1, a=2)
    values = np.linalg.svd(np.asarray(rows["first"], np.complex128), compute_uv=False)
    expected = 3 * values / (2 * values + values[0])
    np.testing.assert_allclose(state.importance["first"][: len(values)], expected, atol=FLOAT32)


def test_real_matrices_fit_complex_leaves_but_not_the_other_way_round():
    params, _, real, xs = case()
    table, _, _ = measured()
    written = capture.write_kernels(table, params, {"first": np.ones((D, H))})
    np.testing.assert_array_equal(written["first"], np.ones((D, H)))
    with pytest.raises(ValueError, match="'first' is float32; a complex matrix would lose its imaginary part"):
        capture.write_kernels(capture.layers(blocks, real, xs), real, {"first": 1j * np.ones((2 * D, 2 * H))})


def waves(params, x):
    """Logits by a complex kernel; the kernel is one leaf or its two parts."""
    kernel = params["kernel"] if "kernel" in params else jax.lax.complex(params["re"], params["im"])
    z = x @ kernel
    return z.real + jnp.tanh(z.imag)


def as_parts(tree):
    return {"re": tree["kernel"].real, "im": tree["kernel"].imag}


def trained(whole, method):
    """A few steps of one way to train, of the kernel as a whole or as two parts."""
    start = {"kernel": jnp.asarray(cdraw(30, D, OUT))}
    model = nn.from_function(lambda key, x: start if whole else as_parts(start), waves)
    x, y, tx = draw(31, N, D), jnp.arange(N) % OUT, optax.sgd(0.3, momentum=0.9)
    key, variables = jax.random.key(0), {"params": start if whole else as_parts(start), "batch_stats": {}}
    if method == "train_step":
        now, step = training.create(key, model, tx, x), jax.jit(training.train_step(model, tx))
        for _ in range(3):
            now, _ = step(now, x, y)
        return now.params
    if method == "agents":  # all of them take their gradients from here
        grad = state.gradient(state.classification(model.train_apply))
        return optax.apply_updates(variables["params"], grad(variables["params"], {}, (x, y), key)[2])
    learner = ewc.ewc_learner(model, tx, strength=5.0, samples=4)
    now, step = learner.init(key, x), jax.jit(learner.step, static_argnums=2)
    for t in range(2):
        for _ in range(3):
            now = step(now, ((x * (1 - 2 * t), y),), t, key)
        now = learner.end(key, now, tasks.Task(x, y, x, y), t)
    return now.variables["params"]


@pytest.mark.parametrize("method", ["train_step", "ewc", "agents"])
def test_training_moves_the_imaginary_parts_downhill(method):
    """As it moves a network whose real and imaginary parts are leaves of their own."""
    found, expected = as_parts(trained(True, method)), trained(False, method)
    for part in expected:
        np.testing.assert_allclose(found[part], expected[part], atol=10 * FLOAT32)
    assert float(jnp.abs(expected["im"] - cdraw(30, D, OUT).imag).max()) > 0.05


REFUSED = {
    "TRGP": lambda table, seen: trgp.init(table, tasks=2),
    "OWM": lambda table, seen: owm.owm_learner(nn.build("mlp", classes=2), optax.sgd(1.0), table),
    "SPACE": lambda table, seen: widths.task_widths(seen, dict.fromkeys(table, 0), v=0.9),
}


@pytest.mark.parametrize("method", REFUSED)
def test_methods_of_real_numbers_say_so(method):
    table, seen, _ = measured()
    with pytest.raises(ValueError, match=f"{method} has no complex form; 'first' is complex"):
        REFUSED[method](table, seen)


def test_noise_and_squares_of_complex_gradients_are_refused():
    gradient = {"kernel": jnp.ones((2, 2), complex)}
    tx = noise.gaussian_noise(jax.random.key(0), sigma=1.0, clip=1.0, expected_batch=4.0)
    with pytest.raises(ValueError, match="would leave the imaginary parts of complex gradients as they are"):
        tx.update(gradient, tx.init(gradient))
    model = nn.from_function(lambda key, x: gradient, waves)
    samples = np.ones((3, 2), np.float32), np.zeros(3, np.int32)
    with pytest.raises(ValueError, match="a squared gradient has no complex form; 'kernel' is complex"):
        importance.mean_squared_gradient(model, {"params": gradient, "batch_stats": {}}, samples)


# ---- a Fourier layer: one complex kernel per frequency --------------------------------------------------------------
MODES, LENGTH, WIDTH = 3, 8, 4


def fourier(params, x):
    spectrum = jnp.fft.rfft(x @ params["lift"], axis=1)
    kept = jnp.einsum("nmi,mio->nmo", spectrum[:, :MODES], params["spectral"])
    wave = jnp.fft.irfft(jnp.pad(kept, ((0, 0), (0, spectrum.shape[1] - MODES), (0, 0))), LENGTH, axis=1)
    return jnp.tanh(wave).mean(1) @ params["head"]


def test_a_fourier_layer_is_measured_and_projected_by_frequency():
    params = {"lift": draw(0, 2, WIDTH), "spectral": cdraw(1, MODES, WIDTH, WIDTH), "head": draw(3, WIDTH, OUT)}
    x = draw(4, 3, LENGTH, 2)  # two frequencies of two inputs: rank 2 of 4
    with pytest.raises(ValueError, match=r"'spectral'.*batch axes.*name it in layers="):
        capture.layers(fourier, params, x)
    names = ["lift", "spectral", "head"]
    table = capture.layers(fourier, params, x, layers=names)
    seen = capture.collect(fourier, params, [x], layers=names, dtype="float64")
    rows = np.moveaxis(np.fft.rfft(np.asarray(x @ params["lift"]), axis=1)[:, :MODES], 1, 0)
    np.testing.assert_allclose(seen["spectral"].gram, rows.conj().mT @ rows, atol=1e-3)
    matrix = {}
    for path in table:
        matrix[path] = onto(seen[path].gram) @ moments.wide(capture.kernels(table, params)[path])
    edited = capture.write_kernels(table, params, matrix)
    assert float(jnp.abs(edited["spectral"] - params["spectral"]).max()) > 1e-2
    np.testing.assert_allclose(fourier(edited, x), fourier(params, x), atol=1e-4)
