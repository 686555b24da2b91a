"""A table of networks: the layers that are found, their Grams, a lossless edit, a score and a leak.

Each network calls `note(path, rows)` with what a layer reads. Run without compilation, loops included, the notes are
concrete: an oracle that knows nothing of the walk.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from subspace_jax.compression import utilized_rank
from subspace_jax.continual import gpm, leak
from subspace_jax.core import capture, convolution, curvature, moments
from subspace_jax.label_noise.verifix import verifix
from subspace_jax.unlearning.class_projection import unlearn_classes
from tests.core.grams import draw

N, OUT = 3, 3
GRAM = 1e-4  # sums in float64 of rows that were computed in another order in float32
LOSSLESS = 1e-4  # a few float32 layers


class Case(NamedTuple):
    """`net(note, params, x)`; `names` are asked for, all layers when None; `reads` are read only."""

    net: Callable
    params: Any
    x: Any
    names: tuple[str, ...] | None = None
    reads: tuple[str, ...] = ()


def rms(x):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def transformer(note, p, x):
    x = x + p["place"][None]
    h = rms(x)
    for i in range(3):
        note(f"block/qkv[:,{6 * i}:{6 * i + 6}]", h)
    q, k, v = (h @ w for w in jnp.split(p["block"]["qkv"], 3, 1))
    mixed = jax.nn.softmax(jnp.einsum("ntd,nsd->nts", q, k)) @ v
    note("block/out", mixed)
    x = x + mixed @ p["block"]["out"]
    note("head", x.mean(1))
    return x.mean(1) @ p["head"]


def shifted_windows(note, p, x):
    """Two blocks of attention inside 2 x 2 windows, the second on an image rolled by one, with learned offsets."""
    row, column = (np.arange(4) // 2, np.arange(4) % 2)
    offset = tuple(at[:, None] - at[None] + 1 for at in (row, column))

    def windows(x):
        return x.reshape(N, 2, 2, 2, 2, -1).swapaxes(2, 3).reshape(N * 4, 4, -1)

    for i, shift in enumerate((0, 1)):
        own = p["blocks"][i]
        h = windows(jnp.roll(x, (-shift, -shift), (1, 2)))
        note(f"blocks/{i}/qkv", h)
        q, k, v = jnp.split(h @ own["qkv"], 3, -1)
        near = jax.nn.softmax(q @ k.mT + own["offset"][offset][None])
        note(f"blocks/{i}/out", near @ v)
        h = (near @ v) @ own["out"]
        h = h.reshape(N, 2, 2, 2, 2, -1).swapaxes(2, 3).reshape(N, 4, 4, -1)
        x = rms(x + jnp.roll(h, (shift, shift), (1, 2)))
    merged = x.reshape(N, 2, 2, 2, 2, -1).swapaxes(2, 3).reshape(N, 4, -1)  # four neighbours become one
    note("merge", merged)
    h = (merged @ p["merge"]).mean(1)
    note("head", h)
    return h @ p["head"]


def recurrent(note, p, x):
    def step(h, row):
        note("into", row)
        note("back", h)
        z = jax.nn.sigmoid(row @ p["into"] + h @ p["back"] + p["bias"])
        return z * h + (1 - z) * jnp.tanh(z), None

    h, _ = lax.scan(step, jnp.zeros((N, 4)), x.swapaxes(0, 1))
    note("head", h)
    return h @ p["head"]


NHWC = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}


def convolutional(note, p, x):
    note("down", convolution.patches(x, (3, 3), strides=(2, 2), padding="SAME"))
    h = jax.nn.relu(lax.conv_general_dilated(x, p["down"], (2, 2), "SAME", **NHWC))
    note("depth", convolution.patches(h, (3, 3), padding="SAME", groups=4))
    h = h + lax.conv_general_dilated(h, p["depth"], (1, 1), "SAME", feature_group_count=4, **NHWC)
    note("up", convolution.patches(h, (2, 2), padding=((1, 1), (1, 1)), input_dilation=(2, 2)))
    h = jax.nn.relu(lax.conv_general_dilated(h, p["up"], (1, 1), ((1, 1), (1, 1)), lhs_dilation=(2, 2), **NHWC))
    note("head", h.mean((1, 2)))
    return h.mean((1, 2)) @ p["head"]


def densely_connected(note, p, x):
    """Each convolution reads all results before it."""
    for name in ("first", "second"):
        note(name, convolution.patches(x, (3, 3), padding="SAME"))
        h = lax.conv_general_dilated(x, p[name], (1, 1), "SAME", **NHWC)
        x = jnp.concatenate([x, jax.nn.relu(h)], -1)
    note("head", x.mean((1, 2)))
    return x.mean((1, 2)) @ p["head"]


EDGES = np.array([[0, 1, 2, 3, 3], [1, 2, 3, 0, 1]])


def graph(note, p, x):
    """Messages along edges, summed at their receivers; x (N, nodes, 4)."""
    sent = jnp.concatenate([x[:, EDGES[0]], x[:, EDGES[1]]], -1)
    note("edge", sent)
    messages = jax.nn.silu(sent @ p["edge"])
    note("node", got := jnp.zeros((N, 4, 5)).at[:, EDGES[1]].add(messages))
    h = jax.nn.silu(got @ p["node"])
    note("head", h.sum(1))
    return h.sum(1) @ p["head"]


def experts(note, p, x):
    note("gate", x)
    gate = jax.nn.softmax(x @ p["gate"])
    note("experts", jnp.broadcast_to(x, (2, *x.shape)))
    each = jnp.einsum("end,edk->enk", jnp.broadcast_to(x, (2, *x.shape)), p["experts"])
    return jnp.einsum("enk,ne->nk", jnp.tanh(each), gate)


ORDER = np.tril(np.ones((4, 6), np.float32), 1)


def autoregressive(note, p, x):
    """Masked kernels, with the rate of their learning equalised."""
    note("first:effective", x)
    h = jnp.tanh(x @ (p["first"] * ORDER))
    note("second:effective", h)
    return h @ (p["second"] / jnp.sqrt(6.0))


def adapted(note, p, x):
    note("first", x)
    h = jax.nn.relu(x @ p["first"] + p["bias"])
    note("second/kernel:effective", h)
    own = p["second"]
    return h @ (own["kernel"] + 2.0 * (own["lora_a"] @ own["lora_b"]))


def normalised(note, p, x):
    note("v:effective", x)
    h = jnp.tanh(x @ (p["v"] * p["g"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True)))
    note("q:effective", h)
    return h @ (p["q"].astype(jnp.float32) * p["step"])


def looped(note, p, x):
    def step(i, h):
        note("w:effective", h)
        return jnp.tanh(h @ p["w"][i])

    h = lax.fori_loop(0, 3, step, x)
    note("head", h)
    return h @ p["head"]


def spectral(note, p, x):
    """The first frequencies of a wave, by kernels whose real and imaginary parts are leaves of their own."""
    wave = jnp.fft.rfft(x, axis=1)[:, :2]
    note("imag:effective", wave.swapaxes(0, 1))
    mixed = jnp.einsum("nmi,mio->nmo", wave, lax.complex(p["real"], p["imag"]))
    h = jnp.tanh(jnp.fft.irfft(mixed, x.shape[1], axis=1)).mean(1)
    note("head", h)
    return h @ p["head"]


WAVE = "imag:effective", "head"
CASES = {
    "transformer": Case(
        transformer,
        {"place": draw(0, 5, 6), "block": {"qkv": draw(1, 6, 18) / 3, "out": draw(2, 6, 6) / 3},
         "head": draw(3, 6, OUT)},
        draw(4, N, 5, 6),
    ),
    "recurrent": Case(
        recurrent,
        {"into": draw(0, 4, 4), "back": draw(1, 4, 4) / 2, "bias": draw(2, 1, 4), "head": draw(3, 4, OUT)},
        draw(4, N, 3, 4),
    ),
    "convolutional": Case(
        convolutional,
        {"down": draw(0, 3, 3, 2, 4) / 4, "depth": draw(1, 3, 3, 1, 4) / 3, "up": draw(2, 2, 2, 4, 5) / 4,
         "head": draw(3, 5, OUT)},
        draw(4, N, 6, 6, 2),
    ),
    "shifted windows": Case(
        shifted_windows,
        {"blocks": [{"qkv": draw(i, 6, 18) / 2, "out": draw(2 + i, 6, 6), "offset": draw(4 + i, 3, 3)} for i in (0, 1)],
         "merge": draw(6, 24, 8) / 4, "head": draw(7, 8, OUT)},
        draw(8, N, 4, 4, 6),
    ),
    "densely connected": Case(
        densely_connected,
        {"first": draw(0, 3, 3, 2, 3) / 3, "second": draw(1, 3, 3, 5, 3) / 5, "head": draw(2, 8, OUT)},
        draw(3, N, 4, 4, 2),
    ),
    "graph": Case(
        graph, {"edge": draw(0, 8, 5) / 3, "node": draw(1, 5, 6) / 3, "head": draw(2, 6, OUT)}, draw(3, N, 4, 4)
    ),
    "experts": Case(
        experts, {"gate": draw(0, 5, 2), "experts": draw(1, 2, 5, OUT)}, draw(2, N, 5), ("gate", "experts")
    ),
    "autoregressive": Case(autoregressive, {"first": draw(0, 4, 6), "second": draw(1, 6, OUT)}, draw(2, 5, 4)),
    "adapted": Case(
        adapted,
        {"first": draw(0, 5, 7), "bias": draw(1, 1, 7),
         "second": {"kernel": draw(2, 7, OUT), "lora_a": draw(3, 7, 1), "lora_b": draw(4, 1, OUT)}},
        draw(5, N, 5),
    ),
    "normalised": Case(
        normalised,
        {"v": draw(0, 5, 4), "g": draw(1, 1, 4), "step": jnp.ones((1, OUT)),
         "q": jnp.arange(-6, 6, dtype=jnp.int8).reshape(4, OUT)},
        draw(2, N, 5), reads=("v:effective", "q:effective"),
    ),
    "looped": Case(looped, {"w": draw(0, 3, 5, 5) / 2, "head": draw(1, 5, OUT)}, draw(2, N, 5)),
    "spectral": Case(
        spectral, {"real": draw(0, 2, 4, 4), "imag": draw(1, 2, 4, 4), "head": draw(2, 4, OUT)}, draw(3, N, 6, 4), WAVE,
        reads=WAVE[:1],
    ),
}  # fmt: skip


@functools.cache
def measured(name):
    """The function, its table, float64 moments, and the rows that it noted by itself."""
    case, rows = CASES[name], {}
    fn = functools.partial(case.net, lambda path, own: None)

    def note(path, own):
        rows.setdefault(path, []).append(np.asarray(own))

    table = capture.layers(fn, case.params, case.x, layers=case.names)
    found = capture.collect(fn, case.params, [case.x], layers=case.names, dtype="float64")
    with jax.disable_jit():
        case.net(note, case.params, case.x)
    return fn, table, found, rows


@pytest.mark.parametrize("name", CASES)
def test_layers_and_grams_are_what_the_network_notes(name):
    _, table, found, rows = measured(name)
    assert sorted(table) == sorted(rows)
    for path, layer in table.items():
        groups = len(layer.lead) - len(layer.stack)
        own = [row.reshape(*row.shape[:groups], -1, row.shape[-1]) for row in rows[path]]
        own = np.stack(own) if layer.stack else np.concatenate(own, -2)
        gram = np.asarray(own.conj().mT.astype(np.complex128) @ own)
        np.testing.assert_allclose(found[path].gram, gram, atol=GRAM * np.abs(gram).max(), err_msg=path)
        assert layer.rows == own.shape[-2]


@pytest.mark.parametrize("name", CASES)
def test_kernels_projected_on_what_they_read_leave_the_outputs(name):
    fn, table, found, _ = measured(name)
    params, x, reads = CASES[name].params, CASES[name].x, CASES[name].reads
    edited = {}
    for path, kernel in capture.kernels(table, params).items():
        edited[path] = onto(found[path].gram) @ moments.wide(kernel)
        if path in reads:
            with pytest.raises(ValueError, match=r"is computed from|also read|edit the dequantised"):
                capture.write_kernels(table, params, {path: 2 * edited.pop(path)})
    new = capture.write_kernels(table, params, edited)
    moved = [float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(new), strict=True)]
    assert max(moved) > 1e-3 or not edited
    forward = jax.jit(fn)
    np.testing.assert_allclose(forward(new, x), forward(params, x), atol=LOSSLESS)


def onto(gram):
    """The projector onto the span of the rows."""
    values, vectors = np.linalg.eigh(gram)
    kept = vectors * (values > 1e-12 * values.max(-1, keepdims=True))[..., None, :]
    return kept @ kept.conj().mT


@pytest.mark.parametrize("name", ["transformer", "spectral"])
def test_scores_need_no_layer(name):
    case, (fn, *_) = CASES[name], measured(name)
    score = jax.jit(functools.partial(curvature.ggn_exact, fn))
    jacobians = np.asarray(jax.jit(jax.jacrev(fn, 1))(case.params, case.x))
    p = np.asarray(jax.nn.softmax(jax.jit(fn)(case.params, case.x)))
    traces = []
    for i in range(len(p)):
        j = jacobians[i, :, i].reshape(OUT, -1)
        traces.append(np.trace(j.T @ (np.diag(p[i]) - np.outer(p[i], p[i])) @ j))
    np.testing.assert_allclose(score(case.params, case.x), traces, rtol=1e-3)


def test_protected_kernels_do_not_leak():
    (_, table, found, _), params = measured("recurrent"), CASES["recurrent"].params
    tx = optax.chain(optax.sgd(0.1), gpm.gpm(table))
    state = tx.init(params)
    bases = gpm.grow(optax.tree.get(state, "bases"), found, energy=0.9)
    state = optax.tree.set(state, bases=bases)
    assert max(leak.leak(jax.random.key(0), table, tx, params, state).values()) < leak.LIMIT


def test_a_counter_of_steps_beside_the_weights_has_no_gradient():
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    params, x = {"w": draw(0, 5, OUT), "steps": jnp.int32(7)}, draw(1, N, 5)
    table = capture.layers(fn, params, x)
    tx = optax.chain(optax.adam(0.1), gpm.gpm(table))
    state = tx.init(params)
    bases = gpm.update(optax.tree.get(state, "bases"), capture.collect(fn, params, [x], dtype="float64"), energy=1)
    assert leak.leak(jax.random.key(0), table, tx, params, optax.tree.set(state, bases=bases))["w"] < leak.LIMIT


def test_a_list_of_parameters_has_its_names_in_every_table_and_edit():
    names, x = ["encoder/kernel", "head/kernel"], draw(2, 12, 5)
    fn = capture.named(lambda weights, x: jnp.tanh(x @ weights[0]) @ weights[1], names)
    params = dict(zip(names, [draw(0, 5, 4), draw(1, 4, OUT)], strict=True))
    table, seen = capture.layers(fn, params, x), capture.collect(fn, params, [x], dtype="float64")
    tx = optax.chain(optax.sgd(0.1), gpm.gpm(table))
    state = tx.init(params)
    state = optax.tree.set(state, bases=gpm.grow(optax.tree.get(state, "bases"), seen, energy=0.9))
    half = {path: 0.5 * kernel for path, kernel in capture.kernels(table, params).items()}
    tables = {
        "layers": table, "moments": seen, "utilization": utilized_rank.utilization(table, params, seen, energy=0.9),
        "bases": optax.tree.get(state, "bases"), "leak": leak.leak(jax.random.key(0), table, tx, params, state),
        "interference": leak.interference(table, params, capture.write_kernels(table, params, half), seen),
        "verifix": verifix(table, params, seen, alpha=10.0),
        "unlearning": unlearn_classes(table, params, seen, seen, alpha_r=10.0, alpha_f=1.0),
    }  # fmt: skip
    for what, found in tables.items():
        assert list(found) == names, what
    with pytest.raises(ValueError, match="no layer 'decoder'; there are encoder/kernel, head/kernel"):
        capture.write_kernels(table, params, {"decoder": draw(0, 5, 4)})
