"""The questions there are, and what was published of the system that each reimplements."""

import importlib
import pathlib
from typing import NamedTuple

ROOMS = pathlib.Path(__file__).parent.parent


class System(NamedTuple):
    """One published system.

    Attributes:
      title: in RESULTS.md.
      source: which figures these are, and where they were published.
      figures: the published ones by our names.
      runs: <preset>_<data> of every run that RESULTS.md should show.
    """

    title: str
    source: str
    figures: dict[str, str]
    runs: tuple[str, ...]


def questions() -> list[str]:
    """Every question by name: the folders that are commands."""
    return sorted(path.parent.name for path in ROOMS.glob("*/__main__.py"))


def system(question: str) -> System:
    """What was published of it."""
    return importlib.import_module(f"experiments.{question}.published").PUBLISHED
