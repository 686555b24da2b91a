"""The list of experiments, and the published figures of the system that each one reimplements."""

import importlib
import pathlib
from typing import NamedTuple

ROOMS = pathlib.Path(__file__).parent.parent


class System(NamedTuple):
    """One published system.

    Attributes:
      title: in RESULTS.md.
      source: which figures these are, and where they were published.
      figures: the published values, by the names of our figures.
      runs: <preset>_<data> of every run that RESULTS.md should show.
      omit: a regular expression of the figures that are too many for that page.
    """

    title: str
    source: str
    figures: dict[str, str]
    runs: tuple[str, ...]
    omit: str = "$^"  # matches nothing


def questions() -> list[str]:
    """Names of all experiments: the folders with a `__main__.py`."""
    return sorted(path.parent.name for path in ROOMS.glob("*/__main__.py"))


def numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """The runs in runs/<question>, the newest one last."""
    return sorted((d for d in folder.glob("*") if d.name.isdigit()), key=lambda d: int(d.name))


def system(question: str) -> System:
    """The published system that an experiment reimplements."""
    return importlib.import_module(f"experiments.{question}.published").PUBLISHED
