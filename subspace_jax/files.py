"""Files that are whole or absent, and what to do where the disk takes no more."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT): "free space",
    (errno.EFBIG,): "free space or raise the limit on file sizes (ulimit -f)",
    (errno.EACCES, errno.EPERM, errno.EROFS): "make the folder writable",
}


class NotSavedError(OSError):
    """A file could not be written; what was there before is intact."""


def remedy(code: int | None) -> str | None:
    """What helps against an errno of writing; None where that is not known."""
    return next((remedy for codes, remedy in REMEDIES.items() if code in codes), None)


@contextlib.contextmanager
def written(path: str | pathlib.Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that has its name once it is whole; where writing fails, what was there before stays.

    Args:
      path: in an existing folder; beside it lies `<name>.partial` meanwhile.
      mode: as `open` takes it: w or wb.

    Raises:
      NotSavedError: a full disk, a limit on file sizes, a folder that may not be written: the cause and the remedy.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open(mode, newline="" if path.suffix == ".csv" else None) as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        _removed(partial)
        raise _advised(path, error) from error


def reserve(path: pathlib.Path) -> None:
    """Take the room on the disk of a file that is to be mapped: a map into a full disk ends the process by SIGBUS.

    Raises:
      NotSavedError: there is not enough; the file is removed.
    """
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        _removed(path)
        raise _advised(path, error) from error


def _removed(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _advised(path: pathlib.Path, error: BaseException) -> BaseException:
    """An error of writing with its remedy; others as they are."""
    if not isinstance(error, OSError) or not (way_out := remedy(error.errno)):
        return error
    return NotSavedError(f"{path} could not be written ({os.strerror(error.errno or 0)}): {way_out}.")
