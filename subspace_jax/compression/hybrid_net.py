"""Which layers of a binary network deserve more than one bit? Those whose response needs more dimensions than the last.

Train an XNOR network; count the principal components of each binary convolution's response; where the count rises by
`delta` or more, give the layer k bits, and leave the others binary; train that network from fresh values. For networks
with skips the plain twin is counted (`build("hybrid_resnet", skip=False)`): sums mix layers.

Chakraborty, Roy, Garg, Ankit, Roy: "Constructing energy-efficient mixed-precision neural networks through principal
component analysis for edge intelligence", Nature Machine Intelligence 2020, arXiv 1906.01493.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from subspace_jax import trees
from subspace_jax.compression.pca_design import LayerSpectrum, check_rows, spectrum
from subspace_jax.core import binary, checks, moments
from subspace_jax.core.costs import FULL_BITS, LayerCost, conv_cost
from subspace_jax.core.subspace import significant_dims
from subspace_jax.nn import Model, build
from subspace_jax.nn.layers.binary import packed_kernel
from subspace_jax.typing import Params, Variables


def response_spectra(
    model: Model, variables: Variables, batches: Iterable[Any], *, layers: Sequence[str]
) -> list[LayerSpectrum]:
    """Principal components of responses that the network names itself: with the scales of quantised kernels in them.

    `capture` sees the product of whole levels that a quantised layer computes in inference, before the scales.

    Args:
      model: `features` has the response of each layer under its name, as those of the hybrid networks.
      variables: its variables.
      batches: of inputs; covariances are streamed in float64.
      layers: names, in the order of execution: binary ones alone, `("conv1", "conv2", ...)`.

    Raises:
      ValueError: no batch, a response that there is not, or one before another that is executed first.
    """
    total, images, measure = None, 0, _measure(model.features, tuple(layers))
    for x in batches:
        with jax.enable_x64(True):
            found = jax.tree.map(np.asarray, measure(variables, np.asarray(x)))
        total, images = found if total is None else moments.merge(total, found), images + len(x)
    if total is None:
        raise ValueError("batches is empty: there is nothing to observe.")
    return [spectrum(name, total[name], images=images) for name in layers]


def significant_counts(spectra: Sequence[LayerSpectrum], *, tau: float | int = 0.99) -> dict[str, int]:
    """The number of leading components whose share stays at most tau, by layer; the paper's tau is .99.

    Raises:
      ValueError: fewer rows than filters; as `significant_dims`.

    Warns:
      UserWarning: fewer than 100 rows a filter.
    """
    check_rows(spectra)
    return {one.path: int(significant_dims(one.eigenvalues, tau=tau, rule="at_most")) for one in spectra}


def significance(counts: Mapping[str, int], *, delta: int = 2) -> dict[str, bool]:
    """Whether a layer needs `delta` dimensions more than the one before; the first one is never significant.

    `delta` is absolute: among hundreds of filters a rise of 2 is noise.

    Args:
      counts: of binary layers, in the order of execution.
      delta: at least 1.

    Raises:
      ValueError: delta below 1, which marks nearly every layer; no layer.

    >>> significance({"conv1": 3, "conv2": 3, "conv3": 6})
    {'conv1': False, 'conv2': False, 'conv3': True}
    """
    if delta < 1 or not counts:
        raise ValueError(f"delta is at least 1 and there are counts of layers; got {delta} and {dict(counts)}.")
    values = list(counts.values())
    rises = [False, *(after - before >= delta for before, after in itertools.pairwise(values))]
    return dict(zip(counts, rises, strict=True))


def bit_plan(counts: Mapping[str, int], *, delta: int = 2, bits: int = 4) -> tuple[int, ...]:
    """Bits of every convolution of a hybrid network: 32 for the first, `bits` for significant ones, 1 for the others.

    Args:
      counts: of conv1, conv2, ...: every convolution but the first, in their order.
      delta: as in `significance`.
      bits: of significant layers, 2 to 8.

    Raises:
      ValueError: layers that are missing or not in this order; bits outside 2..8; as `significance`.

    Warns:
      UserWarning: no layer is significant (the plan is that of the XNOR network), or all that can be.

    >>> bit_plan({"conv1": 3, "conv2": 3, "conv3": 6}, bits=2)
    (32, 1, 1, 2)
    """
    binary.check_levels(bits)
    if bits < 2:
        raise ValueError(f"significant layers get 2 to {binary.MOST} bits; got {bits}, as the others have.")
    if list(counts) != [f"conv{i}" for i in range(1, len(counts) + 1)]:
        raise ValueError(f"counts are those of conv1, conv2, ... in their order; got {', '.join(counts)}.")
    marked = list(significance(counts, delta=delta).values())
    if not any(marked) or (len(marked) > 1 and all(marked[1:])):
        which = "every layer after the first" if any(marked) else "no layer"
        warnings.warn(f"{which} is significant at delta {delta}: counts {list(counts.values())}.", stacklevel=2)
    return (FULL_BITS, *(bits if own else 1 for own in marked))


def layer_costs(
    shape: Sequence[int], *, widths: Sequence[int], strides: Sequence[int], classes: int, skip: bool = False
) -> dict[str, LayerCost]:
    """Cost of each layer of a hybrid network, its shortcuts and its classifier included.

    Args:
      shape: (height, width, channels) of one image.
      widths: as in `nn.hybrid.HybridCNN`, like strides, classes and skip.
      strides: see widths.
      classes: see widths.
      skip: see widths.
    """
    found, shape = {}, tuple(shape)
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        found[f"conv{i}"] = one = conv_cost(shape, width, strides=(stride, stride))
        if skip and i and one.outputs != shape:
            found[f"shortcut{i}"] = conv_cost(shape, width, window=(1, 1), strides=(stride, stride))
        shape = one.outputs
    return found | {"head": conv_cost((1, 1, shape[-1]), classes, window=(1, 1))}


def layer_bits(costs: Collection[str], bits: Sequence[int]) -> dict[str, int]:
    """Bits of each layer of `layer_costs`: a shortcut has those of its convolution, the classifier 32."""
    return {name: FULL_BITS if name == "head" else bits[_number(name)] for name in costs}


def quantised_leaves(params: Params, bits: Sequence[int]) -> tuple[str, ...]:
    """Paths of the kernels in fewer than 32 bits, among the parameters of a hybrid network."""
    kernels = [path for path in trees.flatten(params) if path.endswith("/kernel") and not path.startswith("head/")]
    return tuple(path for path in kernels if bits[_number(path.partition("/")[0])] < FULL_BITS)


def recentre(leaves: Collection[str]) -> optax.GradientTransformation:
    """Keep the real weights of quantised layers centred and in [-1, 1], after each update (`binary.recentred`).

    Put it LAST in the chain: it has to see the update as it will be applied.

    Args:
      leaves: their paths, of `quantised_leaves`.

    Raises:
      ValueError: in `update`, parameters that are not given.
    """

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        if params is None:
            raise ValueError("recentre needs the parameters: tx.update(grads, state, params).")
        checks.check_updates(updates, params)
        old = trees.select(params, leaves)
        steps = trees.select(updates, leaves)
        moved = {path: binary.recentred(old[path] + steps[path]) - old[path] for path in leaves}
        return trees.update(updates, moved), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def pack_network(name: str, arguments: Mapping[str, Any], variables: Variables) -> tuple[Model, Variables]:
    """A hybrid network whose quantised kernels are stored in their bits, for inference.

    It gives what the network itself gives in inference: whole numbers are summed in both, and scaled by the same
    numbers. Binary layers run by XOR and population count, on a CPU as fast as floats up to 128 channels and twice as
    fast at 256; the others are unpacked and convolved. Kernels for GPUs are not written.

    Args:
      name: hybrid_cnn or hybrid_resnet.
      arguments: of `build` for this network, `bits` among them.
      variables: its variables.

    Raises:
      ValueError: a network without a quantised layer.
    """
    bits, scale = arguments["bits"], arguments.get("scale", "mean")
    leaves = trees.select(variables["params"], quantised_leaves(variables["params"], bits))
    if not leaves:
        raise ValueError(f"no layer is in few bits, there is nothing to pack: bits {tuple(bits)}.")
    params = dict(variables["params"])
    for path, kernel in leaves.items():
        layer = path.partition("/")[0]
        own = bits[_number(layer)]
        params[layer] = packed_kernel(kernel, bits_w=own, bits_a=own, scale=scale)
    return build(name, **{**arguments, "packed": True}), {**variables, "params": params}


def _number(layer: str) -> int:
    """Which convolution a layer belongs to: 3 for conv3 and shortcut3."""
    return int(layer.removeprefix("conv").removeprefix("shortcut"))


@functools.lru_cache(maxsize=16)  # compiled once for all variables of one network
def _measure(features: Callable, layers: tuple[str, ...]) -> Callable:
    """(variables, x) -> float64 moments of the responses."""

    @jax.jit
    def run(variables: Variables, x: Any) -> dict[str, moments.Moments]:
        stages = features(variables, x)
        if missing := [name for name in layers if name not in stages]:
            raise ValueError(f"the network names no response {missing[0]!r}; it names {', '.join(stages)}.")
        order = [name for name in stages if name in layers]
        if order != list(layers):
            raise ValueError(f"layers are given in their order, {', '.join(order)}; got {', '.join(layers)}.")
        return {n: moments.from_rows(stages[n].reshape(-1, stages[n].shape[-1]), dtype="float64") for n in layers}

    return run
