"""Measure, audit, erase, correct and extend what a network remembers, with pure JAX functions that work on any model.

Sub-packages load when they are first used: `import subspace_jax` imports no data, checkpoint or plotting library.
"""

import importlib

__version__ = "0.2.0"

_LAZY = (
    "checkpoint", "compression", "continual", "core", "data", "decentralized", "federated", "hardware", "hierarchy",
    "label_noise", "memorization", "nn", "ood", "parallel", "privacy", "robustness", "spiking", "training", "trees",
    "typing", "unlearning",
)  # fmt: skip


def __getattr__(name: str):
    """Import a sub-package at its first use."""
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(_LAZY)}.")


def __dir__() -> list[str]:
    return sorted((*globals(), *_LAZY))
