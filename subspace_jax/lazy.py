"""Packages whose modules load at their first use, so that importing one stays light."""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType


def modules(package: str, names: Sequence[str]) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: a module of `names` is imported when it is asked for.

    Raises:
      AttributeError: by the first of them, for any other name; it lists those there are.
    """

    def load(name: str) -> ModuleType:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}; there are {', '.join(names)}.")

    return load, lambda: sorted(names)
