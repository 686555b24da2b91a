"""One member of a batch after the other, where computing all at once does not pay."""

from collections.abc import Callable, Sequence

import jax


def one_by_one(fn: Callable) -> Callable:
    """fn, whose `vmap` computes one member after the other: what each gives alone.

    Convolutions whose kernels differ between the members gain nothing from a batch: on a GPU it is no faster, and on a
    CPU, where XLA groups their channels, a step of 8 cnn5 takes 4 times as long. The members run in a compiled loop; on
    a CPU they are written out, since XLA runs convolution gradients inside a loop 30 times slower there, and compiling
    takes as much longer as there are members.

    Args:
      fn: a function of arrays that exchanges nothing with the other members. It may take gradients inside, but no
        gradient is taken of the result's `vmap`.
    """
    turned = jax.custom_batching.custom_vmap(fn)

    @turned.def_vmap
    def rule(size: int, batched: Sequence, *args):
        leaves, structure = jax.tree.flatten(args)
        moves = jax.tree.leaves(batched)

        def one(_, moving):
            rest = iter(moving)
            whole = [next(rest) if moved else leaf for leaf, moved in zip(leaves, moves, strict=True)]
            return None, turned(*structure.unflatten(whole))

        moving = [leaf for leaf, moved in zip(leaves, moves, strict=True) if moved]
        found = jax.lax.scan(one, None, moving, unroll=jax.default_backend() == "cpu")[1]
        return found, jax.tree.map(lambda _: True, found)

    return turned
