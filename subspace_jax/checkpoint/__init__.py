"""Checkpoints {variables, state, config}: a run resumes from them bit for bit, any experiment loads the model.

`variables` is what `Model.apply` takes, `state` the rest of the training state and everything that was accumulated,
`config` plain JSON: enough to rebuild the model, its inputs' scale, its labels and its training.
"""

from subspace_jax.checkpoint.folder import Manager, NotSavedError, manager
from subspace_jax.checkpoint.network import epochs, load_model, seeds
from subspace_jax.checkpoint.running import latest_config, restore, resumable_fit, save, versions

__all__ = [
    "Manager", "NotSavedError", "epochs", "latest_config", "load_model", "manager", "restore", "resumable_fit",
    "save", "seeds", "versions",
]  # fmt: skip
