"""Exchanges of rows and columns between the members of a group, inside `jax.shard_map`.

Each is linear, and its transpose is the exchange back: derivatives need no rule of their own, and no sum by hand. Over
an axis of one device nothing is exchanged, not even with oneself.
"""

from jax import lax

from subspace_jax.typing import Array, Float


def modulo_gather(h: Float[Array, "b d"], axis: str = "model") -> Float[Array, "rows d"]:
    """The rows of all K members, (b, d) -> (K b, d), ordered by member; the adjoint of `modulo_scatter`."""
    return lax.all_gather(h, axis, tiled=True) if lax.axis_size(axis) > 1 else h


def modulo_scatter(z: Float[Array, "rows d"], axis: str = "model") -> Float[Array, "b d"]:
    """The sum over all members of the own rows, (K b, d) -> (b, d): partial products become outputs."""
    return lax.psum_scatter(z, axis, tiled=True) if lax.axis_size(axis) > 1 else z


def shard_gather(z: Float[Array, "b d"], axis: str = "model") -> Float[Array, "b columns"]:
    """The columns of all members, (b, d / K) -> (b, d)."""
    return lax.all_gather(z, axis, axis=1, tiled=True) if lax.axis_size(axis) > 1 else z


def shard_own(z: Float[Array, "b columns"], axis: str = "model") -> Float[Array, "b d"]:
    """The own columns, (b, d) -> (b, d / K): what `shard_gather` took from here."""
    width = z.shape[1] // lax.axis_size(axis)
    return lax.dynamic_slice_in_dim(z, lax.axis_index(axis) * width, width, 1) if lax.axis_size(axis) > 1 else z


def own_rows(z: Float[Array, "rows d"], axis: str = "model") -> Float[Array, "b columns"]:
    """The own rows with the columns of all members, (K b, d / K) -> (b, d)."""
    if lax.axis_size(axis) == 1:
        return z
    return lax.all_to_all(z, axis, split_axis=0, concat_axis=1, tiled=True)
