"""MixUp: train on convex combinations of samples.

A baseline for training with wrong labels; Verifix can correct its networks too.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from subspace_jax.core import losses


@lru_cache(maxsize=64)  # one function object a network, and so one compilation of what uses it
def mixup(train_apply: Callable, *, alpha: float = 0.2) -> Callable:
    """Mean of l CE(f(z), y) + (1 - l) CE(f(z), y') at z = l x + (1 - l) x', with l ~ Beta(alpha, alpha).

    One l per batch, as in the paper's algorithm; x' is the batch permuted, so that a sample may be mixed with itself.

    Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018 (arXiv 1710.09412).

    Args:
      train_apply: (variables, x, key) -> (logits, new batch_stats), as `nn.Model` has it.
      alpha: of the Beta distribution, above 0: near 0 samples are hardly mixed, at 1 l is uniform.

    Returns:
      An objective for `training.minimise`, over float inputs of all its sets together; the same arguments give the same
      function object.

    Raises:
      ValueError: an alpha that is not positive and finite; raised by the objective for inputs that are not floats.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha of the Beta distribution is positive and finite; got {alpha}.")

    def objective(params, batch_stats, batches, constants, key):
        x, y = (jnp.concatenate(parts) for parts in zip(*batches, strict=True))
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"mixup mixes float inputs; got {x.dtype}: scale the pixels first, or in prepare=.")
        share_key, order_key, model_key = jax.random.split(key, 3)
        share = jax.random.beta(share_key, alpha, alpha, dtype=x.dtype)
        other = jax.random.permutation(order_key, len(x))
        mixed = share * x + (1 - share) * x[other]
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, mixed, model_key)
        own, theirs = (losses.mean(losses.softmax_cross_entropy(logits, labels)) for labels in (y, y[other]))
        return share * own + (1 - share) * theirs, batch_stats

    return objective
