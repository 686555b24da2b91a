"""Training without a server: agents with data of their own, who exchange with their neighbours in a graph.

Every method is an `Algorithm` for ONE agent, written against `core.exchange.Comm`; `core.exchange.vmap`, `pmap` and
`shard_map` run it for all. `methods` has them by name, `protocol` runs one from its start to its end.

Modules load when they are first used: `protocol` needs the library that writes checkpoints, the methods do not.
"""

import importlib

__all__ = [
    "cga", "choco_sgd", "codes", "deep_squeeze", "gossip", "low_precision", "methods", "ngc", "protocol", "push_sum",
    "qgm", "state", "train",
]  # fmt: skip


def __getattr__(name: str):
    """Import a module at its first use."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
