"""How many channels and bits does each layer of a spiking network need? Channels: counted from accumulated potentials.

The potential of a layer is its drive, averaged over time, without reset: the spiking response before ReLU. Its centred
covariance over samples and positions has k significant dimensions, the fewest that hold the share tau of the variance;
the narrower network has k channels there and is trained anew (Chowdhury, Garg, Roy, IJCNN 2021). Controls belong beside
it: the same widths by `select`, and the counts of the network before training, since a 3x3 kernel on a grey image gives
nine dimensions at most, whatever was learned.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import trees
from subspace_jax.core import checks, moments
from subspace_jax.core.keys import as_key
from subspace_jax.core.moments import Moments
from subspace_jax.core.subspace import significant_dims
from subspace_jax.nn.layers.spiking import Order, lif
from subspace_jax.spiking.network import LEAK, Layer, Spiking, drive, trace
from subspace_jax.typing import Array, Float, Key, Params

Mode = Literal["drive", "leaky", "membrane"]


def accumulated_potential(
    network: Spiking, thresholds: Sequence[Any] | Array, spikes: Float[Array | np.ndarray, "t b ..."], *,
    mode: Mode = "drive", leak: float | int = LEAK, order: Order = "spike_first", hold: int | None = None,
) -> dict[str, Float[Array, "b ..."]]:  # fmt: skip
    """{path: potential of the neurons behind each layer but the last, (b, h, w, channels) or (b, units)}.

    "drive" and "leaky" are linear in the spikes, so that each layer is one product of their mean over time.

    Args:
      network: see `network.run`, like thresholds, spikes, leak, order and hold.
      thresholds: see network.
      spikes: see network.
      mode: "drive", the mean over time of the drive; "leaky", the membrane that never fires, after the last step, over
        the number of steps; "membrane", the mean over time of the membrane after its reset.
      leak: see network.
      order: see network.
      hold: see network.

    Raises:
      ValueError: another mode; as `network.run`.
    """
    if mode not in ("drive", "leaky", "membrane"):
        raise ValueError(f"mode is 'drive', 'leaky' or 'membrane'; got {mode!r}.")
    read = trace(network, thresholds, spikes, leak=leak, order=order, hold=hold)
    kernels, steps, found = trees.flatten(network.params), hold or len(spikes), {}
    weights = (leak if mode == "leaky" else 1.0) ** jnp.arange(steps - 1, -1, -1) / steps
    for layer, threshold in zip(network.layers[:-1], thresholds, strict=True):
        own = read[layer.path]
        own = jnp.broadcast_to(own, (steps, *own.shape[1:]))  # a held frame
        if mode == "membrane":
            fired, membrane = lif(drive(layer, kernels[layer.path], own), threshold, leak)
            found[layer.path] = (membrane - threshold * fired).mean(0)
        else:
            mean = jnp.tensordot(weights, own, axes=1)
            found[layer.path] = drive(layer, kernels[layer.path], mean[None])[0].astype(jnp.float32)
    return found


def channel_moments(potentials: Iterable[dict[str, Any]]) -> dict[str, Moments]:
    """Moments over samples and positions of the channels of each layer, added over batches in float64.

    Args:
      potentials: of `accumulated_potential`, one dict a batch; batches may differ in size.

    Raises:
      ValueError: no batch; a potential that is not finite.
    """
    total: dict[str, Moments] = {}
    for batch in potentials:
        for path, potential in batch.items():
            checks.check_finite(f"potential of {path!r}", potential, remedy="train again, or give other samples")
            rows = np.asarray(potential, np.float64).reshape(-1, potential.shape[-1])
            own = Moments(rows.T @ rows, rows.sum(0), float(len(rows)))
            total[path] = moments.merge(total[path], own) if path in total else own
    if not total:
        raise ValueError("there is no batch of potentials: there is nothing to count.")
    return total


def widths(measured: dict[str, Moments], *, tau: float | int) -> dict[str, int]:
    """{path: channels that a narrower network needs}, the significant dimensions of each layer.

    Args:
      measured: of `channel_moments`.
      tau: share of the variance to keep, in (0, 1].

    Raises:
      ValueError: tau out of range; a layer with fewer rows than channels, or without variance: it is dead.
    """
    found = {}
    for path, own in measured.items():
        if own.count < len(own.total):
            raise ValueError(
                f"{path!r}: {int(own.count)} rows cannot count {len(own.total)} channels: the covariance lacks rank; "
                "give more samples."
            )
        dims = int(significant_dims(np.linalg.eigvalsh(moments.covariance(own)), tau=tau))
        if not dims:
            raise ValueError(f"{path!r} gives the same for every sample: it is dead; train the network again.")
        found[path] = dims
    return found


def parameters(network: Spiking, widths: Sequence[int]) -> int:
    """Weights of the same network with other widths, the sum of window x channels before x channels.

    Raises:
      ValueError: not one width for each layer but the last, or one above the layer's own.
    """
    kernels = _kernels(network.params, network.layers)
    _check_widths(widths, kernels)
    total, before, full = 0, kernels[0].shape[-2], kernels[0].shape[-2]
    for kernel, width in zip(kernels, [*widths, kernels[-1].shape[-1]], strict=True):
        total += kernel.size // (full * kernel.shape[-1]) * before * width
        before, full = width, kernel.shape[-1]
    return total


@checks.on_host
def select(
    params: Params, layers: Sequence[Layer], *, widths: Sequence[int], kind: Literal["random", "magnitude"],
    key: Key[Array, ""] | None = None,
) -> Params:  # fmt: skip
    """The weights of some channels, as a network of these widths: a control of a design, which copies none.

    Args:
      params: of the wide network.
      layers: of that network.
      widths: channels to keep of each layer but the last, whose outputs are the classes.
      kind: "magnitude", those with the largest sum of absolute weights; "random".
      key: for "random".

    Raises:
      ValueError: another kind; not one width for each layer but the last, or one above the layer's own.
    """
    if kind not in ("random", "magnitude"):
        raise ValueError(f"kind is 'random' or 'magnitude'; got {kind!r}.")
    kernels = _kernels(params, layers)
    _check_widths(widths, kernels)
    chosen = []
    for number, (width, kernel) in enumerate(zip(widths, kernels, strict=False)):
        own = None if kind == "magnitude" else jax.random.fold_in(as_key(key), number)
        chosen.append(np.eye(kernel.shape[-1])[:, _chosen(kernel, width, own)])
    return _between(params, layers, chosen)


def project(params: Params, layers: Sequence[Layer], measured: dict[str, Moments], *, widths: Sequence[int]) -> Params:
    """The weights between leading principal directions, as a network of these widths: where one may start to train.

    W'_l = P_l' W_l (P_{l-1} x I), with the `widths` leading eigenvectors P_l of the covariance of layer l; no rotation
    where a width is the layer's own. Exact of linear layers whose potentials lie in these directions; the neurons in
    between do not commute with it.

    Args:
      params: of the wide network.
      layers: of that network.
      measured: of `channel_moments`.
      widths: channels to keep of each layer but the last.

    Raises:
      ValueError: not one width for each layer but the last, or one above the layer's own.
    """
    kernels = _kernels(params, layers)
    _check_widths(widths, kernels)
    bases = []
    for layer, width, kernel in zip(layers, widths, kernels, strict=False):
        own = np.eye(kernel.shape[-1])
        if width < len(own):
            own = np.linalg.eigh(moments.covariance(measured[layer.path]))[1][:, ::-1][:, :width]
        bases.append(own)
    return _between(params, layers, bases)


def quantise_weights(params: Params, bits: int) -> Params:
    """Each leaf on a symmetric grid of 2^bits - 1 values, rounded to the nearest; thresholds stay as they are.

    s = max |W| / (2^(bits - 1) - 1), W -> s round(W / s). 32 bits are the weights themselves.

    Raises:
      ValueError: bits outside 2..32.
    """
    if not 2 <= bits <= 32:
        raise ValueError(f"bits are in [2, 32], since one bit has no symmetric grid with 0; got {bits}.")
    if bits == 32:
        return params

    def grid(leaf):
        scale = jnp.abs(leaf).max() / (2 ** (bits - 1) - 1)
        return jnp.where(scale > 0, scale * jnp.round(leaf / jnp.where(scale > 0, scale, 1)), leaf)

    return jax.tree.map(grid, params)


def _kernels(params: Params, layers: Sequence[Layer]) -> list[np.ndarray]:
    leaves = trees.flatten(params)
    return [np.asarray(leaves[layer.path]) for layer in layers]


def _check_widths(widths: Sequence[int], kernels: Sequence[np.ndarray]) -> None:
    full = [kernel.shape[-1] for kernel in kernels[:-1]]
    if len(widths) != len(full) or not all(1 <= own <= most for own, most in zip(widths, full, strict=False)):
        raise ValueError(
            f"widths are those of all layers but the last, whose outputs are the classes, at most {full}; got "
            f"{list(widths)}."
        )


def _between(params: Params, layers: Sequence[Layer], bases: Sequence[np.ndarray]) -> Params:
    """Kernels from one set of channels to the next: (channels, kept) for each layer but the last."""
    kernels, found = _kernels(params, layers), {}
    into = np.eye(kernels[0].shape[-2])
    for layer, kernel, out in zip(layers, kernels, [*bases, np.eye(kernels[-1].shape[-1])], strict=True):
        shape = (-1, len(into), kernel.shape[-1])  # positions, or those of a flattened map, whose channels come last
        narrow = np.einsum("pio,ik,oq->pkq", kernel.reshape(shape).astype(np.float64), into, out)
        lead = () if layer.dense else kernel.shape[:-2]
        found[layer.path] = jnp.asarray(narrow.reshape(*lead, -1, out.shape[1]), kernel.dtype)
        into = out
    return trees.map_with_path(lambda path, leaf: found[path], params)


def _chosen(kernel: np.ndarray, width: int, key: Any) -> np.ndarray:
    """The channels to keep, in their order."""
    channels = kernel.shape[-1]
    if key is not None:
        return np.sort(np.asarray(jax.random.permutation(key, channels))[:width])
    return np.sort(np.argsort(-np.abs(kernel).reshape(-1, channels).sum(0), kind="stable")[:width])
