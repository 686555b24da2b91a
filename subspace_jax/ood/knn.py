"""Distance to the k-th nearest training sample: Sun, Ming, Zhu and Li, ICML 2022.

s = -|| h/||h|| - b_(k) || with b_(k) the k-th nearest of the normalised training features. It keeps all of them: n d
numbers, the price of a detector that assumes nothing of the features.
"""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.ood.detectors import Cost, Detector, Outputs, State, check, feature, rows, together, wide
from subspace_jax.typing import Array, Float

CHUNK = 256  # samples whose distances to all training samples are held at a time
TINY = 1e-30  # a feature vector of zeros has no direction


def knn(*, k: int = 50) -> Detector:
    """The negative distance to the k-th nearest training sample, in [-2, 0].

    In float32 a training sample is within 2e-3 of itself.

    Args:
      k: which neighbour.

    Raises:
      ValueError: k below 1; by `finish`, fewer than k training samples.
    """
    if not k >= 1:
        raise ValueError(f"k numbers the neighbours from 1; got {k}.")

    def finish(sums: tuple) -> State:
        features, _ = together(sums)
        if len(features) < k:
            raise ValueError(f"there is no neighbour number {k} among {len(features)} training samples: lower k.")
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return {"bank": (features / np.maximum(lengths, TINY)).astype(np.float32)}

    return Detector(
        rows(), finish, _score(k), lambda sizes: Cost(2 * sizes.samples * sizes.width, sizes.samples * sizes.width)
    )


@lru_cache
def _score(k: int):
    def score(state: State, outputs: Outputs) -> Float[Array, " n"]:
        check(outputs)
        h = wide(feature(outputs))
        unit = h / jnp.maximum(jnp.linalg.norm(h, axis=1, keepdims=True), TINY)
        return -_kth_distance(jnp.asarray(state["bank"]), unit, k)

    return score


@partial(jax.jit, static_argnums=2)
def _kth_distance(bank: Float[Array, "n d"], unit: Float[Array, "b d"], k: int) -> Float[Array, " b"]:
    def one(row: Float[Array, " d"]) -> Float[Array, ""]:
        cosines = jnp.matmul(bank, row, precision="highest")
        return jnp.sqrt(jnp.maximum(2 - 2 * jax.lax.top_k(cosines, k)[0][-1], 0))  # rounding may pass 1

    return jax.lax.map(one, unit, batch_size=CHUNK)
