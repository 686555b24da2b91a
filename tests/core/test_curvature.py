"""Every curvature quantity against the dense Hessian, closed forms and NumPy in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import matfree.stochtrace
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspace_jax.core import curvature, losses
from subspace_jax.core.curvature.estimate import evaluate
from subspace_jax.core.keys import rademacher, sample_keys

SEEDS = st.integers(0, 2**31 - 1)
SOME, FEW = settings(max_examples=10), settings(max_examples=5)
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


@functools.cache
def draw(seed, sizes=(DIM, 16, 8, CLASSES), batch=BATCH):
    """Weights, inputs, labels and keys, of which all but the keys are NumPy's."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=s) * 1.5 / np.sqrt(s[0]) for s in itertools.pairwise(sizes)]
    x, y = rng.normal(size=(batch, sizes[0])), rng.integers(0, sizes[-1], batch)
    return [w.astype(np.float32) for w in weights], x.astype(np.float32), y.astype(np.int32), keys_of(seed, batch)


@functools.partial(jax.jit, static_argnums=1)
def keys_of(seed, batch):
    return sample_keys(jax.random.key(seed), jnp.arange(batch))


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("probes", "step", "chunk"))
def estimates(names, net, variables, x, y, keys, **options):
    """Several estimates in one program."""
    return {name: getattr(curvature, name)(keys, NETS[net][1], variables, x, y, **options) for name in names}


@functools.partial(jax.jit, static_argnums=0)
def exact(net, variables, x, y):
    return curvature.exact(NETS[net][1], variables, x, y)


@functools.partial(jax.jit, static_argnums=(0, 1))
def truths(names, net, variables, x, y):
    """What is known of the Hessian without probes; `dense` is by autodiff, sample by sample."""
    apply, loss = NETS[net]
    known = {
        "exact": lambda: curvature.exact(loss, variables, x, y),
        "of other labels": lambda: curvature.exact(loss, variables, x, (y + 1) % CLASSES),
        "ggn": lambda: curvature.ggn_exact(apply, variables, x),
        "spectrum": lambda: curvature.ggn_spectrum(apply, variables, x),
        "dense": lambda: dense(loss, variables, x, y),
    }
    return {name: known[name]() for name in names}


TRACES = "exact", "of other labels", "ggn"
SPECTRUM = "spectrum", "dense", "ggn"


def dense(loss, variables, x, y):
    return jax.vmap(jax.hessian(lambda x, y: loss(variables, x[None], y[None])[0]))(x, y)


@functools.partial(jax.jit, static_argnums=1)
def directions(keys, count):
    """(count, batch, DIM)."""
    return jnp.stack([rademacher(keys, number, (DIM,)) for number in range(count)])


def close(a, b, relative=RELATIVE):
    np.testing.assert_allclose(a, b, rtol=relative, atol=relative * np.abs(b).max())


# --- closed forms


@SOME
@given(SEEDS)
def test_linear_softmax_has_the_closed_form_trace(seed):
    (w,), x, y, _ = draw(seed, (DIM, CLASSES))
    w64, z = np.asarray(w, np.float64).T, np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    spread = w64[None] - (p @ w64)[:, None]
    oracle = (p * (spread**2).sum(-1)).sum(1)
    found = truths(("exact", "ggn"), "identity", [w], x, y)
    close(found["exact"], oracle)
    close(found["ggn"], oracle)


STEPS = 1.0, 1e-2


@SOME
@given(SEEDS)
def test_quadratic_loss_is_measured_exactly(seed):
    a = np.random.default_rng(seed).normal(size=(DIM, DIM)).astype(np.float32)
    a += a.T
    _, x, y, keys = draw(seed)
    v = np.asarray(directions(keys, 3)[0], np.float64)
    found = _of_quadratics(keys, a, x, y)
    close(found["diagonal"], np.full(BATCH, np.trace(a)))
    close(found["hutchinson"], ((v @ a) * v).sum(1))
    for step in STEPS:
        rounding = RELATIVE / step  # x + h v and the difference of gradients lose log10(1/h) digits
        close(found["fd_norm", step] / step, np.linalg.norm(v @ a, axis=1), rounding)
        close(found["fd_quad", step], ((v @ a) * v).sum(1), rounding)


def _of_quadratics(keys, matrix, x, y):
    names = ["diagonal", "hutchinson", *itertools.product(("fd_norm", "fd_quad"), STEPS)]
    return dict(zip(names, _quadratics(keys, matrix, x, y), strict=True))


@jax.jit
def _quadratics(keys, matrix, x, y):
    def quadratic(matrix, x, y):
        return ((x @ matrix) * x).sum(1) / 2

    hutchinson = [
        curvature.hutchinson(keys, quadratic, m, x, y, probes=1) for m in (jnp.diag(jnp.diag(matrix)), matrix)
    ]
    differences = [
        fd(keys, quadratic, matrix, x, y, probes=1, step=step)
        for fd, step in itertools.product((curvature.fd_norm, curvature.fd_quad), STEPS)
    ]
    return [found.value for found in (*hutchinson, *differences)]


# --- piecewise-linear and smooth networks


@SOME
@given(SEEDS, st.sampled_from(["relu", "leaky"]))
def test_piecewise_linear_networks_have_only_the_softmax_part(seed, net):
    variables, x, y, _ = draw(seed)
    found = truths(TRACES, net, variables, x, y)
    close(found["ggn"], found["exact"])
    close(found["of other labels"], found["exact"])


@SOME
@given(SEEDS, st.sampled_from(["gelu", "tanh"]))
def test_finite_differences_tend_to_the_product_on_smooth_networks(seed, net):
    variables, x, y, keys = draw(seed, batch=24)
    found = estimates(("fd_norm", "hv_norm"), net, variables, x, y, keys, probes=1)
    fd, hv = found["fd_norm"].value, found["hv_norm"].value
    assert np.corrcoef(fd, hv)[0, 1] > 0.9999
    close(fd / 1e-3, hv, 0.01)


@FEW
@given(SEEDS)
def test_smooth_networks_have_more_than_the_softmax_part(seed):
    found = truths(("exact", "ggn"), "softplus", *draw(seed, batch=24)[:3])
    assert np.median(np.abs(found["exact"] - found["ggn"])) > 100 * RELATIVE * np.median(found["ggn"])


@FEW
@given(SEEDS)
def test_a_finite_step_sees_kinks_that_autodiff_does_not(seed):
    variables, x, y, keys = draw(seed, batch=24)
    fd, hv = _kinks(variables, x, y, keys)
    assert np.corrcoef(fd / 0.3, hv)[0, 1] < 0.999


@jax.jit
def _kinks(variables, x, y, keys):
    samples = keys, NETS["relu"][1], variables, x, y
    return curvature.fd_norm(*samples, probes=2, step=0.3).value, curvature.hv_norm(*samples, probes=2).value


@SOME
@given(SEEDS)
def test_spectrum_is_that_of_the_dense_hessian(seed):
    variables, x, y, _ = draw(seed)
    found = truths(SPECTRUM, "relu", variables, x, y)
    spectrum, hessian = found["spectrum"], np.asarray(found["dense"], np.float64)
    oracle = np.linalg.eigvalsh(hessian)[:, ::-1][:, :CLASSES]
    close(spectrum, oracle)
    close(spectrum.sum(1), found["ggn"])
    close((spectrum**2).sum(1), (hessian**2).sum((1, 2)))
    assert (np.diff(spectrum) <= 0).all()
    assert (spectrum >= 0).all()


def test_spectrum_has_one_value_a_class_when_inputs_have_fewer_dimensions():
    variables, x, y, _ = draw(0, (2, 16, 8, CLASSES))
    found = truths(("spectrum", "dense"), "relu", variables, x, y)
    assert found["spectrum"].shape == (BATCH, CLASSES)
    close(found["spectrum"][:, :2], np.linalg.eigvalsh(found["dense"])[:, ::-1])


# --- the estimates themselves

AUTODIFF = "hutchinson", "hv_norm"
DIFFERENCES = "fd_norm", "fd_sqnorm", "fd_quad"


@functools.cache
def smooth_hessian(seed):
    variables, x, y, _ = draw(seed)
    return np.asarray(jax.jit(functools.partial(dense, NETS["softplus"][1]))(variables, x, y), np.float64)


def assert_estimates(found, hessian, v):
    """Means and standard errors over the directions v (n, b, d)."""
    product = np.einsum("bij,nbj->nbi", hessian, v)
    for name, values in [("hv_norm", np.linalg.norm(product, axis=2)), ("hutchinson", (v * product).sum(2))]:
        close(found[name].value, values.mean(0))
        close(found[name].stderr, values.std(0, ddof=1) / len(v) ** 0.5)


@FEW
@given(SEEDS)
def test_estimates_are_means_and_standard_errors_over_the_stated_probes(seed):
    variables, x, y, keys = draw(seed)
    found = estimates(AUTODIFF, "softplus", variables, x, y, keys, probes=3)
    assert_estimates(found, smooth_hessian(seed), np.asarray(directions(keys, 3), np.float64))


def test_the_trace_is_that_of_a_peer():
    variables, x, y, keys = draw(1)
    v = directions(keys, 3)
    signs = matfree.stochtrace.estimator_monte_carlo(matfree.stochtrace.monte_carlo_trace(), lambda v: v)
    peer = [signs(lambda u, h=h: h @ u, v[:, i]) for i, h in enumerate(smooth_hessian(1).astype(np.float32))]
    close(estimates(AUTODIFF, "softplus", variables, x, y, keys, probes=3)["hutchinson"].value, peer)


@FEW
@given(SEEDS)
def test_fd_scores_are_the_released_loop(seed):
    variables, x, y, keys = draw(seed)
    assert_released(estimates(DIFFERENCES, "relu", variables, x, y, keys, probes=3, step=0.1), variables, x, y, keys)


def assert_released(found, variables, x, y, keys):
    v = np.asarray(directions(keys, 3))
    base = _gradient(variables, x, y)
    change = np.stack([_gradient(variables, x + np.float32(0.1) * u, y) - base for u in v]).astype(np.float64)
    norm = np.linalg.norm(change, axis=2)
    released = {"fd_norm": norm, "fd_sqnorm": norm**2, "fd_quad": (v * change).sum(2) / 0.1}
    for name, estimate in found.items():
        close(estimate.value, released[name].mean(0))


@jax.jit
def _gradient(variables, x, y):
    """Sample by sample."""
    return jax.vmap(jax.grad(lambda x, y: NETS["relu"][1](variables, x[None], y[None])[0]))(x, y)


@FEW
@given(SEEDS)
def test_random_probes_are_unbiased(seed):
    variables, x, y, keys = draw(seed)
    found, oracle = _many_probes(variables, x, y, keys), truths(SPECTRUM, "relu", variables, x, y)["ggn"]
    for value, stderr in found:
        assert (np.abs(value - oracle) < 4 * stderr + RELATIVE * oracle).all()
        assert (stderr < oracle).all()


@jax.jit
def _many_probes(variables, x, y, keys):
    """400 probes; among the logits 5 numbers of 80 keys a sample: unrolled on CPU, 400 would compile for long."""
    apply, loss = NETS["relu"]
    many = jax.vmap(lambda i: sample_keys(jax.random.key(0), i * len(keys) + jnp.arange(len(keys))))(jnp.arange(80))
    out = jax.vmap(lambda keys: curvature.ggn_probe(keys, apply, variables, x, probes=5))(many)
    probe = out.value.mean(0), jnp.sqrt((out.stderr**2).mean(0) / 80)
    return probe, curvature.hutchinson(keys, loss, variables, x, y, probes=400, chunk=400)


def test_one_probe_has_no_standard_error():
    variables, x, y, keys = draw(0)
    found = estimates(("hutchinson",), "softplus", variables, x, y, keys, probes=1)
    assert np.isnan(found["hutchinson"].stderr).all()


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_numbers_are_evaluated_in_order_in_any_chunks_and_loop(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)  # accelerators roll the loop
    for count, chunk in [(1, None), (5, None), (5, 2), (4, 2), (3, 100)]:
        found = evaluate(lambda number: jnp.stack([number, number**2]), count, chunk)
        np.testing.assert_array_equal(found, np.arange(count)[:, None] ** np.array([1, 2])[None])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_chunks_and_rolled_loops_change_nothing(backend, monkeypatch):
    variables, x, y, keys = draw(1)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    chunk = {"cpu": 2, "gpu": None}[backend]
    compute = jax.jit(estimates.__wrapped__, static_argnums=(0, 1), static_argnames=("probes", "step", "chunk"))
    found = compute(AUTODIFF, "softplus", variables, x, y, keys, probes=3, chunk=chunk)
    assert_estimates(found, smooth_hessian(1), np.asarray(directions(keys, 3), np.float64))
    found = compute(("fd_norm",), "relu", variables, x, y, keys, probes=3, step=0.1, chunk=chunk)
    assert_released(found, variables, x, y, keys)


def test_memory_does_not_grow_with_probes():
    variables, x, y, keys = draw(1, (64, 64, CLASSES), batch=256)
    few, many = (estimates.lower(("fd_norm",), "relu", variables, x, y, keys, probes=p).compile() for p in (1, 4))
    assert many.memory_analysis().temp_size_in_bytes < 1.5 * few.memory_analysis().temp_size_in_bytes


# --- what a score must not depend on, and how it must scale


@functools.partial(jax.jit, static_argnums=(0,))
def _scores(name, variables, x, y, index):
    keys = sample_keys(jax.random.key(7), index)
    if name == "ggn_exact":
        return curvature.ggn_exact(NETS["relu"][0], variables, x)
    return getattr(curvature, name)(keys, NETS["relu"][1], variables, x, y, probes=1).value


@pytest.mark.parametrize("name", ["fd_norm", "ggn_exact"])
def test_scores_are_bit_equal_in_any_batch_order_and_padding(name):
    variables, *arrays, _ = draw(2, (64, 64, 32, 10), batch=200)
    x, y = arrays

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


@FEW
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


# --- number formats


def casting(variables, x):
    """A network that computes in the format of its parameters."""
    for weight in variables[:-1]:
        x = jax.nn.relu(x.astype(weight.dtype) @ weight)
    return x.astype(variables[-1].dtype) @ variables[-1]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_finite_differences_of_16_bit_parameters_are_those_of_the_same_numbers_in_float32(dtype):
    variables, x, y, keys = draw(7)
    as_they_are, wide = _differences([jnp.asarray(w, dtype) for w in variables], x, y, keys)
    np.testing.assert_array_equal(as_they_are, wide)


@jax.jit
def _differences(variables, x, y, keys):
    same, loss = [w.astype(jnp.float32) for w in variables], losses.cross_entropy(casting)
    return [curvature.fd_norm(keys, loss, weights, x, y, probes=1).value for weights in (variables, same)]


def test_bfloat16_inputs_are_fine_without_a_step_and_sums_are_float32():
    variables, x, y, keys = draw(1)
    found = estimates(AUTODIFF, "softplus", variables, x.astype(jnp.bfloat16), y, keys, probes=3)
    for name, estimate in estimates(AUTODIFF, "softplus", variables, x, y, keys, probes=3).items():
        assert found[name].value.dtype == jnp.float32
        close(found[name].value, estimate.value, 0.1)


def test_probes_do_not_depend_on_x64():
    keys = draw(0)[3]
    reference = directions(keys, 3)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(directions(keys, 3), reference)


# --- trees of inputs


@jax.jit
def _of_a_tree(variables, x, y):
    """Spectrum and gradient of a network whose inputs come in two parts, and of the same with one."""

    def joined(variables, x):
        return NETS["relu"][0](variables, jnp.concatenate([x["a"][:, :, 0], x["b"]], axis=1))

    def both(apply, x):
        spectrum = curvature.ggn_spectrum(apply, variables, x)
        return spectrum, curvature.input_grad(losses.cross_entropy(apply), variables, x, y)

    return both(joined, {"a": x[:, :2, None], "b": x[:, 2:]}), both(NETS["relu"][0], x)


def test_a_tree_of_inputs_has_one_spectrum_and_a_gradient_of_its_shape():
    (spectrum, gradient), (whole, row) = _of_a_tree(*draw(3)[:3])
    close(spectrum, whole)
    assert gradient["a"].shape == (BATCH, 2, 1)
    close(np.concatenate([gradient["a"][:, :, 0], gradient["b"]], axis=1), row)


# --- precision


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
    "float labels": ({"y": np.zeros(BATCH)}, r"labels must be one integer per sample, shape \(n,\); got float64"),
    "one-hot labels": ({"y": np.eye(2, dtype=int)[[0] * BATCH]}, r"got int64 \(6, 2\): take .argmax\(axis=1\)"),
    "fewer labels": ({"y": np.zeros(2, int)}, "x and y must have one entry per sample; got 6 and 2"),
    "tokens": ({"x": np.zeros((BATCH, DIM), int)}, "inputs must be float, got int64; .* start at the embedding"),
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
        curvature.fd_norm(keys, loss, variables, x, np.full_like(y, 9))
