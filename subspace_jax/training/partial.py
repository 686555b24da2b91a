"""Results of a pass over a data set that was stopped: kept in a folder, so that the next one goes on behind them.

Several processes keep theirs in one folder; the next pass may have another number of processes.
"""

import json
import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from subspace_jax.typing import PyTree

EVERY = 64  # batches in a file: few files, and little to do again


class Partial:
    """The results of single batches by the number of their first row, written to `<folder>/<first>.npz`.

    Args:
      folder: made if missing. It belongs to one pass: key, index, variables and batch are compared by check sums.
      structure: of what a batch gives.
      sums: of what the pass depends on, by name.

    Raises:
      ValueError: results of another pass lie there.
    """

    def __init__(self, folder: str | pathlib.Path, structure: Any, sums: dict[str, int]) -> None:
        self.folder, self.structure = pathlib.Path(folder), structure
        self.fresh: dict[int, PyTree] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "pass.json"
        if about.exists() and (other := [k for k, v in json.loads(about.read_text()).items() if sums[k] != v]):
            raise ValueError(f"{folder} holds a pass with another {other[0]}: give this one a folder of its own.")
        mine = about.with_suffix(f".{jax.process_index()}")  # several processes write here
        mine.write_text(json.dumps(sums))
        mine.replace(about)
        self.kept = {}
        for path in self.folder.glob("[0-9]*.npz"):
            with np.load(path) as found:
                leaves = [found[name] for name in sorted(found.files) if name != "first"]
                for row, first in enumerate(found["first"].tolist()):
                    self.kept[first] = jax.tree.unflatten(structure, [leaf[row] for leaf in leaves])

    def put(self, first: int, found: PyTree) -> None:
        """Keep the results of one batch; they are written once there are enough."""
        self.fresh[first] = found
        if len(self.fresh) == EVERY:
            self.write()

    def write(self) -> None:
        """Write what is not yet written; a file has its name once it is whole."""
        if not self.fresh:
            return
        leaves = zip(*(jax.tree.leaves(jax.device_get(found)) for found in self.fresh.values()), strict=True)
        columns = {f"leaf{i:03}": np.stack(values) for i, values in enumerate(leaves)}
        path = self.folder / f"{min(self.fresh)}.npz"
        mine = path.with_suffix(f".partial{jax.process_index()}")
        with mine.open("wb") as file:
            np.savez(file, **(columns | {"first": np.array(list(self.fresh))}))  # pyrefly: ignore[bad-argument-type]
        mine.replace(path)
        self.fresh = {}


def check_sum(*trees: PyTree) -> int:
    """Of all bytes in arrays and keys, to tell one pass from another."""
    total = 0
    for leaf in jax.tree.leaves(trees):
        total = zlib.crc32(np.ascontiguousarray(_plain(leaf)).tobytes(), total)
    return total


def _plain(leaf: Any) -> np.ndarray:
    keys = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if keys else leaf)
