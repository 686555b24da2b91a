"""The table of a neighbourhood-preserving layer: how it is made, follows its inputs, and what bounds its gradient.

The layer itself is `nn.layers.neighborhood`. Liu, Malon, Xue and Kruus, Improving neural network robustness through
neighborhood preserving layers, arXiv 2101.11766; UMAP's curve and constants by McInnes et al., arXiv 1802.03426.
"""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.core.keys import as_key
from subspace_jax.nn.layers.neighborhood import (
    Embeddings,
    Neighbors,
    Positions,
    Rows,
    log_memberships,
    nearest,
    neighborhood,
)
from subspace_jax.typing import Array, Float, Int, Key

A, B = 1.577, 0.895  # of UMAP's curve 1 / (1 + a d^2b)
APART = 1e-4  # keeps the repulsion of equal points finite
TINY = 1e-12


class Table(NamedTuple):
    """What a layer looks up.

    Attributes:
      position: R, (entries, d).
      embedding: E, (entries, width).
      source: training samples that the entries come from, (entries,).
    """

    position: Float[Array, "entries d"]
    embedding: Float[Array, "entries width"]
    source: Int[np.ndarray, " entries"]


@checks.on_host
def initial_table(
    key: Key[Array, ""], features: Float[Any, "n d"], labels: Int[Any, " n"], embeddings: Float[Any, "n width"], *,
    entries: int = 500,
) -> Table:  # fmt: skip
    """A table of training samples, as many of each class as it can hold, drawn by the key.

    It warns of a class without an entry, and of entries that are no nearer within a class than between classes: their
    encoder was not trained.

    Args:
      key: of the draw.
      features: h of every training sample.
      labels: their classes.
      embeddings: what the layer should give for them, such as a dense layer's outputs.
      entries: at most the number of samples.

    Raises:
      ValueError: no entry, or more than samples; features that are not finite.
    """
    key = as_key(key)
    checks.check_data(features, labels)
    if not 1 <= entries <= len(labels):
        raise ValueError(f"entries of a table are 1 to {len(labels)}, the number of samples; got {entries}.")
    labels = np.asarray(labels)
    if entries < len(kinds := np.unique(labels)):
        warnings.warn(f"{entries} entries cannot hold all {len(kinds)} classes.", stacklevel=2)
    order = np.asarray(jax.random.permutation(key, len(labels)))
    place = np.empty(len(labels), int)
    for kind in kinds:  # the number of a sample within its class, in the order of the draw
        mine = order[labels[order] == kind]
        place[mine] = np.arange(len(mine))
    source = order[np.argsort(place[order], kind="stable")][:entries]
    _warn_of_noise(np.asarray(features)[source], labels[source])
    return Table(jnp.asarray(features)[source], jnp.asarray(embeddings)[source], source)


def moving_average(
    position: Float[Array, "entries d"], h: Rows, found: Neighbors, *, rho: float = 0.05
) -> Float[Array, "entries d"]:
    """R_i <- R_i + (1 - (1 - rho)^s_i) (sum_b w_bi h_b / s_i - R_i), s_i = sum_b w_bi: towards the inputs that use it.

    An entry that no input uses stays; so does every entry for rho = 0.

    Raises:
      ValueError: rho outside [0, 1).
    """
    if not 0 <= rho < 1:
        raise ValueError(f"rho is the share by which one use moves an entry, in [0, 1); got {rho}.")
    checks.check_real("a table", {"h": h.dtype})
    used = jnp.zeros(len(position), h.dtype).at[found.index].add(found.weight)
    pulled = jnp.zeros_like(position).at[found.index].add(found.weight[..., None] * h[:, None])
    mean = pulled / jnp.maximum(used, TINY)[:, None]
    step = jnp.where(used > 0, 1 - (1 - rho) ** used, 0)[:, None]
    return position + step * (mean - position)


def jacobian_bound(
    h: Rows, position: Positions, embedding: Embeddings, *, neighbors: int, tau: float,
) -> Float[Array, " b"]:  # fmt: skip
    """(2 / tau) max_i ||E_i - v|| max_i ||R_i - mean R||: at least the spectral norm of dv/dh, for constant tau.

    Raises:
      ValueError: as `neighborhood`; a tau that is not above 0.
    """
    if not 0 < tau < np.inf:
        raise ValueError(f"tau divides the distances, above 0 and finite; got {tau}.")
    v, found = neighborhood(h, position, embedding, neighbors=neighbors, weighting="constant", tau=tau)
    near = position[found.index]
    mean = jnp.einsum("bk,bkd->bd", found.weight, near)
    spread = jnp.linalg.norm(embedding[found.index] - v[:, None], axis=2).max(1)
    return 2 / tau * spread * jnp.linalg.norm(near - mean[:, None], axis=2).max(1)


def neighbor_loss(
    key: Key[Array, ""], h: Rows, v: Float[Array, "b width"], *, neighbors: int = 10, negatives: int = 5
) -> Float[Array, ""]:
    """UMAP's cross-entropy of a batch: neighbours of h, which is held, attract in v, random pairs repel.

    -mean p log q over the k neighbours, less mean log(1 - q + 1e-4) over `negatives` random others, with
    q = 1 / (1 + 1.577 ||v_i - v_j||^1.79), p the symmetrised memberships p + p' - p p'.

    Args:
      key: of the random pairs.
      h: what the layer reads.
      v: what it gives.
      neighbors: k, below the batch.
      negatives: random others of each sample.

    Raises:
      ValueError: a batch of k samples or fewer, no negatives.
    """
    key, count = as_key(key), len(h)
    checks.check_count("negatives", negatives)
    if not 1 <= neighbors < count:
        raise ValueError(f"a batch of {count} has {count - 1} neighbours a sample at most; got neighbors={neighbors}.")
    h, own = jax.lax.stop_gradient(h), jnp.eye(count, dtype=bool)
    distance, index = jax.lax.top_k(-jnp.where(own, jnp.inf, _squares(h, h)), neighbors)
    rows = jnp.arange(count)[:, None]
    member = jnp.zeros((count, count), h.dtype).at[rows, index].set(jnp.exp(log_memberships(-distance)))
    member = member + member.T - member * member.T
    log_q = -jnp.log1p(A * _squares(v, v) ** B)
    others = jax.random.randint(key, (count, negatives), 0, count)
    apart = 1 / (1 + A * jnp.maximum(((v[:, None] - v[others]) ** 2).sum(2), TINY) ** B)
    return -(member * log_q).sum() / count - jnp.log(1 - apart + APART).sum(1).mean()


def drift(h: Rows, position: Float[Array, "entries d"]) -> Float[Array, ""]:
    """Mean distance of inputs to their nearest entry over that of entries to theirs; above 2 refresh the table.

    An encoder that moved away from its table gives flat weights and a silent loss of accuracy.

    Raises:
      ValueError: no inputs, or inputs that are not finite.
    """
    checks.check_filled("inputs of the layer", h)
    closest = position[nearest(h, position, 1)[:, 0]]
    second = position[nearest(position, position, 2)[:, 1]]
    far, spacing = (jnp.linalg.norm(a - b, axis=1).mean() for a, b in ((h, closest), (position, second)))
    return far / jnp.maximum(spacing, TINY)


def _warn_of_noise(position: np.ndarray, labels: np.ndarray) -> None:
    position = checks.as_real("features", position)
    rows = position - position.mean(0, keepdims=True)
    squares = (rows**2).sum(1)
    far = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * rows @ rows.T, 0))
    same = labels[:, None] == labels[None]
    within, between = far[same & ~np.eye(len(far), dtype=bool)], far[~same]
    if len(within) and len(between) and within.mean() >= between.mean():
        warnings.warn(
            f"entries of one class lie {within.mean():.3g} apart, those of two {between.mean():.3g}: is the encoder "
            "trained, and do labels belong to features?",
            stacklevel=3,
        )


def _squares(a: Rows, b: Rows) -> Array:
    return jnp.maximum(((a[:, None] - b[None]) ** 2).sum(2), TINY)
