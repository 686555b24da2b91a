"""Virtual-logit matching: Wang, Li, Feng and Zhang, ViM, CVPR 2022.

s = logsumexp(z) - alpha ||N'(h - o)||: the energy less the length of the features outside the space of the largest
D directions, seen from the origin o = -W^+ b where all logits are zero. alpha = mean max z / mean ||N'(h - o)|| on
training data makes both as large.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.ood.detectors import Cost, Detector, Outputs, Sizes, State, check, feature, rows, together, wide
from subspace_jax.typing import Array, Float

MOST = 256  # dimensions of the main space, where they are not given


@checks.on_host
def vim(head: tuple[Any, Any], *, dim: int | None = None) -> Detector:
    """The score above.

    Args:
      head: (W (d, classes), b (classes,)) with z = h W + b, the network's last layer.
      dim: D, the dimensions kept out of the residual; half of the features, at most 256, when None.

    Raises:
      ValueError: a head of another shape; dim outside [0, d); by `finish`, features of another width than the head.
    """
    kernel, bias = checked_head(head)
    width = len(kernel)
    main = min(MOST, width // 2) if dim is None else dim
    if not 0 <= main < width:
        raise ValueError(f"dim is the dimensions of the main space, in [0, {width}); got {dim}.")

    def finish(sums: tuple) -> State:
        features, logits = together(sums)
        check_width(features, kernel)
        origin = -np.linalg.pinv(kernel.T.astype(np.float64)) @ bias.astype(np.float64)
        seen = features - origin
        null = np.linalg.eigh(seen.T @ seen)[1][:, : width - main]
        rest = np.linalg.norm(seen @ null, axis=1).mean()
        if not rest > 0:
            raise ValueError(f"all training features lie in {main} dimensions: there is no residual; lower dim.")
        state = {"origin": origin, "null": null, "alpha": logits.max(axis=1).mean() / rest}
        return {name: np.asarray(values, np.float32) for name, values in state.items()}

    def cost(sizes: Sizes) -> Cost:
        left = sizes.width - main
        return Cost(2 * sizes.width * left + 4 * sizes.classes, sizes.width * left + sizes.width + 1)

    return Detector(rows(), finish, _score, cost)


@checks.on_host
def checked_head(head: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """W and b of a last layer as float32.

    Raises:
      ValueError: shapes that do not fit, values that are not finite.
    """
    kernel, bias = (checks.as_real("head", part, np.float32) for part in head)
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
        raise ValueError(f"head is (W (d, classes), b (classes,)); got shapes {kernel.shape} and {bias.shape}.")
    checks.check_finite("head", {"W": kernel, "b": bias})
    return kernel, bias


def check_width(features: Any, kernel: Any) -> None:
    """Refuse features that a head does not read.

    Raises:
      ValueError: names both widths.
    """
    checks.check_axes("features (n, d)", features, 2)
    if np.shape(features)[1] != len(kernel):
        raise ValueError(f"the head reads {len(kernel)} features; got {np.shape(features)[1]}: W is (d, classes).")


def _score(state: State, outputs: Outputs) -> Float[Array, " n"]:
    check(outputs)
    seen = wide(feature(outputs)) - jnp.asarray(state["origin"])[None]
    rest = jnp.matmul(seen, state["null"], precision="highest")
    return jax.nn.logsumexp(wide(outputs.logits), axis=1) - state["alpha"] * jnp.linalg.norm(rest, axis=1)
