"""Checkpoints {variables, state, config}: a run resumes from them bit for bit, any experiment loads the model.

`variables` is what `Model.apply` takes, `state` the rest of the training state and the carries of the hooks, `config`
plain JSON: enough to rebuild the model, the scaling of its inputs, its labels and its training.

The library that writes them loads when the first of these functions is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subspace_jax.checkpoint.folder import Manager, NotSavedError, manager
    from subspace_jax.checkpoint.network import epochs, load_config, load_model, seeds
    from subspace_jax.checkpoint.running import latest_config, restore, resumable_fit, save, versions

PLACES = {
    "folder": ("Manager", "NotSavedError", "manager"),
    "network": ("epochs", "load_config", "load_model", "seeds"),
    "running": ("latest_config", "restore", "resumable_fit", "save", "versions"),
}
__all__ = [
    "Manager", "NotSavedError", "epochs", "latest_config", "load_config", "load_model", "manager", "restore",
    "resumable_fit", "save", "seeds", "versions",
]  # fmt: skip


def __getattr__(name: str):
    """Load a function with its module at its first use."""
    for module, names in PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
