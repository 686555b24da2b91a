"""How well private images were rebuilt: each is compared with its best match among all that an attacker made."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from subspace_jax.core import checks
from subspace_jax.typing import Array, Float, Int

WINDOW = 7  # pixels, of a uniform window
C1, C2 = 0.01**2, 0.03**2  # of Wang et al., for a data range of 1

Private, Made = Float[Array | np.ndarray, "n _ _ _"], Float[Array | np.ndarray, "m _ _ _"]  # images (h, w, c)


class Match(NamedTuple):
    """Of every private image, each best by its own measure.

    Attributes:
      mse: smallest mean squared difference.
      psnr: -10 log10 of it, in decibels.
      ssim: largest structural similarity.
      which: position of the image with the smallest difference.
    """

    mse: Float[Array, " n"]
    psnr: Float[Array, " n"]
    ssim: Float[Array, " n"]
    which: Int[Array, " n"]


def best_match(private: Private, made: Made) -> Match:
    """The best match of every private image, among m images of which one may serve for several.

    More images can only match better: scores of attacks that make unequal numbers cannot be compared, and the same
    number of guesses that never saw an update belongs beside each.

    Args:
      private: (n, h, w, c), pixels in [0, 1].
      made: (m, h, w, c); `ssim` expects [0, 1].

    Raises:
      ValueError: images of other sizes, not finite, or smaller than the window of `ssim`; none made.
    """
    if min(len(private), len(made)) < 1:
        raise ValueError("there is no image to match: there are private ones, and an attack makes at least 1.")
    checks.check_finite("images that were made", made, remedy="the attack diverged: lower its lr")
    similar, squared = ssim(private, made), mse(private, made)
    least = squared.min(axis=1)
    return Match(least, -10 * jnp.log10(jnp.maximum(least, 1e-12)), similar.max(axis=1), squared.argmin(axis=1))


def mse(x: Private, y: Made) -> Float[Array, "n m"]:
    """Mean squared difference of all pairs."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    return jnp.square(x[:, None] - y[None]).mean(axis=(2, 3, 4))


def ssim(x: Private, y: Made) -> Float[Array, "n m"]:
    """Structural similarity of all pairs, in [-1, 1], the mean over the places of a 7 x 7 window and the channels.

    (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2)) with the means m and the unbiased
    variances and covariance s of each window, C1 = 1e-4, C2 = 9e-4, for pixels in [0, 1] (Wang, Bovik, Sheikh and
    Simoncelli, Image quality assessment, IEEE TIP 2004; with their uniform window).

    Raises:
      ValueError: no images, images of other sizes than each other, or smaller than the window.
    """
    if np.ndim(x) != 4:
        raise ValueError(f"images are (n, height, width, channels); got {np.shape(x)}: reshape them.")
    checks.check_filled("images", x)
    checks.check_filled("images", y)
    if np.shape(x)[1:] != np.shape(y)[1:]:
        raise ValueError(f"images have one size; got {np.shape(x)[1:]} and {np.shape(y)[1:]}.")
    if min(np.shape(x)[1:3]) < WINDOW:
        raise ValueError(f"images have at least {WINDOW} x {WINDOW} pixels, one window; got {np.shape(x)[1:3]}.")
    first, second = _windows(jnp.asarray(x)), _windows(jnp.asarray(y))
    means = first.mean(axis=2)[:, None], second.mean(axis=2)[None]
    first, second = (part - part.mean(axis=2, keepdims=True) for part in (first, second))
    degrees = WINDOW**2 - 1
    variance = jnp.square(first).sum(axis=2)[:, None] / degrees + jnp.square(second).sum(axis=2)[None] / degrees
    covariance = jnp.einsum("npwc,mpwc->nmpc", first, second, precision="highest") / degrees
    top = (2 * means[0] * means[1] + C1) * (2 * covariance + C2)
    return (top / ((means[0] ** 2 + means[1] ** 2 + C1) * (variance + C2))).mean(axis=(2, 3))


def _windows(x: Array) -> Float[Array, "n places pixels c"]:
    """All windows of every image."""
    n, h, w, c = x.shape
    down, across = (np.arange(size - WINDOW + 1)[:, None] + np.arange(WINDOW) for size in (h, w))
    found = x[:, down[:, None, :, None], across[None, :, None, :]]  # (n, places down, across, 7, 7, c)
    return found.reshape(n, -1, WINDOW**2, c)
