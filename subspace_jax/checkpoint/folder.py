"""Folders of checkpoints, one sub-folder per epoch: which are complete, and helpful errors for failed writes.

Orbax writes a checkpoint to a temporary folder and renames it, so an interrupted save leaves no folder with an epoch's
name; an incomplete one was damaged later, for example by a partial copy.
"""

import contextlib
import errno
import itertools
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from subspace_jax.files import NotSavedError, remedy

ITEMS = "variables", "state", "config"


class Manager(ocp.CheckpointManager):
    """Orbax' manager of one folder of checkpoints; a failed write raises `NotSavedError` with advice."""

    def __init__(self, directory: pathlib.Path, options: ocp.CheckpointManagerOptions):
        logging.getLogger("absl").addFilter(_is_told_once)
        if not isinstance(sys.unraisablehook, _WithoutLastWords):
            sys.unraisablehook = _WithoutLastWords(sys.unraisablehook)
        super().__init__(directory, options=options)

    def save(self, *args: Any, **kwargs: Any) -> bool:
        """As Orbax: asynchronous, so a write error may be raised by the next call or when the manager is closed."""
        with _writing(pathlib.Path(self.directory)):
            return super().save(*args, **kwargs)

    def wait_until_finished(self) -> None:
        """As Orbax; also called when the manager is closed."""
        with _writing(pathlib.Path(self.directory)):
            super().wait_until_finished()


def manager(
    directory: str | pathlib.Path, *, keep: int | None = 1, keep_every: int | None = None, best: str | None = None
) -> Manager:
    """Open a folder of checkpoints, one per epoch, for writing or for resuming a run.

    Args:
      directory: created if missing; leftovers of an interrupted save are ignored, and an epoch's folder that lacks a
        part is renamed to `<epoch>.incomplete`, with a warning.
      keep: newest (or best) checkpoints to keep; all when None.
      keep_every: never delete epochs that are multiples of this (1: all, to score them later).
      best: name of a metric given to `save`; the `keep` highest are then kept instead of the newest.
    """
    directory = pathlib.Path(directory).resolve()
    _set_aside(directory)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        keep_period=keep_every,
        best_fn=(lambda metrics: metrics[best]) if best else None,
        keep_checkpoints_without_metrics=not best,
    )
    return Manager(directory, options)


def reader(directory: pathlib.Path) -> Manager:
    """Open a folder of checkpoints for reading; nothing in it is changed."""
    return Manager(directory.resolve(), ocp.CheckpointManagerOptions(create=False))


def whole(directory: pathlib.Path) -> list[int]:
    """Epochs with all parts of a checkpoint, ascending."""
    return sorted(int(folder.name) for folder in _numbered(directory) if not lacking(folder))


def lacking(folder: pathlib.Path) -> list[str]:
    """The parts that one epoch's folder lacks."""
    return [item for item in ITEMS if not (folder / item).is_dir()]


def listed(parts: list[str]) -> str:
    """The parts as text: 'a, b and c'."""
    return " and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + parts[-1:])


def _numbered(directory: pathlib.Path) -> list[pathlib.Path]:
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((f for f in found if f.name.isdigit() and f.is_dir()), key=lambda f: int(f.name))


def _set_aside(directory: pathlib.Path) -> None:
    """Rename incomplete epochs: Orbax would count them as checkpoints, and delete complete ones to keep them."""
    for folder in _numbered(directory):
        if parts := lacking(folder):
            names = (folder.with_name(f"{folder.name}.incomplete{i or ''}") for i in itertools.count())
            name = next(name for name in names if not name.exists())
            with contextlib.suppress(FileNotFoundError):  # another process of the run was first
                folder.rename(name)
                warnings.warn(f"{folder} lacks {listed(parts)}; it is now {name.name}.", stacklevel=3)


@contextlib.contextmanager
def _writing(directory: pathlib.Path) -> Iterator[None]:
    """Turn file system errors into `NotSavedError`, with place, cause and remedy; others pass unchanged."""
    try:
        yield
    except NotSavedError:
        raise
    except Exception as error:  # TensorStore raises ValueError, Orbax what its threads raised
        code = _code(error)
        if code is None:
            raise
        kept = whole(directory)
        rest = f"epoch {kept[-1]} is whole" if kept else "no epoch was saved before"
        way_out = remedy(code) or "repair this"
        raise NotSavedError(
            f"a checkpoint could not be saved in {directory} ({os.strerror(code)}): {way_out} and continue with "
            f"--resume; {rest}."
        ) from error


def _is_told_once(record: logging.LogRecord) -> bool:
    """Log filter: drop the long tracebacks that Orbax' threads log, since the errors are raised to the caller too."""
    return not (record.exc_info and "orbax" in record.pathname)


class _WithoutLastWords(NamedTuple):
    """A `sys.unraisablehook` without what TensorStore's threads print after a failed write or read; it is raised too.

    They run on for a while, so it stays in place.
    """

    hook: Callable[[Any], Any]

    def __call__(self, event: Any) -> None:
        if str(event.exc_value) != "Event loop is closed":
            self.hook(event)


def _code(error: Exception) -> int | None:
    """The errno of an error, or None where it is no error of the operating system."""
    if isinstance(error, OSError):
        return error.errno
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(found[1])
    return errno.ENOSPC if "RESOURCE_EXHAUSTED" in str(error) else None
