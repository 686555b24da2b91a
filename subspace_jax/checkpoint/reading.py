"""Read checkpoints: errors of Orbax and TensorStore on damaged files become one message that says what to do."""

import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from subspace_jax.checkpoint import sums
from subspace_jax.checkpoint.folder import Manager, whole
from subspace_jax.core.keys import is_key
from subspace_jax.typing import PyTree

SPLIT = "an equinox module is split first: arrays, static = eqx.partition(module, eqx.is_array)"


def read(
    source: Manager,
    epoch: int,
    item: str,
    template: PyTree | None,
    *,
    way_out: Callable[[int, int | None], str],
    owner: str = "this run",
) -> Any:
    """One part of one checkpoint.

    Args:
      source: the opened folder.
      epoch: one of its epochs.
      item: "config", which takes no template, "variables" or "state".
      template: arrays or their shapes.
      way_out: (damaged epoch, newest intact epoch or None) -> how to use the latter, for the message.
      owner: what the template belongs to, for messages.

    Raises:
      ValueError: files that hold other shapes than the template, or are cut, altered or missing.
    """
    with _quiet():
        try:
            return _restored(source, epoch, item, template)
        except Exception as error:  # JSON, KeyError, FileNotFoundError, TensorStore's ValueError, bare Exception
            folder = pathlib.Path(source.directory) / str(epoch)
            if template is not None and (difference := _difference(folder / item, template)):
                raise ValueError(f"the checkpoint {folder} does not fit {owner}: {difference}.") from error
            others = [e for e in reversed(whole(folder.parent)) if e != epoch]
            newest = next((e for e in others if _is_whole(source, e)), None)
            rest = "none else is whole" if newest is None else f"epoch {newest} is whole"
            raise ValueError(
                f"the checkpoint {folder} is damaged: files of its {item} are cut, altered or missing; {rest}: "
                f"{way_out(epoch, newest)}."
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what Orbax logs about damaged files; the raised message says it.

    After a failure its threads run on for a while, so the filter of their errors stays in place.
    """
    logger = logging.getLogger("absl")
    logging.getLogger("asyncio").addFilter(_is_of_others)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Log filter: drop errors of files that were read beside the one whose error is raised."""
    return "tensorstore_spec" not in record.getMessage()


def check_kept(directory: pathlib.Path, epoch: int) -> None:
    """Refuse an epoch without a complete checkpoint.

    Raises:
      ValueError: it was never saved, not kept, or lacks a part; the message lists the available epochs.
    """
    kept = whole(directory)
    if epoch not in kept:
        listed = f"kept are {', '.join(map(str, kept))}" if kept else "no epoch there is whole"
        raise ValueError(f"{directory} has no whole checkpoint of epoch {epoch}; {listed}: give one of them (--epoch).")


def check_arrays(tree: PyTree, what: str) -> None:
    """Refuse leaves that no checkpoint can hold.

    Raises:
      ValueError: a leaf that is neither array nor number.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float | complex):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{what} are arrays, but {name} is {leaf!r}; {SPLIT}.")


def _restored(source: Manager, epoch: int, item: str, template: PyTree | None) -> Any:
    if template is not None and jax.process_count() > 1:  # on no device: Orbax asks on which of all otherwise
        template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
    how = ocp.args.JsonRestore() if item == "config" else ocp.args.StandardRestore(template)
    found = source.restore(epoch, args=ocp.args.Composite(**{item: how}))[item]
    config = found if item == "config" else _restored(source, epoch, "config", None)
    saved = config.get(sums.NAME, {}).get(item)  # none in those of earlier versions
    altered = sums.of_config(found) != saved if item == "config" else sums.differs(saved, found)
    if saved is not None and altered:
        raise ValueError(f"the {item} of epoch {epoch} differs from its check sum.")
    return found


def _is_whole(source: Manager, epoch: int) -> bool:
    try:
        for item in ("config", "variables", "state"):
            _restored(source, epoch, item, None)
    except Exception:
        return False
    return True


def _difference(folder: pathlib.Path, template: PyTree) -> str | None:
    """The first leaf whose shape differs in the files, or None where none does or the files cannot be read."""
    try:
        with ocp.StandardCheckpointer() as files:
            saved = files.metadata(folder)
        for name in ("item_metadata", "tree"):  # as one version of Orbax or another wraps it
            saved = getattr(saved, name, saved)
        saved = _shapes(saved)
    except Exception:
        return None
    asked = _shapes(template)
    names = [name for name in sorted({*saved, *asked}) if saved.get(name) != asked.get(name)]
    if not saved or not names:  # every saved tree has a leaf, so an empty one was not read
        return None
    has, takes = (f"of shape {shapes[names[0]]}" if names[0] in shapes else "absent" for shapes in (saved, asked))
    return f"{names[0]} is {has} in the files and {takes} here"


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shapes by path; of random keys, the shape of their key data, which is what is saved."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        plain = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = np.shape(plain)
    return found
