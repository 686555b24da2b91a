"""Check sums of a checkpoint, kept in its config: a bit that changed on the disk is found, and not computed with.

The file format has none of its own for the values of large arrays. One core sums about 1.5 GB a second.
"""

import json
import zlib
from typing import Any

import jax
import numpy as np

from subspace_jax.core import keys
from subspace_jax.typing import PyTree

NAME = "sums"  # in the config


def with_sums(config: dict[str, Any], items: dict[str, PyTree]) -> dict[str, Any]:
    """The config with the sums of the other parts and of itself."""
    plain = json.loads(json.dumps({name: value for name, value in config.items() if name != NAME}))
    return plain | {NAME: {name: of_tree(tree) for name, tree in items.items()} | {"config": of_config(plain)}}


def of_config(config: dict[str, Any]) -> int:
    """Of a config as it is read back, its sums apart."""
    text = json.dumps({name: value for name, value in config.items() if name != NAME}, sort_keys=True)
    return zlib.crc32(text.encode())


def of_tree(tree: PyTree) -> list[int] | None:
    """[bytes, sum] of all leaves and their paths, in any order; None where a process holds only a part of them."""
    size, total = 0, 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return None
        values = np.ascontiguousarray(keys.on_host(leaf)).reshape(-1).view(np.uint8)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        size, total = size + values.size, total + zlib.crc32(values.data, zlib.crc32(name.encode()))
    return [size, total % 2**32]


def differs(saved: list[int] | None, tree: PyTree) -> bool:
    """Whether a tree as it was read is another one; of one in other dtypes than it was saved in, nothing is known."""
    found = of_tree(tree) if saved else None
    return bool(saved and found and found[0] == saved[0] and found != saved)
