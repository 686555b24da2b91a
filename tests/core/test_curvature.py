"""Every curvature quantity against the dense Hessian, closed forms and NumPy in float64."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import matfree.stochtrace
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax.core import curvature, losses
from subspace_jax.core.keys import rademacher, sample_keys

SEEDS = st.integers(0, 2**31 - 1)
FEW = settings(max_examples=5)
RELATIVE = 1e-4  # two float32 routes to one second derivative
ROUNDING = 1e-5  # of the largest score, where only the order of a sum differs
BATCH, DIM, CLASSES = 6, 5, 4
ESTIMATORS = ("fd_norm", "fd_sqnorm", "fd_quad", "hutchinson", "hv_norm")
ACTIVATIONS = {"relu": jax.nn.relu, "leaky": jax.nn.leaky_relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh,
               "softplus": jax.nn.softplus, "identity": lambda a: a}  # fmt: skip


def mlp(activation):
    """apply and loss of a network without biases: equal objects for equal names, so that jit compiles once."""

    def apply(variables, x):
        for weight in variables[:-1]:
            x = ACTIVATIONS[activation](x @ weight)
        return x @ variables[-1]

    return apply, losses.cross_entropy(apply)


NETS = {name: mlp(name) for name in ACTIVATIONS}


def draw(seed, sizes=(DIM, 16, 8, CLASSES), batch=BATCH):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s) * 1.5 / np.sqrt(s[0]) for s in itertools.pairwise(sizes)]
    x, y = rng.normal(size=(batch, sizes[0])), rng.integers(0, sizes[-1], batch)
    weights = [jnp.asarray(w, jnp.float32) for w in weights]
    return weights, jnp.asarray(x, jnp.float32), jnp.asarray(y), sample_keys(jax.random.key(seed), jnp.arange(batch))


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("probes", "step", "chunk"))
def estimate(name, net, variables, x, y, keys, **options):
    return getattr(curvature, name)(keys, NETS[net][1], variables, x, y, **options)


@functools.partial(jax.jit, static_argnums=(0,))
def exact(net, variables, x, y):
    return curvature.exact(NETS[net][1], variables, x, y)


@functools.partial(jax.jit, static_argnums=(0,))
def ggn(net, variables, x):
    return curvature.ggn_exact(NETS[net][0], variables, x)


@jax.jit
def relu_spectrum(variables, x):
    return curvature.ggn_spectrum(NETS["relu"][0], variables, x)


@functools.partial(jax.jit, static_argnums=(0,))
def dense(net, variables, x, y):
    """The Hessian of every sample by autodiff, sample by sample."""
    return jax.vmap(jax.hessian(lambda x, y: NETS[net][1](variables, x[None], y[None])[0]))(x, y)


def close(a, b, relative=RELATIVE):
    np.testing.assert_allclose(a, b, rtol=relative, atol=relative * np.abs(b).max())


# --- closed forms


@given(SEEDS)
def test_linear_softmax_has_the_closed_form_trace(seed):
    (w,), x, y, _ = draw(seed, (DIM, CLASSES))
    w64, z = np.asarray(w, np.float64).T, np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    spread = w64[None] - (p @ w64)[:, None]
    oracle = (p * (spread**2).sum(-1)).sum(1)
    close(exact("identity", [w], x, y), oracle)
    close(ggn("identity", [w], x), oracle)


def quadratic(matrix, x, y):
    return ((x @ matrix) * x).sum(1) / 2


@given(SEEDS)
def test_quadratic_loss_is_measured_exactly(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(DIM, DIM))
    a = jnp.asarray(a + a.T, jnp.float32)
    _, x, y, keys = draw(seed)
    v = np.asarray(rademacher(keys, 0, (DIM,)), np.float64)
    diagonal = jnp.diag(jnp.diag(a))
    close(_quadratic("hutchinson", keys, diagonal, x, y).value, np.full(BATCH, np.trace(a)))
    close(_quadratic("hutchinson", keys, a, x, y).value, ((v @ a) * v).sum(1))
    for step in (1.0, 1e-2):
        rounding = RELATIVE / step  # x + h v and the difference of gradients lose log10(1/h) digits
        close(_quadratic("fd_norm", keys, a, x, y, step=step).value / step, np.linalg.norm(v @ a, axis=1), rounding)
        close(_quadratic("fd_quad", keys, a, x, y, step=step).value, ((v @ a) * v).sum(1), rounding)


@functools.partial(jax.jit, static_argnums=(0,), static_argnames=("step",))
def _quadratic(name, keys, matrix, x, y, **options):
    return getattr(curvature, name)(keys, quadratic, matrix, x, y, probes=1, **options)


# --- piecewise-linear and smooth networks


@given(SEEDS, st.sampled_from(["relu", "leaky"]))
def test_piecewise_linear_networks_have_only_the_softmax_part(seed, net):
    variables, x, y, _ = draw(seed)
    trace = exact(net, variables, x, y)
    close(ggn(net, variables, x), trace)
    close(exact(net, variables, x, (y + 1) % CLASSES), trace)


@given(SEEDS, st.sampled_from(["gelu", "tanh", "softplus"]))
def test_finite_differences_tend_to_the_product_on_smooth_networks(seed, net):
    variables, x, y, keys = draw(seed, batch=24)
    fd, hv, trace, softmax_part = _smooth(net, variables, x, y, keys)
    assert np.corrcoef(fd, hv)[0, 1] > 0.9999
    close(fd / 1e-3, hv, 0.01)
    assert np.median(np.abs(trace - softmax_part)) > 100 * RELATIVE * np.median(softmax_part)


@functools.partial(jax.jit, static_argnums=(0,))
def _smooth(net, variables, x, y, keys):
    apply, loss = NETS[net]
    fd, hv = (getattr(curvature, name)(keys, loss, variables, x, y, probes=2).value for name in ("fd_norm", "hv_norm"))
    return fd, hv, curvature.exact(loss, variables, x, y), curvature.ggn_exact(apply, variables, x)


@FEW
@given(SEEDS)
def test_a_finite_step_sees_kinks_that_autodiff_does_not(seed):
    variables, x, y, keys = draw(seed, batch=24)
    fd = estimate("fd_norm", "relu", variables, x, y, keys, probes=2, step=0.3).value / 0.3
    hv = estimate("hv_norm", "relu", variables, x, y, keys, probes=2).value
    assert np.corrcoef(fd, hv)[0, 1] < 0.999


@given(SEEDS)
def test_spectrum_is_that_of_the_dense_hessian(seed):
    variables, x, y, _ = draw(seed)
    trace, spectrum = ggn("relu", variables, x), relu_spectrum(variables, x)
    hessian = np.asarray(dense("relu", variables, x, y), np.float64)
    oracle = np.linalg.eigvalsh(hessian)[:, ::-1][:, :CLASSES]
    close(spectrum, oracle)
    close(spectrum.sum(1), trace)
    close((spectrum**2).sum(1), (hessian**2).sum((1, 2)))
    assert (np.diff(spectrum) <= 0).all()
    assert (spectrum >= 0).all()


def test_spectrum_has_one_value_a_class_when_inputs_have_fewer_dimensions():
    variables, x, y, _ = draw(0, (2, 16, 8, CLASSES))
    spectrum = relu_spectrum(variables, x)
    assert spectrum.shape == (BATCH, CLASSES)
    close(spectrum[:, :2], np.linalg.eigvalsh(dense("relu", variables, x, y))[:, ::-1])


# --- the estimates themselves


@FEW
@given(SEEDS)
def test_estimates_are_means_and_standard_errors_over_the_stated_probes(seed):
    variables, x, y, keys = draw(seed)
    hessian = np.asarray(dense("softplus", variables, x, y), np.float64)
    v = np.stack([rademacher(keys, number, (DIM,)) for number in range(4)]).astype(np.float64)
    product = np.einsum("bij,nbj->nbi", hessian, v)
    for name, values in [("hv_norm", np.linalg.norm(product, axis=2)), ("hutchinson", (v * product).sum(2))]:
        value, stderr = estimate(name, "softplus", variables, x, y, keys, probes=4)
        close(value, values.mean(0))
        close(stderr, values.std(0, ddof=1) / 2)
    signs = matfree.stochtrace.estimator_monte_carlo(matfree.stochtrace.monte_carlo_trace(), lambda v: v)
    peer = [signs(lambda u, h=h: h @ u, v[:, i]) for i, h in enumerate(hessian)]
    close(estimate("hutchinson", "softplus", variables, x, y, keys, probes=4).value, peer)


@FEW
@given(SEEDS)
def test_fd_scores_are_the_released_loop(seed):
    variables, x, y, keys = draw(seed)
    v = jnp.stack([rademacher(keys, number, (DIM,)) for number in range(3)])
    change = np.stack([_gradient(variables, x + 0.1 * u, y) - _gradient(variables, x, y) for u in v]).astype(np.float64)
    norm = np.linalg.norm(change, axis=2)
    options = {"probes": 3, "step": 0.1}
    close(estimate("fd_norm", "relu", variables, x, y, keys, **options).value, norm.mean(0))
    close(estimate("fd_sqnorm", "relu", variables, x, y, keys, **options).value, (norm**2).mean(0))
    close(estimate("fd_quad", "relu", variables, x, y, keys, **options).value, (v * change).sum(2).mean(0) / 0.1)


@jax.jit
def _gradient(variables, x, y):
    """Sample by sample."""
    return jax.vmap(jax.grad(lambda x, y: NETS["relu"][1](variables, x[None], y[None])[0]))(x, y)


@FEW
@given(SEEDS)
def test_random_probes_are_unbiased(seed):
    variables, x, y, keys = draw(seed)
    probe = _ggn_probe(variables, x, keys)
    hutchinson = estimate("hutchinson", "relu", variables, x, y, keys, probes=400, chunk=400)
    oracle = ggn("relu", variables, x)
    for value, stderr in (probe, hutchinson):
        assert (np.abs(value - oracle) < 4 * stderr + RELATIVE * oracle).all()
        assert (stderr < oracle).all()


@jax.jit
def _ggn_probe(variables, x, keys):
    """400 probes as 20 numbers of 20 keys a sample: unrolled on CPU, 400 would compile for long."""
    many = jax.vmap(lambda i: sample_keys(jax.random.key(0), i * len(keys) + jnp.arange(len(keys))))(jnp.arange(20))
    out = jax.vmap(lambda keys: curvature.ggn_probe(keys, NETS["relu"][0], variables, x, probes=20))(many)
    return out.value.mean(0), jnp.sqrt((out.stderr**2).mean(0) / 20)


def test_one_probe_has_no_standard_error():
    variables, x, y, keys = draw(0)
    assert np.isnan(estimate("hutchinson", "relu", variables, x, y, keys, probes=1).stderr).all()


@pytest.mark.parametrize("name", ["fd_norm", "hutchinson", "hv_norm"])
def test_chunks_and_rolled_loops_change_nothing(name, monkeypatch):
    variables, x, y, keys = draw(1)
    whole = estimate(name, "softplus", variables, x, y, keys, probes=3)
    for chunk in (2, 100)[: 2 if name == "fd_norm" else 1]:
        out = estimate(name, "softplus", variables, x, y, keys, probes=3, chunk=chunk)
        chex.assert_trees_all_close(out, whole, rtol=RELATIVE, atol=RELATIVE * whole.value.max())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # the loop that accelerators run
    estimator = getattr(curvature, name)
    rolled = jax.jit(lambda: estimator(keys, NETS["softplus"][1], variables, x, y, probes=3))()
    chex.assert_trees_all_close(rolled, whole, rtol=RELATIVE, atol=RELATIVE * whole.value.max())


def test_memory_does_not_grow_with_probes():
    variables, x, y, keys = draw(1, (64, 64, CLASSES), batch=256)
    few, many = (estimate.lower("fd_norm", "relu", variables, x, y, keys, probes=p).compile() for p in (1, 4))
    assert many.memory_analysis().temp_size_in_bytes < 1.5 * few.memory_analysis().temp_size_in_bytes


# --- what a score must not depend on, and how it must scale


@functools.partial(jax.jit, static_argnums=(0,))
def _scores(name, variables, x, y, index):
    keys = sample_keys(jax.random.key(7), index)
    if name == "ggn_exact":
        return curvature.ggn_exact(NETS["relu"][0], variables, x)
    return getattr(curvature, name)(keys, NETS["relu"][1], variables, x, y, probes=2).value


@pytest.mark.parametrize("name", ["fd_norm", "ggn_exact"])
def test_scores_are_bit_equal_in_any_batch_order_and_padding(name):
    variables, *arrays, _ = draw(2, (64, 64, 32, 10), batch=200)
    x, y = map(np.asarray, arrays)

    def run(order, batch):
        out = np.zeros(200, np.float32)
        for start in range(0, 200, batch):
            rows = order[start : start + batch]
            padded = np.resize(rows, batch)
            out[rows] = _scores(name, variables, x[padded], y[padded], padded)[: len(rows)]
        return out

    reference = run(np.arange(200), 64)
    shuffled = np.random.default_rng(0).permutation(200)
    for batch in (64, 100):
        np.testing.assert_array_equal(run(shuffled, batch), reference)
    np.testing.assert_allclose(run(shuffled, 7), reference, atol=ROUNDING * reference.max())


@FEW
@given(SEEDS)
def test_doubling_the_loss_doubles_or_quadruples(seed):
    variables, x, y, keys = draw(seed)
    once, twice = _of_multiples(variables, x, y, keys)
    for name, factor in FACTORS.items():
        close(twice[name], factor * once[name])


FACTORS = {"hutchinson": 2, "fd_norm": 2, "fd_sqnorm": 4}


@jax.jit
def _of_multiples(variables, x, y, keys):
    def scores(multiple):
        def loss(*arguments):
            return multiple * NETS["relu"][1](*arguments)

        return {name: getattr(curvature, name)(keys, loss, variables, x, y, probes=1).value for name in FACTORS}

    return scores(1), scores(2)


@given(SEEDS)
def test_trace_follows_the_scale_and_ignores_the_rotation_of_inputs(seed):
    (first, *rest), x, y, _ = draw(seed)
    trace = exact("softplus", [first, *rest], x, y)
    close(exact("softplus", [first / 3, *rest], 3 * x, y), trace / 9)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))
    close(
        exact("softplus", [rotation.T.astype(np.float32) @ first, *rest], x @ rotation.astype(np.float32), y),
        trace,
        1e-3,
    )


# --- any network, any shape, any type


def convolution(variables, x):
    kernel, head = variables
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1) @ head


def test_a_convolution_agrees_with_the_dense_hessian():
    rng = np.random.default_rng(0)
    variables = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(3, 3, 2, 3), (12, CLASSES)]]
    x, y = rng.normal(size=(BATCH, 4, 4, 2)).astype(np.float32), np.arange(BATCH) % CLASSES
    keys, loss = sample_keys(jax.random.key(0), np.arange(BATCH)), losses.cross_entropy(convolution)

    @jax.jit
    def run(x, y):
        few = {"probes": 2, "chunk": 2}
        trace = curvature.exact(loss, variables, x, y), curvature.ggn_exact(convolution, variables, x)
        both = [getattr(curvature, name)(keys, loss, variables, x, y, **few).value for name in ("hv_norm", "fd_norm")]
        return trace, both, curvature.input_grad(loss, variables, x, y)

    trace, both, grad = run(x, y)
    close(*trace)
    assert grad.shape == x.shape
    close(both[1] / 1e-3, both[0], 0.5)  # mostly no kink within 1e-3
    assert np.isfinite(both).all()


def test_gradient_is_that_of_each_sample():
    variables, x, y, _ = draw(4)
    ours = jax.jit(lambda x, y: curvature.input_grad(NETS["relu"][1], variables, x, y))
    close(ours(x, y), _gradient(variables, x, y))


class VariantTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("fd_norm", "hv_norm", "hutchinson")
    def test_every_variant_gives_the_jitted_score(self, name):
        variables, x, y, keys = draw(5)
        run = self.variant(lambda *a: getattr(curvature, name)(keys, NETS["softplus"][1], variables, *a, probes=2))
        chex.assert_trees_all_close(
            run(x, y), estimate(name, "softplus", variables, x, y, keys, probes=2), rtol=RELATIVE, atol=ROUNDING
        )


def test_bfloat16_inputs_are_fine_without_a_step_and_sums_are_float32():
    variables, x, y, keys = draw(6)
    loss = NETS["softplus"][1]
    for name in ("hutchinson", "hv_norm"):
        value = getattr(curvature, name)(keys, loss, variables, x.astype(jnp.bfloat16), y, probes=2).value
        assert value.dtype == jnp.float32
        close(value, estimate(name, "softplus", variables, x, y, keys, probes=2).value, 0.1)


@pytest.mark.parametrize(("precision", "named"), [("highest", "HIGHEST"), ("tensorfloat32", "HIGH")])
def test_precision_reaches_every_product(precision, named):
    variables, x, y, keys = draw(0)
    loss = NETS["relu"][1]
    for run in (
        lambda: curvature.fd_norm(keys, loss, variables, x, y, probes=1, precision=precision),
        lambda: curvature.ggn_exact(NETS["relu"][0], variables, x, precision=precision),
    ):
        text = str(jax.make_jaxpr(run)())
        assert text.count("dot_general[") == text.count(f"precision=(Precision.{named}, Precision.{named})") > 0


# --- refusals


BAD = {
    "uint8": ({"x": np.zeros((BATCH, DIM), np.uint8)}, "inputs must be float, got uint8; normalise first"),
    "float labels": ({"y": np.zeros(BATCH)}, "labels must be integer class numbers, got float64"),
    "one-hot labels": ({"y": np.zeros((BATCH, 2), int)}, r"one a sample, shape \(6,\); got \(6, 2\)"),
    "one key": ({"keys": jax.random.key(0)}, r"one key a sample, shape \(6,\); got shape \(\)"),
    "no keys": ({"keys": np.zeros((BATCH, 2), np.int32)}, r"got int32 of shape \(6, 2\)"),
    "scalar loss": ({"loss": lambda v, x, y: x.sum()}, r"one value a sample, shape \(6,\); got \(\)"),
    "coupled loss": ({"loss": lambda v, x, y: x @ x.T}, r"got \(6, 6\)"),
    "no probes": ({"probes": 0}, "probes must be at least 1; got 0"),
    "no chunk": ({"chunk": 0}, "chunk, probes evaluated together, must be at least 1; got 0"),
    "no step": ({"step": 0.0}, "step must be positive; got 0.0"),
    "nan step": ({"step": float("nan")}, "step must be positive; got nan"),
    "bfloat16": ({"x": jnp.zeros((BATCH, DIM), jnp.bfloat16)}, "step 0.001 is below input resolution: bfloat16"),
    "float16": ({"x": jnp.zeros((BATCH, DIM), jnp.float16)}, "below input resolution"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_bad_input_is_refused_in_one_sentence(name, case, unchecked):
    changed, message = BAD[case]
    if not name.startswith("fd") and ("step" in changed or "float16" in case):
        pytest.skip("has no step")
    variables, x, y, keys = draw(0)
    arguments = {"keys": keys, "loss": NETS["relu"][1], "variables": variables, "x": x, "y": y} | changed
    with pytest.raises(ValueError, match=message):
        getattr(curvature, name)(**arguments)


def test_the_softmax_forms_refuse_bad_input_too(unchecked):
    variables, x, y, keys = draw(0)
    apply, loss = NETS["relu"]
    with pytest.raises(ValueError, match="inputs must be float"):
        curvature.ggn_exact(apply, variables, np.zeros((2, DIM), int))
    with pytest.raises(ValueError, match=r"must return logits of shape \(6, classes\); got \(6,\)"):
        curvature.ggn_spectrum(lambda v, x: x.sum(1), variables, x)
    with pytest.raises(ValueError, match="probes must be at least 1"):
        curvature.ggn_probe(keys, apply, variables, x, probes=0)
    with pytest.raises(ValueError, match="one key a sample"):
        curvature.ggn_probe(keys[:2], apply, variables, x)
    with pytest.raises(ValueError, match=r"4097 x 4097 Hessian a sample, 0\.1 GiB for this batch of 2; at most 4096"):
        curvature.exact(loss, variables, np.zeros((2, 4097), np.float32), y[:2])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\); got 9"):
        curvature.fd_norm(keys, loss, variables, x, y.at[0].set(9))
