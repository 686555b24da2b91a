"""What a detector of unknown inputs is: four functions, what they look at, what they cost.

A detector is fitted once, on training data, and then scores samples: HIGHER = KNOWN, whatever the method.

    detector = mahalanobis.mahalanobis()
    state = detector.fit(Outputs(logits, {"penultimate": features}), labels)
    score = detector.score(state, Outputs(new_logits, {"penultimate": new_features}))

Fits run on the host in float64, in one call or a batch at a time; `score` is pure JAX, in float32, and works under
`jit`. A state is a dict of arrays: `np.savez(file, **state)` keeps it, `dict(np.load(file))` is it again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Float, Int

SUM_OF_ONE = 1e-2  # by which probabilities in bfloat16 may miss it
HEAD = "kernel", "bias"  # entries of a state that the network has anyway
State = dict[str, Any]


class Outputs(NamedTuple):
    """What a network says of samples.

    Attributes:
      logits: (n, classes), not probabilities.
      features: by name, a row a sample: "penultimate", the inputs of the last layer, (n, d), and "input", the network's
        inputs, for detectors that ask the network again; {} where a detector looks at logits alone.
    """

    logits: Float[Array | np.ndarray, "n classes"]
    features: dict[str, Any] = {}  # noqa: RUF012


class Sizes(NamedTuple):
    """Of a network and the data its detector was fitted on.

    Attributes:
      classes: number of logits.
      width: features in the penultimate layer.
      samples: fitted on.
      inputs: numbers in an input.
      forward: operations of a forward pass, a product and a sum counting two.
    """

    classes: int
    width: int
    samples: int
    inputs: int
    forward: float


class Cost(NamedTuple):
    """What a detector costs per sample.

    Attributes:
      flops: operations beside the one forward pass that gives logits and features: products and sums, leading terms.
      floats: stored numbers that the network has not got.
      passes: forward passes in all; a gradient in the input counts as one.
    """

    flops: float
    floats: int
    passes: int = 1


class Detector(NamedTuple):
    """A method as four functions.

    Attributes:
      update: (sums or None, outputs, labels) -> sums, for one batch of training data more.
      finish: sums -> state.
      score: (state, outputs) -> (n,), higher = known. The same object for the same hyper-parameters: compiled once.
      cost: Sizes -> Cost.
    """

    update: Callable[[Any, Outputs, Any], Any]
    finish: Callable[[Any], State]
    score: Callable[[State, Outputs], Float[Array, " n"]]
    cost: Callable[[Sizes], Cost]

    def fit(self, outputs: Outputs, labels: Int[Any, " n"]) -> State:
        """The state from all training data at once.

        Raises:
          ValueError: logits that are not finite or are probabilities, labels that are no classes, other lengths.
        """
        checks.check_host("a fit", outputs, labels)
        return self.finish(self.update(None, outputs, labels))


def check(outputs: Outputs, labels: Any = None) -> None:
    """Refuse outputs that no score has a meaning for; under `jit` only shapes are checked.

    Raises:
      ValueError: logits that are no (n, classes) of at least 2 classes, not finite, or probabilities; features and
        labels of another length; labels outside the classes.
    """
    logits = outputs.logits
    if np.ndim(logits) != 2 or np.shape(logits)[1] < 2:
        raise ValueError(f"logits are (n, classes) of at least 2 classes; got shape {np.shape(logits)}.")
    checks.check_lengths(logits=logits, **outputs.features)
    checks.check_finite("logits", logits)
    if checks.is_known(logits) and len(logits):
        rows = checks.as_real("logits", logits, np.float32)
        if (rows >= 0).all() and (abs(rows.sum(axis=1) - 1) < SUM_OF_ONE).all():
            raise ValueError("every row of logits sums to 1: these are probabilities; give the inputs of the softmax.")
    if labels is not None:
        checks.check_labels(labels, np.shape(logits)[1])
        checks.check_lengths(logits=logits, labels=labels)


def feature(outputs: Outputs, name: str = "penultimate") -> Any:
    """The named features, (n, d) for "penultimate".

    Raises:
      ValueError: there are none of this name, or they are no rows.
    """
    if name not in outputs.features:
        there = ", ".join(outputs.features) or "none"
        raise ValueError(f"this detector looks at the features {name!r}; there are {there}: Outputs(logits, {{...}}).")
    found = outputs.features[name]
    if name == "penultimate" and np.ndim(found) != 2:
        raise ValueError(f"penultimate features are rows (n, d); got shape {np.shape(found)}: pool or flatten them.")
    return found


def rows(name: str = "penultimate") -> Callable:
    """An `update` that keeps the named features and the logits as they come, as (features, logits) of each batch."""

    def update(sums: Any, outputs: Outputs, labels: Any) -> tuple:
        check(outputs, labels)
        kept = checks.as_real(name, feature(outputs, name), np.float32)
        checks.check_finite(name, kept)
        return (*(sums or ()), (kept, np.asarray(outputs.logits, np.float32)))

    return update


def together(sums: tuple) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n classes"]]:
    """Features and logits of all batches that `rows` kept, in float64."""
    features, logits = (np.concatenate(parts).astype(np.float64) for parts in zip(*sums, strict=True))
    return features, logits


def stored(state: State) -> int:
    """How many numbers a state holds, without the network's own last layer."""
    return sum(np.size(leaf) for name, leaf in state.items() if name not in HEAD)


def wide(values: Any) -> Array:
    """A JAX array in float32 or wider."""
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
