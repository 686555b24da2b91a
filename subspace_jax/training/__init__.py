"""Training and scoring: one jitted step, whole runs, many models at once, a score for every sample of a data set."""

from subspace_jax.training.adversarial import adversarial, attacked
from subspace_jax.training.augment import crop_flip, prepare
from subspace_jax.training.fit import Hook, epoch_of, fit, initial_carries, train_epoch
from subspace_jax.training.many import train_many
from subspace_jax.training.minimise import mean_loss, minimise, repeat
from subspace_jax.training.recipe import Recipe, optimizer
from subspace_jax.training.scoring import evaluate, predict, score_dataset
from subspace_jax.training.state import TrainState, create, train_step, variables

__all__ = [
    "Hook", "Recipe", "TrainState", "adversarial", "attacked", "create", "crop_flip", "epoch_of", "evaluate", "fit",
    "initial_carries", "mean_loss", "minimise", "optimizer", "predict", "prepare", "repeat", "score_dataset",
    "train_epoch", "train_many", "train_step", "variables",
]  # fmt: skip
