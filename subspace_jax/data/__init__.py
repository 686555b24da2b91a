"""Data sets as NumPy arrays, samples identified by position in the original files; scaling, corruption, batches."""

from subspace_jax.data import corrupt, partition, public, subpopulations
from subspace_jax.data.batches import epoch_order, padded, prefetch
from subspace_jax.data.loading import DataSet, class_names, inputs, load, load_splits, splits
from subspace_jax.data.mapped import mapped
from subspace_jax.data.pixels import Scaling, scale, scaling

__all__ = [
    "DataSet", "Scaling", "class_names", "corrupt", "epoch_order", "inputs", "load", "load_splits", "mapped",
    "padded", "partition", "prefetch", "public", "scale", "scaling", "splits", "subpopulations",
]  # fmt: skip
