"""Images as spikes over time: one spatial frequency a step (DCT), Poisson spikes, or the image itself at every step.

Images are in [-1, 1], (b, h, w, channels); what comes out has time first, (steps, b, h, w, channels), and no gradient.
DCT: Garg, Chowdhury, Roy, "DCT-SNN", ICCV 2021. Every n x n block is split into its n^2 parts of one frequency each,
which sum to the block; they arrive in JPEG's zig-zag order, coarse to fine, in accumulators that emit -1 or 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core.checks import check_count, check_filled, is_known
from subspace_jax.core.keys import sample_keys
from subspace_jax.typing import Array, Float, Int, Key, Shaped

Images = Float[Array | np.ndarray, "b h w c"]
Frames = Float[Array | np.ndarray, "t b h w c"]
Limit = float | Float[Array, ""]
ROUNDED = 1e-3  # by which images may leave [-1, 1]
# Rows of JPEG's luma and chroma (JFIF, ITU-T T.871), for values in [0, 1]; both chroma have .5 added.
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
CHROMA = np.array([0.0, 128 / 255, 128 / 255], np.float32)


def dct_matrix(n: int) -> Float[np.ndarray, "n n"]:
    """The orthonormal DCT-II: row i holds sqrt(2 / n) cos((2 j + 1) i pi / (2 n)), row 0 sqrt(1 / n)."""
    check_count("the size of a block", n)
    i, j = np.mgrid[:n, :n]
    rows = np.sqrt(2 / n) * np.cos((2 * j + 1) * i * np.pi / (2 * n))
    rows[0] = np.sqrt(1 / n)
    return rows


def zigzag(n: int) -> Int[np.ndarray, "bases 2"]:
    """JPEG's order of the n^2 frequencies (down, across), coarse to fine.

    >>> zigzag(2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    check_count("the size of a block", n)
    order = sorted(
        ((m, k) for m in range(n) for k in range(n)),
        key=lambda at: (sum(at), at[0] if sum(at) % 2 else -at[0]),
    )
    return np.array(order)


def expand(
    x: Shaped[Array | np.ndarray, "b h w c"], *, block: int, stride: int
) -> Shaped[Array | np.ndarray, "b H W c"]:
    """Every block in a cell of its own, (b, H, W, c) with H = ((h - block) / stride + 1) block; overlaps are repeated.

    Raises:
      ValueError: an image that is smaller than a block, or whose last rows or columns no block covers.
    """
    height, width = x.shape[1:3]
    if min(block, stride) < 1 or min(height, width) < block or (height - block) % stride or (width - block) % stride:
        lost = [(side - block) % stride if side >= block and stride > 0 else side for side in (height, width)]
        raise ValueError(
            f"blocks of {block} with stride {stride} do not cover images of {height}x{width}, whose last "
            f"{lost[0]} rows and {lost[1]} columns would be lost: the side less the block must be a multiple of the "
            "stride."
        )
    down, across = ((size - block) // stride + 1 for size in (height, width))
    rows = (np.arange(down)[:, None] * stride + np.arange(block)).ravel()
    columns = (np.arange(across)[:, None] * stride + np.arange(block)).ravel()
    return x[:, rows][:, :, columns]


def dct_frames(x: Images, *, block: int = 4, stride: int = 4, colour: bool = True) -> Float[Array, "t b H W c"]:
    """The parts of one frequency, in zig-zag order: (block^2, b, H, W, c); their sum is `expand(x)`.

    Args:
      x: images in [-1, 1].
      block: side n of a block.
      stride: steps between blocks; below `block` they overlap, and images grow as in `expand`.
      colour: three channels become luma and chroma first.

    Raises:
      ValueError: images out of range; blocks that do not cover them.
    """
    _check_range(x)
    if colour and x.shape[-1] == 3:
        x = jnp.asarray(x) @ YCBCR.T + CHROMA.reshape(1, 1, 1, 3)
    x = jnp.asarray(expand(x, block=block, stride=stride), jnp.float32)
    b, height, width, c = x.shape
    cells = x.reshape(b, height // block, block, width // block, block, c)
    matrix, order = jnp.asarray(dct_matrix(block), jnp.float32), zigzag(block)
    down, across = matrix[order[:, 0]], matrix[order[:, 1]]  # (bases, block) each
    highest = jax.lax.Precision.HIGHEST
    found = jnp.einsum("ri,rj,buivjc->rbuvc", down, across, cells, precision=highest)
    parts = jnp.einsum("rbuvc,ri,rj->rbuivjc", found, down, across, precision=highest)
    return jax.lax.stop_gradient(parts.reshape(block**2, b, height, width, c))


def encoder_thresholds(frames: Frames, *, low: float = 6.5, high: float = 93.5) -> tuple[Limit, Limit]:
    """The two percentiles of all entries of the frames, (negative, positive): measured once, on training images.

    Inside `jit` they are measured on each batch, as the authors' code does: then a prediction depends on the batch that
    it is in, and nothing is checked.

    Raises:
      ValueError: percentiles outside [0, 100]; ones whose values are not below and above 0, as of images without
        contrast.
    """
    if not (0 <= low <= 100 and 0 <= high <= 100):
        raise ValueError(f"low and high are percentiles, in [0, 100]; got {low} and {high}.")
    check_filled("frames", frames)
    if not is_known(frames):
        negative, positive = jnp.percentile(frames, jnp.array([low, high]))
        return negative, positive
    negative, positive = (float(value) for value in np.percentile(np.asarray(frames), [low, high]))
    if not negative < 0 < positive:
        raise ValueError(
            f"the {low} and {high} percentiles of the frames are {negative:.4g} and {positive:.4g}, not on both sides "
            "of 0: give images with more contrast, or other percentiles."
        )
    return negative, positive


def dct_encode(
    frames: Frames, negative: Limit, positive: Limit, *, steps: int, keep: int | None = None,
) -> Float[Array, "steps b h w c"]:  # fmt: skip
    """Spikes in {-1, 0, 1}: frame t mod K is added to an accumulator without leak, a threshold subtracted per spike.

    Args:
      frames: of `dct_frames`.
      negative: of `encoder_thresholds`, like positive.
      positive: see negative.
      steps: at least 1; more than there are frames sweeps them again.
      keep: K, the coarsest frequencies only; all by default.

    Raises:
      ValueError: steps below 1, keep out of range; a threshold that is NaN, where it is known.
    """
    for limit in (negative, positive):
        if is_known(limit) and np.isnan(limit).any():
            raise ValueError(f"thresholds are numbers; got {negative} and {positive}.")
    keep = len(frames) if keep is None else keep
    _check_steps(steps)
    if not 1 <= keep <= len(frames):
        raise ValueError(f"keep is in [1, {len(frames)}], the number of frequencies; got {keep}.")

    frames = jnp.asarray(frames)

    def step(total, t):
        total = total + frames[t % keep]
        spikes = (total > positive).astype(total.dtype) - (total < negative).astype(total.dtype)
        spikes = jnp.where(jnp.isnan(total), total, spikes)  # NaN stays with its pixel
        return total - jnp.where(spikes > 0, positive, 0.0) - jnp.where(spikes < 0, negative, 0.0), spikes

    return jax.lax.stop_gradient(jax.lax.scan(step, jnp.zeros_like(frames[0]), jnp.arange(steps))[1])


def poisson(
    key: Key[Array, ""], x: Images, index: Int[Array | np.ndarray, " b"], *, steps: int
) -> Float[Array, "t b h w c"]:
    """Spikes sign(x) with probability |x|, drawn anew at each step: their mean over time tends to x.

    Args:
      key: folded with the index of each sample, so that its spikes do not depend on its batch.
      x: images in [-1, 1].
      index: of the samples.
      steps: at least 1.

    Raises:
      ValueError: images out of range, steps below 1.
    """
    _check_range(x)
    _check_steps(steps)
    x = jnp.asarray(x, jnp.float32)
    drawn = jax.vmap(lambda own: jax.random.uniform(own, (steps, *x.shape[1:])), out_axes=1)(sample_keys(key, index))
    return jax.lax.stop_gradient(jnp.sign(x)[None] * (drawn < jnp.abs(x)[None]))


def direct(x: Images) -> Float[Array, "t b h w c"]:
    """The image as a single frame: `network.run(..., hold=steps)` repeats it, and multiplies it once."""
    _check_range(x)
    return jnp.asarray(x, jnp.float32)[None]


def _check_range(x: Images) -> None:
    if is_known(x) and np.size(x):
        low, high = float(np.min(x)), float(np.max(x))
        if not -1 - ROUNDED <= low <= high <= 1 + ROUNDED:
            raise ValueError(f"images are in [-1, 1]; got {low:.4g} to {high:.4g}: scale them, 2 pixel / 255 - 1.")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"there is at least one step; got {steps}.")
