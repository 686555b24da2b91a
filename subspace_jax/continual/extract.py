"""Which parameters belong to a channel: to mask channels, or to slice them out into a smaller network for one task.

A channel is a column of a kernel, with its entry of the bias and of the norm that follows, and the rows of the next
kernels that read it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import nn, trees
from subspace_jax.continual import projection
from subspace_jax.core import capture
from subspace_jax.core.capture import Layers
from subspace_jax.nn.build import NETWORKS
from subspace_jax.nn.layers.norm import MinibatchNorm
from subspace_jax.nn.parts import Parts
from subspace_jax.nn.vision import halve
from subspace_jax.typing import Array, Int, Params, Variables

Widths = Mapping[str, Any]  # {layer: channels}
Entries = Int[Array, " tasks"] | Int[np.ndarray, " tasks"]


class Channels(NamedTuple):
    """The parameters of channel c: column c of a kernel, entry c of its bias and of the norm that follows.

    Attributes:
      layers: table of the layers whose kernel columns are the channels.
      vectors: {leaf path: path of its layer} of biases, norm scales and norm shifts.
      heads: leaves (tasks, ...) that belong to no channel, by path or path prefix.
    """

    layers: Layers
    vectors: dict[str, str]
    heads: tuple[str, ...]


def channels(table: Layers, *, heads: tuple[str, ...] = ("heads",)) -> Channels:
    """Find, by name, the layer that owns each parameter leaf of a network.

    The layer "block/conv0/kernel" owns "block/conv0/bias" and the leaves of the norm "block/norm0" or
    "block/conv0_norm".

    Args:
      table: `capture.layers` of the network.
      heads: see `Channels`.

    Raises:
      ValueError: no layer beside the heads; a grouped, scanned or batched layer; any running statistic; a leaf that
        not exactly one layer owns.
    """

    def free(path):
        return any(path == head or path.startswith(head + "/") for head in heads)

    layers = Layers({path: layer for path, layer in table.items() if not free(layer.leaf)}, ())
    if not layers:
        raise ValueError(f"heads={heads} leave no layer of {', '.join(table)}.")
    capture.check_writes(layers, "not divided into channels")
    if odd := [path for path, layer in layers.items() if layer.lead]:
        raise ValueError(f"{odd[0]!r} has groups, a scan or a batch axis: channels are those of plain layers.")
    if statistics := [leaf for leaf in table.other if leaf.startswith("batch_stats/")]:
        raise ValueError(f"running statistics such as {statistics[0]!r} change with every task: norm='minibatch'.")
    owners: dict[str, list[str]] = {}
    for path, layer in layers.items():
        folder = layer.leaf.rpartition("/")[0]
        for name in {folder, *_norms(folder)}:
            owners.setdefault(name, []).append(path)
    vectors = {leaf: owners.get(leaf.rpartition("/")[0], []) for leaf in table.other if not free(leaf)}
    if lost := [leaf for leaf, found in vectors.items() if len(found) != 1]:
        raise ValueError(
            f"no one layer owns {lost[0]!r} by its name: the bias or norm of 'a/kernel' is in 'a' or 'a_norm'."
        )
    return Channels(layers, {leaf: found[0] for leaf, found in vectors.items()}, heads)


def space_masks(owned: Channels, params: Params, *, start: Widths | None = None, stop: Widths) -> Params:
    """Boolean masks with the structure of `params`: True for what channels start <= c < stop own, and for heads."""
    leaves, live = trees.flatten(params), {}
    for path, layer in owned.layers.items():
        index = jnp.arange(layer.d_out)
        live[path] = (index < stop[path]) & (index >= (start[path] if start else 0))
    layers = Layers({path: layer for path, layer in owned.layers.items() if layer.leaf in leaves}, ())
    columns = {path: 1.0 * jnp.broadcast_to(live[path], (layer.d_in, layer.d_out)) for path, layer in layers.items()}
    ones = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf)), params)
    vectors = {leaf: live[owner] for leaf, owner in owned.vectors.items() if leaf in leaves}
    masks = trees.update(
        capture.write_kernels(layers, ones, columns),
        {leaf: mask.reshape(jnp.shape(leaves[leaf])) for leaf, mask in vectors.items()},
    )
    return jax.tree.map(lambda mask: mask > 0, masks)


def narrowed(owned: Channels, params: Params, widths: Widths) -> Params:
    """The parameters with channels c >= widths set to 0: if the activation maps 0 to 0, this removes the channels."""
    masks = space_masks(owned, params, stop=widths)
    return jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), params, masks)


def is_head(owned: Channels, path: str) -> bool:
    """Whether a leaf belongs to the heads."""
    return projection.under(path, owned.heads)


def _norms(folder: str) -> tuple[str, str]:
    """The names a norm behind the kernel in this folder may have."""
    return f"{folder}_norm", re.sub(r"(^|/)conv(\d+)$", r"\1norm\2", folder)


def extract_task(
    network: Mapping[str, Any], variables: Variables, widths: Mapping[str, Entries], task: int, x: Any
) -> tuple[nn.Model, Variables]:
    """The network of one task without the channels it does not use: fewer parameters, less arithmetic, same logits.

    Kernels lose the columns of unused channels and the rows that read them; at the sum of a block and its shortcut a
    channel stays if either has it.

    Args:
      network: as checkpoints describe it: {"name": "resnet18", "kwargs": {"norm": "minibatch", ...}}, the trunk of
        `nn.multi_head`; an MLP, LeNet-5, VGG or ResNet.
      variables: of the whole network.
      widths: {layer: channels of each task}, `SpaceState.widths`.
      task: number of a learned task.
      x: one batch of inputs; only its shape is used.

    Returns:
      (model, variables): logits (n, classes), parameters {"dense0": {"kernel": ..., "bias": ...}, ..., "head": ...}.

    Raises:
      ValueError: another network; a norm that keeps statistics or mixes channels, an activation with act(0) != 0;
        variables of another network; a task that was not learned.
    """
    parts, kwargs = check_network(network), dict(network.get("kwargs", {})) | {"classes": 0}
    shape = trees.flatten(variables["params"]).get("heads/kernel", jnp.zeros(0)).shape
    if len(shape) != 3 or not 0 <= task < shape[0] or not all(int(own[task]) for own in widths.values()):
        raise ValueError(f"task {task} was not learned: widths of 0, or no head of this number in {shape}.")
    whole = nn.multi_head(nn.build(network["name"], **kwargs), tasks=shape[0], classes=shape[2])
    expected = jax.eval_shape(whole.init, jax.random.key(0), x)["params"]
    shapes = [
        {path: jnp.shape(leaf) for path, leaf in trees.flatten(p).items()} for p in (expected, variables["params"])
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the variables are not those of {network['name']} with {kwargs} on inputs {x.shape[1:]}.")
    own = {path: int(w[task]) for path, w in widths.items()}
    sizes = {field: kwargs.get(field, value) for field, value in vars(NETWORKS[network["name"]]).items()}
    forward = FORWARDS[network["name"]]

    def apply(params, x):
        return _logits(forward, _Net(parts, sizes, lambda folder, x: params.get(folder, {})), x)

    @jax.jit  # only the slices are returned, so that XLA drops the forward pass itself
    def cut(params, x):
        full, found = _folders(params, task), {}

        def read(folder, x):
            return found.setdefault(
                folder, _sliced(full[folder], x, own.get(f"{folder}/kernel")) if folder in full else {}
            )

        _logits(forward, _Net(parts, sizes, read), x)
        return {folder: leaves for folder, leaves in found.items() if leaves}

    blank = jnp.zeros(x.shape, jnp.float32)
    small = nn.from_function(lambda key, x: cut(whole.init(key, x)["params"], x), apply)
    return small, {"params": cut(variables["params"], blank), "batch_stats": {}}


def check_network(network: Mapping[str, Any]) -> Parts:
    """Check that a network can be sliced, and return its `Parts`; arguments and errors as `extract_task`."""
    name, kwargs = network["name"], network.get("kwargs", {})
    if name not in FORWARDS:
        raise ValueError(f"there is no table of the channels of {name!r}; there are {', '.join(FORWARDS)}.")
    known = {key: value for key, value in kwargs.items() if key in Parts._fields}
    parts = NETWORKS[name].parts._replace(**known)
    if parts.norm not in ("none", "minibatch"):
        why = "keeps running statistics" if parts.norm == "batch" else "mixes channels"
        raise ValueError(f"norm {parts.norm!r} of {name} {why}: a slice differs from a mask; build with 'minibatch'.")
    if float(parts.act(jnp.zeros(()))):
        raise ValueError(f"activation {parts.activation!r} of {name} does not keep 0, so that a masked channel counts.")
    return parts


class _Net(NamedTuple):
    """Building blocks of the forward functions below; `read(folder, x)` gives a folder's leaves, sliced to fit x."""

    parts: Parts
    sizes: dict[str, Any]
    read: Callable

    def act(self, x):
        return self.parts.act(x)

    def unit(self, x: Any, folder: str, **how: int) -> Any:
        """Convolution or dense layer on flattened inputs, and the norm that follows."""
        own = self.read(folder, x)
        kernel, parts = own["kernel"], self.parts._replace(use_bias="bias" in own)
        if kernel.ndim == 4:
            layer = parts.conv(kernel.shape[-1], kernel.shape[0], name=folder, **how)
        else:
            layer, x = parts.dense(kernel.shape[-1], name=folder), x.reshape(len(x), -1)
        x = layer.apply({"params": own}, x)
        if parts.norm == "none":
            return x
        norm = next(leaves for name in _norms(folder) if (leaves := self.read(name, x)))
        return MinibatchNorm(dtype=parts.dtype).apply({"params": norm}, x)


def _mlp(net: _Net, x):
    for i in range(len(net.sizes["widths"])):
        x = net.act(net.unit(x, f"dense{i}"))
    return x


def _lenet5(net: _Net, x):
    classic = 32
    for i in range(len(net.sizes["filters"])):
        x = halve(net.act(net.unit(x, f"conv{i}", pad=0 if x.shape[1] >= classic else 2)))
        classic = (classic - 4) // 2
    return _mlp(net, x)


def _vgg(net: _Net, x):
    for i, convs in enumerate(net.sizes["convs"]):
        for j in range(convs):
            x = net.act(net.unit(x, f"stage{i + 1}/conv{j}"))
        x = halve(x)
    return x.mean((1, 2))


def _resnet(net: _Net, x):
    x = net.act(net.unit(x, "stem"))
    for i, blocks in enumerate(net.sizes["blocks"]):
        for j in range(blocks):
            block, stride = f"stage{i + 1}/block{j}", 2 if i and not j else 1
            y = net.unit(net.act(net.unit(x, f"{block}/conv0", stride=stride)), f"{block}/conv1")
            x = net.unit(x, f"{block}/shortcut", stride=stride) if i and not j else x
            channels = max(x.shape[-1], y.shape[-1])
            x = net.act(_widened(x, channels) + _widened(y, channels))
    return x.mean((1, 2))


FORWARDS = {
    "mlp": _mlp, "lenet5": _lenet5, "vgg11": _vgg, "vgg16": _vgg, "resnet18": _resnet, "resnet20": _resnet,
}  # fmt: skip


def _logits(forward: Callable, net: _Net, x):
    features = jnp.asarray(forward(net, x), jnp.float32)
    return features.reshape(len(x), -1) @ net.read("head", features)["kernel"]


def _folders(params: Params, task: int) -> dict[str, dict[str, Array]]:
    """Leaves by folder, of the heads that of the task."""
    folders = {}
    for path, leaf in trees.flatten(params).items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = leaf
    return folders | {"head": {"kernel": folders["heads"]["kernel"][task]}}


def _sliced(own: dict[str, Array], x, width: int | None) -> dict[str, Array]:
    """The leaves of a layer that reads x and keeps `width` channels (None: all); of a norm, those of the channels."""
    if "kernel" not in own:
        return {name: leaf[: x.shape[-1]] for name, leaf in own.items()}
    kernel = own["kernel"]
    places = kernel.shape[:2] if kernel.ndim == 4 else x.shape[1:-1]  # a dense layer reads each place of an image
    whole = kernel.reshape(*places, -1, kernel.shape[-1])
    kept = whole[..., : x.shape[-1], :width]
    kept = kept if kernel.ndim == 4 else kept.reshape(-1, kept.shape[-1])
    return {"kernel": kept} | {name: leaf[:width] for name, leaf in own.items() if name != "kernel"}


def _widened(x, channels: int):
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
