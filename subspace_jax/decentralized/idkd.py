"""IDKD: agents label common samples, each those that look like its own data, and all train on one another's labels.

Every agent has samples of its own, mostly of a few classes, and all have the same unlabelled ones, `common`. Late in
the training (1) each agent predicts the common samples with its own model and gives the softmax as label to those whose
maximum probability reaches a threshold of its own; (2) neighbours exchange these labels, but no samples; (3) all go on
by the same method and the same number of steps, on batches from own and labelled common samples together. The classes
that the agents train on are then more alike.

`idkd` makes any decentralized method such an algorithm, `draw` gives its batches (for `train.trainer` and
`protocol.run`); `labelling.homogenizer` does (1) and (2) between two parts of the training. Before it, and where
nothing is labelled, the training is that of the method alone, bit for bit.

Ravikumar et al., "Homogenizing non-IID datasets via in-distribution knowledge distillation for decentralized learning",
TMLR 2024.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax.core import losses
from subspace_jax.core.checks import check_real
from subspace_jax.core.keys import as_key
from subspace_jax.decentralized.state import State
from subspace_jax.typing import Algorithm, Array, Bool, Float, Key, PyTree


class Memory(NamedTuple):
    """What an agent carries from step to step.

    Attributes:
      base: memory of the method below.
      labels: of the common samples, zeros where there is none.
      covered: which of them have a label.
    """

    base: PyTree
    labels: Float[Array, "samples classes"]
    covered: Bool[Array, " samples"]


def idkd(base: Algorithm, *, samples: int, classes: int) -> Algorithm:
    """A decentralized method whose agents also learn from labels of common samples; none is labelled at the start.

    Args:
      base: of `decentralized.methods` or alike, with a loss for batches (x, class distributions), see `distillation`.
      samples: number of common samples.
      classes: number of classes.

    Raises:
      ValueError: no samples, or fewer than two classes.
    """
    if samples < 1 or classes < 2:
        raise ValueError(f"labels are of at least 1 sample and 2 classes; got {samples} and {classes}.")

    def init(key, variables):
        state = base.init(key, variables)
        return state._replace(memory=Memory(state.memory, jnp.zeros((samples, classes)), jnp.zeros(samples, bool)))

    def step(key, state, batch):
        memory = state.memory
        state, info = base.step(key, state._replace(memory=memory.base), batch)
        return state._replace(memory=memory._replace(base=state.memory)), info

    return Algorithm(init, step)


@lru_cache(maxsize=64)  # one function object per network, and so one compilation
def distillation(train_apply: Callable) -> Callable:
    """The loss of a classifier that learns class distributions: mean cross-entropy in train mode over a batch (x, p).

    Args:
      train_apply: (variables, x, key) -> (logits, new batch_stats), as `nn.Model` has it.
    """

    def loss(params, batch_stats, batch, key):
        x, p = batch
        check_real("distillation", {"p": p.dtype})
        logits, batch_stats = train_apply({"params": params, "batch_stats": batch_stats}, x, key)
        return losses.mean(losses.soft_cross_entropy(logits, p.astype(logits.dtype))), batch_stats

    return loss


def draw(
    key: Key[Array, ""], state: State, sets: tuple[Array, Array], common: Array, batch: int
) -> tuple[Array, Float[Array, "batch classes"]]:
    """A batch (x, class distributions) from an agent's own and its labelled common samples, all with the same chance.

    The inverse of their cumulative number, at random integers: without a labelled sample these are the rows that
    `train.uniform` draws by this key, whatever the number of common samples.

    Args:
      key: of this batch.
      state: of one agent, whose memory is a `Memory`.
      sets: own samples (n, ...) and their classes (n,).
      common: samples (samples, ...), in their order at all agents.
      batch: samples to draw, with replacement.
    """
    (x, y), memory = sets, state.memory
    count = jnp.cumsum(memory.covered, dtype=jnp.int32)
    drawn = jax.random.randint(as_key(key), (batch,), 0, len(x) + count[-1])
    own = drawn < len(x)
    mine, other = jnp.minimum(drawn, len(x) - 1), jnp.searchsorted(count, drawn - len(x), side="right")
    other = jnp.minimum(other, len(common) - 1)
    given = jax.nn.one_hot(y[mine], memory.labels.shape[1], dtype=memory.labels.dtype)
    p = jnp.where(own[:, None], given, memory.labels[other])
    return jnp.where(own.reshape(-1, *(1,) * (x.ndim - 1)), x[mine], common[other]), p
