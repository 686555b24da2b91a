"""Neighbourhood-preserving layer: an input becomes the weighted mean of the embeddings of its nearest table entries.

v = sum_i w_i E_i over the k entries R_i nearest to h, w = softmax(-s / tau) with s_i = ||h - R_i||^2.
v lies in the hull of k embeddings, and its gradient is bounded by their spread times the radius of the neighbourhood.
Neighbours change from place to place, where v jumps: gradients then mislead an attack. Liu, Malon, Xue and Kruus,
arXiv 2101.11766; the form of tau is ours.
"""

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Float, Int

Weighting = Literal["adaptive", "constant", "umap"]
Rows = Float[Array | np.ndarray, "b d"]
Positions = Float[Array | np.ndarray, "entries d"]
Embeddings = Float[Array | np.ndarray, "entries width"]
Chosen = Float[Array, "b k"]
TINY = 1e-12  # of squared distances: a table entry may be the input itself
MANY = 4  # times as many entries as neighbours: fewer, and copies of the neighbours cost more than a product
BISECTIONS = 20  # of the width of a UMAP neighbourhood


class Neighbors(NamedTuple):
    """The table entries that decide an input, nearest first.

    Attributes:
      index: their numbers, (b, k).
      weight: at least 0, with sum 1, (b, k).
      distance: squared, (b, k).
    """

    index: Int[Array, "b k"]
    weight: Chosen
    distance: Chosen


class Neighborhood(nn.Module):
    """The layer, for one's own network: embeddings are trained, positions are statistics that a caller refreshes.

    Attributes:
      entries: of the table, at least `neighbors`.
      width: of the output.
      neighbors: k.
      weighting: see `neighborhood`.

    Raises:
      ValueError: more neighbours than entries.
    """

    entries: int = 500
    width: int = 16
    neighbors: int = 10
    weighting: Weighting = "adaptive"

    @nn.compact
    def __call__(self, h: Rows) -> Float[Array, "b width"]:
        """(b, d) -> (b, width)."""
        draw = nn.initializers.lecun_normal()
        embedding = self.param("embedding", draw, (self.entries, self.width))
        position = self.variable("batch_stats", "position", jnp.zeros, (self.entries, h.shape[1]))
        if self.is_initializing():
            position.value = draw(self.make_rng("params"), position.value.shape)
        found, _ = neighborhood(
            h, position.value, embedding, neighbors=self.neighbors, weighting=self.weighting,
        )  # fmt: skip
        return found


def neighborhood(
    h: Rows, position: Positions, embedding: Embeddings, *, neighbors: int,
    weighting: Weighting = "adaptive", tau: Any = 1.0, held: bool = True, chunk: int | None = None,
) -> tuple[Float[Array, "b width"], Neighbors]:  # fmt: skip
    """V and what decided it. The set of neighbours is constant under differentiation.

    Of entries that are equally near, such as copies, those of lower number count as nearer.

    Args:
      h: inputs.
      position: R, in the space of h.
      embedding: E.
      neighbors: k; with k = entries this is softmax attention with keys R.
      weighting: "adaptive" takes tau times half the mean squared distance of the neighbours, which no scale of h
        changes; "constant" tau itself; "umap" exp(-max(0, ||h - R_i|| - nearest) / width), the width such that they
        sum to log2 k.
      tau: the factor, or the constant.
      held: whether adaptive widths are constant under differentiation; an attack may differentiate them.
      chunk: entries whose distances are held at a time; all when None.

    Raises:
      ValueError: k outside [1, entries], shapes that do not fit, another weighting; inputs or positions that are not
        finite.
    """
    check_table(h, position, embedding, neighbors)
    h, position, embedding = (jnp.asarray(part) for part in (h, position, embedding))
    if checks.is_known(tau) and not 0 < tau < float("inf"):
        raise ValueError(f"tau divides the distances, above 0 and finite; got {tau}.")
    index = nearest(jax.lax.stop_gradient(h), jax.lax.stop_gradient(position), neighbors, chunk=chunk)
    distance = _distances(h, position, index)
    weight = jax.nn.softmax(_logits(distance, weighting, tau, held), axis=1)
    return jnp.einsum("bk,bkw->bw", weight, embedding[index]), Neighbors(index, weight, distance)


def nearest(h: Rows, position: Positions, neighbors: int, *, chunk: int | None = None) -> Int[Array, "b k"]:
    """Numbers of the k nearest entries, nearest first, the lower number of equally near ones.

    Raises:
      ValueError: k outside [1, entries]; values that are not finite, where they are known.
    """
    checks.check_finite("h", h)
    checks.check_finite("position", position)
    if not 1 <= neighbors <= len(position):
        raise ValueError(f"neighbors are 1 to {len(position)}, the entries of the table; got {neighbors}.")
    h, position, entries = jnp.asarray(h), jnp.asarray(position), len(position)
    size = min(chunk or entries, entries)
    if size == entries:
        return jax.lax.top_k(_nearness(h, position), neighbors)[1]

    def update(best: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
        rows = start + jnp.arange(size)
        score = _nearness(h, position[jnp.minimum(rows, entries - 1)])
        score = jnp.where(rows[None] < entries, score, -jnp.inf)
        values = jnp.concatenate([best[0], score], axis=1)
        numbers = jnp.concatenate([best[1], jnp.broadcast_to(rows[None], score.shape)], axis=1)
        values, at = jax.lax.top_k(values, neighbors)
        return (values, jnp.take_along_axis(numbers, at, axis=1)), None

    blank = jnp.full((len(h), neighbors), -jnp.inf, h.dtype), jnp.zeros((len(h), neighbors), jnp.int32)
    return jax.lax.scan(update, blank, jnp.arange(0, entries, size))[0][1]


def log_memberships(distance: Chosen, *, held: bool = True) -> Chosen:
    """-max(0, length - nearest) / width of UMAP, 0 for the nearest; the width such that they sum to log2 k."""
    checks.check_axes("distances (b, k)", distance, 2)
    length = jnp.sqrt(jnp.maximum(distance, TINY))
    beyond = jnp.maximum(length - _held(length[:, :1], held), 0)
    return -beyond / _held(_width(beyond), held)


def check_table(h: Any, position: Any, embedding: Any, neighbors: int) -> None:
    """Refuse a table that does not fit.

    Raises:
      ValueError: names the sizes, or the first value that is not finite.
    """
    for name, part in (("inputs of the layer", h), ("positions of the table", position)):
        checks.check_axes(name, part, 2)
    entries, width = position.shape
    if len(embedding) != entries:
        raise ValueError(f"a table has as many positions as embeddings; got {entries} and {len(embedding)}.")
    if h.shape[1] != width:
        raise ValueError(f"the table holds positions of width {width}; the layer reads {h.shape[1]}: make it anew.")
    if not 1 <= neighbors <= entries:
        raise ValueError(f"neighbors are 1 to {entries}, the entries of the table; got {neighbors}.")
    checks.check_finite("inputs of the layer", h, remedy="the encoder diverged, or its parameters are not finite")
    checks.check_finite("positions of the table", position, remedy="make the table anew")
    checks.check_finite("embeddings of the table", embedding, remedy="make the table anew")


def _nearness(h: Array, position: Array) -> Array:
    """-s, up to |h|^2, which all entries share."""
    return 2 * jnp.matmul(h, position.T, precision="highest") - (position**2).sum(1)[None]


def _distances(h: Rows, position: Array, index: Array) -> Chosen:
    """Squared, of differences, in which nothing cancels; of many neighbours by a product, without their copies."""
    if MANY * index.shape[1] < len(position):
        return ((h[:, None] - position[index]) ** 2).sum(2)
    product = jnp.matmul(h, position.T, precision="highest")
    squares = (h**2).sum(1)[:, None] + (position**2).sum(1)[None] - 2 * product
    return jnp.maximum(jnp.take_along_axis(squares, index, axis=1), 0)


def _logits(distance: Chosen, weighting: str, tau: Any, held: bool) -> Chosen:
    if weighting == "adaptive":
        return -distance / (tau * _held(jnp.maximum(distance.mean(1, keepdims=True) / 2, TINY), held))
    if weighting == "constant":
        return -distance / tau
    if weighting != "umap":
        raise ValueError(f"there is no weighting {weighting!r}; there are adaptive, constant, umap.")
    return log_memberships(distance, held=held)


def _held(x: Array, held: bool) -> Array:
    return jax.lax.stop_gradient(x) if held else x


def _width(beyond: Chosen) -> Array:
    """The width at which sum exp(-beyond / width) = log2 k, by bisection, (b, 1)."""
    target = math.log2(beyond.shape[1]) if beyond.shape[1] > 1 else 1.0
    most = jnp.maximum(beyond.max(1, keepdims=True), TINY)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        large = jnp.exp(-beyond / middle).sum(1, keepdims=True) > target
        return jnp.where(large, low, middle), jnp.where(large, middle, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (1e-3 * most, 100 * most))
    return (low + high) / 2
