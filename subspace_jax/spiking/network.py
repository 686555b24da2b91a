"""A trained ReLU network as a spiking one, run layer by layer: all steps of a layer in one product.

A feed-forward spiking network needs no loop over time around the whole network. Each layer multiplies the spikes of all
T steps and B samples at once, (T B, ...), and only the elementwise recurrence of its neurons is a scan. The last layer
has no neurons: the sum over time of what it reads is multiplied once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.core.checks import check_real, is_known
from subspace_jax.core.keys import as_key
from subspace_jax.nn import Model
from subspace_jax.nn.build import NETWORKS, description
from subspace_jax.nn.layers.spiking import Order, Surrogate, lif
from subspace_jax.nn.vision import CNN, MLP, average
from subspace_jax.typing import ApplyFn, Array, Float, Key, Num, Params, Variables

LEAK = 0.9901  # the authors' leak


class Layer(NamedTuple):
    """One product.

    Attributes:
      path: of its kernel.
      dense: a dense layer on the flattened map; else a convolution that keeps the size.
      pools: 2x2 average poolings of what it reads.
    """

    path: str
    dense: bool
    pools: int


class Spiking(NamedTuple):
    """A network whose layers but the last one are followed by spiking neurons.

    Attributes:
      params: those of the classifier, by the same names: tuned ones are again parameters of that model.
      layers: in their order; the last one gives the logits.
      apply: of the classifier with ReLU that it was made from.
    """

    params: Params
    layers: tuple[Layer, ...]
    apply: ApplyFn


def spiking(
    model: Model | ApplyFn, variables: Variables, x: Float[Array | np.ndarray, "b ..."] | None = None
) -> Spiking:
    """The spiking network with the weights of a trained classifier; its thresholds come from `thresholds.balance`.

    Args:
      model: "mlp", "cnn", "cnn2" or "vgg" of `nn.build`, with use_bias=False, norm="none", activation="relu" and
        pool="average"; with `x`, any function (variables, x) -> logits that `follow` can follow, or a Model of one.
      variables: of that network.
      x: a few samples, on which a network that `nn.build` did not make is followed.

    Raises:
      ValueError: another network, a norm, another activation, maximum pooling, or a bias, each by its name.
    """
    if x is not None:
        from subspace_jax.spiking import follow  # here, since it stands on the types of this file

        return follow.follow(model.apply if isinstance(model, Model) else model, variables, x)
    if not isinstance(model, Model):
        raise ValueError("a function is followed on a few samples: give x, such as ten images.")
    name, arguments = description(model)
    network = NETWORKS[name]
    if not isinstance(network, CNN | MLP):
        raise ValueError(f"{name} cannot spike here: its layers are no chain; build mlp, cnn, cnn2 or vgg, or give x.")
    sizes = [field for field in ("widths", "strides", "pools", "pool", "dense") if hasattr(network, field)]
    own = {field: arguments.get(field, getattr(network, field)) for field in sizes} | {
           field: arguments.get(field, getattr(network.parts, field)) for field in ("norm", "activation")}  # fmt: skip
    needed = {"norm": "none", "activation": "relu"} | ({"pool": "average"} if own.get("pools") else {})
    needed |= {"strides": (1,) * len(own["strides"])} if "strides" in own else {}
    for field, value in needed.items():
        if own[field] != value:
            raise ValueError(f"a spiking network has {field}={value!r}; {name} has {own[field]!r}: build and train so.")
    leaves = trees.flatten(variables["params"])
    if biases := [path for path in leaves if not path.endswith("kernel")]:
        raise ValueError(f"{biases[0]!r} has no place in a spiking network: build with use_bias=False and train.")
    return Spiking(variables["params"], _chain(own, convolutions=isinstance(network, CNN)), model.apply)


def trace(
    network: Spiking, thresholds: Sequence[Any] | Array, spikes: Num[Array | np.ndarray, "t b ..."], *,
    leak: float | int = LEAK, order: Order = "spike_first", surrogate: Surrogate = "triangle", hold: int | None = None,
    key: Key[Array, ""] | None = None, rate: float | int = 0.0,
) -> dict[str, Float[Array, "t b ..."]]:  # fmt: skip
    """What each layer reads at each step: {path: (t, b, ...)}; arguments as in `run`."""
    _check(network, thresholds, spikes, leak, order, hold, rate)
    spikes = jnp.asarray(spikes)
    spikes = spikes.astype(jnp.float32) if jnp.issubdtype(spikes.dtype, jnp.integer) else spikes
    kernels, read = trees.select(network.params, [layer.path for layer in network.layers]), {}
    for number, layer in enumerate(network.layers):
        read[layer.path] = spikes
        if layer is network.layers[-1]:
            break
        driven = drive(layer, kernels[layer.path], spikes)
        if hold and not number:
            driven = jnp.broadcast_to(driven, (hold, *driven.shape[1:]))
        spikes, _ = lif(driven, thresholds[number], leak, order=order, surrogate=surrogate)
        if rate:
            own = jax.random.fold_in(as_key(key), number)
            spikes = spikes * jax.random.bernoulli(own, 1 - rate, spikes.shape[1:])[None] / (1 - rate)
    return read


def run(
    network: Spiking, thresholds: Sequence[Any] | Array, spikes: Num[Array | np.ndarray, "t b ..."], *,
    leak: float | int = LEAK, order: Order = "spike_first", surrogate: Surrogate = "triangle", hold: int | None = None,
    key: Key[Array, ""] | None = None, rate: float | int = 0.0,
) -> tuple[Float[Array, "b classes"], dict[str, Float[Array, "b ..."]]]:  # fmt: skip
    """Logits, the mean over time of the last layer's drive, and the spikes of each sample that each layer reads.

    Computed in the dtype of the parameters; membranes are float32. Differentiable with respect to the parameters.

    Args:
      network: of `spiking`.
      thresholds: one for each layer but the last.
      spikes: of `encode`, (steps, samples, ...).
      leak: of every neuron, in (0, 1].
      order: "spike_first" delays each layer by a step: it takes more steps than the network has layers.
      surrogate: see `nn.layers.spiking.lif`.
      hold: repeat the single frame of `spikes` for so many steps; its product is computed once.
      key: for dropout.
      rate: of dropout after each layer of neurons; one mask a sample, the same at every step.

    Returns:
      Logits, and {path: sum over time of the absolute input of a layer, before its pooling}: `energy` counts them.

    Raises:
      ValueError: too few steps, not one positive threshold a layer, a leak or rate out of range, `hold` of several
        frames.
    """
    read = trace(
        network, thresholds, spikes, leak=leak, order=order, surrogate=surrogate, hold=hold, key=key, rate=rate
    )
    *_, last = network.layers
    steps = hold or len(spikes)
    kernel = trees.select(network.params, [last.path])[last.path]
    logits = drive(last, kernel, read[last.path].sum(0, keepdims=True))[0].astype(jnp.float32) / steps
    return logits, {path: jnp.abs(own).sum(0) for path, own in read.items()}


def drive(
    layer: Layer, kernel: Float[Array | np.ndarray, "..."], spikes: Num[Array | np.ndarray, "t b ..."]
) -> Float[Array, "t b ..."]:
    """What a layer adds to the membranes behind it, for all steps in one product."""
    steps, samples = spikes.shape[:2]
    kernel = jnp.asarray(kernel)
    check_real("a membrane", {"spikes": spikes.dtype})
    x = jnp.asarray(spikes, kernel.dtype).reshape(steps * samples, *spikes.shape[2:])
    for _ in range(layer.pools):
        x = average(x)
    if layer.dense:
        y = x.reshape(len(x), -1) @ kernel
    else:
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(steps, samples, *y.shape[1:])


def _chain(own: dict[str, Any], *, convolutions: bool) -> tuple[Layer, ...]:
    widths, pools, dense = (own["widths"], own["pools"], own["dense"]) if convolutions else ((), (), own["widths"])
    layers = [Layer(f"conv{i}/kernel", False, pools.count(i)) for i in range(len(widths))]
    names = [*(f"dense{i}" for i in range(len(dense))), "head"]
    after = pools.count(len(widths)) if widths else 0
    return (*layers, *(Layer(f"{name}/kernel", True, 0 if i else after) for i, name in enumerate(names)))


def check_steps(network: Spiking, steps: int, order: Order) -> None:
    """Refuse fewer steps than a spike takes to reach the output.

    Raises:
      ValueError: names the steps and how many it takes.
    """
    neurons = len(network.layers) - 1
    least = neurons + 2 if order == "spike_first" else 1
    if steps < least:
        why = f"spike_first delays each of {neurons} layers by a step: take more steps or update_first"
        raise ValueError(f"this network takes at least {least} steps; got {steps}: {why}.")


def _check(network, thresholds, spikes, leak, order, hold, rate) -> None:
    check_steps(network, hold or len(spikes), order)
    if hold and len(spikes) != 1:
        raise ValueError(f"hold repeats a single frame; got {len(spikes)} frames: leave hold out.")
    if len(thresholds) != len(network.layers) - 1:
        raise ValueError(f"{len(network.layers) - 1} layers have thresholds; got {len(thresholds)}.")
    known = all(map(is_known, jax.tree.leaves(thresholds)))
    if known and not (np.asarray(thresholds) > 0).all():
        raise ValueError(f"thresholds are above 0; got {np.asarray(thresholds).tolist()}: use thresholds.balance.")
    if not 0 < leak <= 1 or not 0 <= rate < 1:
        raise ValueError(f"leak is in (0, 1] and rate in [0, 1); got {leak} and {rate}.")
