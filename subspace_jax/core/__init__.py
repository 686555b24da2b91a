"""Mathematics on arrays and functions: no framework, no data, no files.

It exports its modules, not their functions, whose short names need the module beside them (`compress.sign`) and occur
twice (`capture.observe`, `quantize.observe`): `from subspace_jax.core import capture`. They load at their first use.
"""

import importlib

__all__ = [
    "capture", "checks", "closures", "compress", "convolution", "costs", "curvature", "exchange", "inference", "keys",
    "likelihood", "losses", "metrics", "moments", "quantize", "roc", "subspace", "topology",
]  # fmt: skip


def __getattr__(name: str):
    """Import a module at its first use."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
