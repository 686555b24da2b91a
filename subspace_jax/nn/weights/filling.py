"""From the tensors of a file to the leaves of a network: each has its place, or the message names both shapes."""

import math
import pathlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from subspace_jax import trees
from subspace_jax.nn.weights import files, names, positions
from subspace_jax.nn.weights.names import Shape, Source, Tensor
from subspace_jax.typing import Variables

SHOWN = 3  # names in a message
REMEDIES = {
    "head": "give classes as the file has them, outputs= for some of them, or classes=0 for no head",
    "patches": "give patch and width as the file has them",
}


class File(NamedTuple):
    """The tensors of a file and whose they are."""

    path: pathlib.Path
    tensors: dict[str, np.ndarray]
    source: Source
    settings: dict[str, Any]


def is_read(source: Source, name: str) -> bool:
    """Whether inference reads a tensor."""
    return not re.fullmatch(source.unused, name)


def some(listed: Iterable[str]) -> str:
    """The first names of many."""
    listed = list(listed)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more or "nothing"


def filled(
    file: File, template: Variables, heads: int, outputs: Sequence[int] | None, image: Shape
) -> dict[str, np.ndarray]:
    """Every leaf of the network by path, from the file, of which nothing is left.

    Args:
      file: its tensors.
      template: shapes of the variables.
      heads: of the attention.
      outputs: as in `load`.
      image: shape of the images.

    Raises:
      ValueError: as `load`, for tensors and outputs.
    """
    leaves, found, taken = trees.flatten(template), {}, set()
    for path, leaf in leaves.items():
        ours = path.partition("/")[2]  # behind params or batch_stats
        tensor = names.tensor(file.source, ours, tuple(leaf.shape), heads)
        if tensor.name not in file.tensors:
            raise ValueError(
                f"{file.path} has no tensor {tensor.name} {tensor.shape}, which {ours} {leaf.shape} of the network "
                f"needs; it has {some(file.tensors)}."
            )
        array = files.float32(tensor.name, file.tensors[tensor.name], file.path)
        if ours == "positions":
            array = _positions(file, tensor, array, image)
        elif ours.startswith("head/") and outputs is not None:
            array = _chosen(file, tensor, array, outputs)
        if array.shape != tensor.shape:
            remedy = REMEDIES.get(ours.rpartition("/")[0], "give the sizes of the file")
            raise ValueError(
                f"{tensor.name} in {file.path} is {array.shape}, and {ours} {leaf.shape} of the network needs "
                f"{tensor.shape}: {remedy}."
            )
        found[path] = tensor.convert(array)
        taken.add(tensor.name)
    _check_left(file, taken, headless="params/head/kernel" not in leaves)
    return found


def _positions(file: File, tensor: Tensor, table: np.ndarray, image: Shape) -> np.ndarray:
    """The table for the patches of these images; one of another width is left for the message."""
    if table.ndim != 3 or table.shape[2] != tensor.shape[2]:
        return table
    patch = math.isqrt(image[0] * image[1] // (tensor.shape[1] - 1))
    old, new = positions.grid(table.shape[1]), (image[0] // patch, image[1] // patch)
    if new == (old, old):
        return table
    warnings.warn(
        f"the positions of {file.path} are resized from {old} x {old} to {new[0]} x {new[1]} patches: images of "
        f"{old * patch} x {old * patch} pixels (--image-size {old * patch}) keep them.",
        stacklevel=4,
    )
    return positions.resize(table, *new)


def _chosen(file: File, tensor: Tensor, array: np.ndarray, outputs: Sequence[int]) -> np.ndarray:
    """The rows (of the original ViT: columns) of these outputs."""
    axis = array.ndim - 1 if file.source is names.GOOGLE else 0
    count, asked = array.shape[axis], list(outputs)
    if len(asked) != tensor.shape[axis] or len(set(asked)) != len(asked) or not all(0 <= k < count for k in asked):
        raise ValueError(
            f"outputs names {tensor.shape[axis]} of the {count} outputs of {file.path}, one for each class of the "
            f"network, each once; got {asked}."
        )
    return np.take(array, asked, axis=axis)


def _check_left(file: File, taken: set[str], *, headless: bool) -> None:
    """Refuse tensors without a place: the network would compute something else than the source does."""
    head = file.source.layers["head"].format(leaf="")
    left = [name for name in file.tensors if name not in taken and is_read(file.source, name)]
    left = [name for name in left if not (headless and name.startswith((head, "pre_logits/")))]
    if left:
        shapes = (f"{name} {file.tensors[name].shape}" for name in left)
        raise ValueError(
            f"{file.path} holds tensors for which the network has no place: {some(shapes)}; give the sizes of the file "
            "(depth, blocks), or weights of a network without them."
        )
