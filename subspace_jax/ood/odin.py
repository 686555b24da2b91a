"""ODIN: Liang, Li and Srikant, ICLR 2018.

s = max softmax(z(x~) / T) with x~ = x - e sign(grad_x CE(z(x) / T, argmax z)): a small step that makes the network
surer, more so for known inputs. Three passes: forward, gradient in the input, forward.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks, losses
from subspace_jax.ood.detectors import Cost, Detector, Outputs, Sizes, State, check, feature
from subspace_jax.ood.scores import check_temperature, log_odds
from subspace_jax.typing import ApplyFn, Array, Float, Variables

TEMPERATURE, STEP = 1000.0, 0.0014  # of the paper; its images are in [0, 1]


def odin(
    apply: Callable[[Any], Any], *, temperature: float = TEMPERATURE, step: float = STEP, std: Any = 1.0
) -> Detector:
    """The score above, as `scores.msp` gives it, of outputs with the features "input": the network's inputs.

    Args:
      apply: inputs -> logits (n, classes), in inference mode: your network with its parameters.
      temperature: T.
      step: e, in pixels of [0, 1].
      std: by which pixels were divided, per channel or one number, so that the step is one of the same pixels.

    Raises:
      ValueError: a temperature, step or std that is not positive and finite; inputs that are not floats.
    """
    check_settings(temperature, step, std)

    def update(sums: Any, outputs: Outputs, labels: Any) -> State:
        check(outputs, labels)
        return {"temperature": np.float32(temperature), "step": np.float32(step)}

    def score(state: State, outputs: Outputs) -> Float[Array, " n"]:
        check(outputs)
        x = feature(outputs, "input")
        return _score(lambda _, x: apply(x), None, x, state["temperature"], state["step"], std)

    return Detector(update, lambda sums: sums, score, _cost)


def confidence(
    apply: ApplyFn, variables: Variables, x: Any, *, temperature: float = TEMPERATURE, step: float = STEP,
    std: Any = 1.0,
) -> Float[Array, " n"]:  # fmt: skip
    """The score of inputs x by apply(variables, x), for programs that are compiled once for many networks.

    Args:
      apply: (variables, inputs) -> logits, in inference mode.
      variables: what it takes.
      x: inputs as the network sees them.
      temperature: as for `odin`, as are step and std.
      step: see temperature.
      std: see temperature.

    Raises:
      ValueError: as `odin`.
    """
    check_settings(temperature, step, std)
    return _score(apply, variables, x, temperature, step, std)


def check_settings(temperature: float, step: float, std: Any = 1.0) -> None:
    """Refuse a temperature, a step or a deviation that is not positive and finite.

    Raises:
      ValueError: names the value.
    """
    check_temperature(temperature)
    if not 0 < step < float("inf"):
        raise ValueError(f"step is the change of a pixel, in (0, inf); got {step}.")
    if checks.is_known(std) and not ((np.asarray(std) > 0) & (np.asarray(std) < np.inf)).all():
        raise ValueError(f"std divided the pixels, in (0, inf); got {std}.")


def _score(apply: ApplyFn, variables: Variables, x: Any, temperature: Any, step: Any, std: Any) -> Float[Array, " n"]:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"odin moves inputs as the network sees them; got {x.dtype}: scale the pixels first.")

    def surprise(x: Any) -> Any:
        logits = apply(variables, x)
        chosen = jax.lax.stop_gradient(logits.argmax(axis=1))
        return losses.softmax_cross_entropy(logits / temperature, chosen).sum()

    pixel = jnp.reshape(jnp.asarray(std, x.dtype), (1,) * (x.ndim - 1) + (-1,))
    return log_odds(apply(variables, x - step * jnp.sign(jax.grad(surprise)(x)) / pixel), temperature)


def _cost(sizes: Sizes) -> Cost:
    return Cost(2 * sizes.forward + 3 * sizes.inputs, 2, passes=3)
