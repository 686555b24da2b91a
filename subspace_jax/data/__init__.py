"""Images as NumPy arrays, named by position in the original files; their scale, their corruption, their batches."""

from subspace_jax.data import corrupt, partition
from subspace_jax.data.batches import epoch_order, padded, prefetch
from subspace_jax.data.loading import load
from subspace_jax.data.pixels import Scaling, scale, scaling

__all__ = ["Scaling", "corrupt", "epoch_order", "load", "padded", "partition", "prefetch", "scale", "scaling"]
