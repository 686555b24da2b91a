"""Results of a pass over a data set that was stopped: kept in a folder, so that the next one goes on behind them.

Several processes keep theirs in one folder; the next pass may have another number of processes.
"""

import json
import pathlib
import warnings
import zlib
from typing import Any

import jax
import numpy as np

from subspace_jax.core import keys, processes
from subspace_jax.files import written
from subspace_jax.typing import PyTree

EVERY = 64  # batches in a file: few files, and little to do again


class Partial:
    """The results of single batches by the number of their first row, written to `<folder>/<first>.npz`.

    Args:
      folder: made if missing. It belongs to one pass: key, index, variables and batch are compared by check sums.
      structure: of what a batch gives.
      sums: of what the pass depends on, by name.

    Raises:
      ValueError: results of another pass lie there, or nothing says of which.
      NotSavedError: a full disk, or a folder that may not be written.
    """

    def __init__(self, folder: str | pathlib.Path, structure: Any, sums: dict[str, int]) -> None:
        self.folder, self.structure = pathlib.Path(folder), structure
        self.fresh: dict[int, PyTree] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "pass.json"
        if about.exists() and (other := [k for k, v in _sums(about).items() if sums.get(k) != v]):
            raise ValueError(f"{folder} holds a pass with another {other[0]}: give this one a folder of its own.")
        if processes.first():
            with written(about) as file:
                json.dump(sums, file)
        self.kept = {}
        for path in self.folder.glob("[0-9]*.npz"):
            self.kept |= self._read(path)

    def _read(self, path: pathlib.Path) -> dict[int, PyTree]:
        """The results in one file; none, with a warning, where it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as found:
                leaves = [found[name] for name in sorted(found.files) if name != "first"]
                firsts = found["first"].tolist()
        except Exception as error:  # zip, zlib and NumPy's header parser each raise their own
            warnings.warn(f"{path} is damaged ({error}): its results are computed again.", stacklevel=4)
            return {}
        rows = [jax.tree.unflatten(self.structure, [leaf[row] for leaf in leaves]) for row in range(len(firsts))]
        return dict(zip(firsts, rows, strict=True))

    def put(self, first: int, found: PyTree) -> None:
        """Keep the results of one batch; they are written once there are enough."""
        self.fresh[first] = found
        if len(self.fresh) == EVERY:
            self.write()

    def write(self) -> None:
        """Write what is not yet written."""
        if not self.fresh:
            return
        leaves = zip(*(jax.tree.leaves(jax.device_get(found)) for found in self.fresh.values()), strict=True)
        columns = {f"leaf{i:03}": np.stack(values) for i, values in enumerate(leaves)}
        with written(self.folder / f"{min(self.fresh)}.npz", "wb") as file:  # others of several processes have others
            np.savez(file, **(columns | {"first": np.array(list(self.fresh))}))  # pyrefly: ignore[bad-argument-type]
        self.fresh = {}


def _sums(about: pathlib.Path) -> dict[str, int]:
    try:
        return dict(json.loads(about.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{about} is damaged ({error}): remove {about.parent}, and the pass starts anew.") from None


def check_sum(*trees: PyTree) -> int:
    """Of all bytes in arrays and keys, to tell one pass from another."""
    total = 0
    for leaf in jax.tree.leaves(trees):
        total = zlib.crc32(np.ascontiguousarray(keys.on_host(leaf)).tobytes(), total)
    return total
