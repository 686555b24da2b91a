"""Activation shaping: Djurisic, Bozanic, Ashok and Liu, ASH, ICLR 2023.

Of each sample's features only the largest 1 - q are kept, and the energy is that of what is left:

  p: as they are;  s: all of them times exp(sum before / sum after);  b: each set to sum before / number kept.

Nothing is fitted and nothing stored. The features are those after a ReLU, at least 0.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from subspace_jax.core import shares
from subspace_jax.core.checks import check_axes, on_host
from subspace_jax.ood.detectors import Cost, Detector, Outputs, State, check, feature, wide
from subspace_jax.ood.vim import check_width, checked_head
from subspace_jax.typing import Array, Float

KINDS = "s", "b", "p"


@on_host
def ash(head: tuple[Any, Any], *, kind: str = "s", percentile: float = 0.9) -> Detector:
    """The energy of shaped features; p at percentile 0 is the plain energy.

    Args:
      head: (W (d, classes), b (classes,)), the network's last layer.
      kind: "s", "b" or "p".
      percentile: q, the share of the features that is dropped; one stays in any case.

    Raises:
      ValueError: another kind; a percentile outside [0, 1); a head of another shape, or that does not fit the features.
    """
    _check(kind, percentile)
    kernel, bias = checked_head(head)

    def update(sums: Any, outputs: Outputs, labels: Any) -> State:
        check(outputs, labels)
        check_width(feature(outputs), kernel)
        return {"kernel": kernel, "bias": bias}

    def cost(sizes: Any) -> Cost:
        return Cost(2 * sizes.width * sizes.classes + 2 * sizes.width, 0)

    return Detector(update, lambda sums: sums, _score(kind, percentile), cost)


@lru_cache
def _score(kind: str, percentile: float):
    def score(state: State, outputs: Outputs) -> Float[Array, " n"]:
        check(outputs)
        h = wide(feature(outputs))
        shaped = jnp.matmul(shape(h, kind, percentile), state["kernel"], precision="highest")
        return jax.nn.logsumexp(shaped + jnp.asarray(state["bias"])[None], axis=1)

    return score


def shape(h: Float[Any, "n d"], kind: str, percentile: float) -> Float[Array, "n d"]:
    """The features that are left; of equal ones the first are kept.

    Raises:
      ValueError: as `ash`; features that are no (n, d).
    """
    _check(kind, percentile)
    check_axes("features (n, d)", h, 2)
    count = max(shares.kept(h.shape[1], percentile), 1)
    kept, place = jax.lax.top_k(jnp.asarray(h), count)
    before, after = h.sum(axis=1, keepdims=True), kept.sum(axis=1, keepdims=True)
    if kind == "s":
        kept = kept * jnp.exp(jnp.where(after > 0, before / jnp.where(after > 0, after, 1), 1))
    elif kind == "b":
        kept = jnp.broadcast_to(before / count, kept.shape)
    return jnp.zeros_like(h).at[jnp.arange(len(h))[:, None], place].set(kept)


def _check(kind: str, percentile: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}; got {kind!r}.")
    if not 0 <= percentile < 1:
        raise ValueError(f"percentile is the share of features that is dropped, in [0, 1); got {percentile}.")
