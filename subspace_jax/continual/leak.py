"""Does an optimiser undo the projection that protects earlier tasks?

A transform cannot see which ones follow it in its chain, so the whole chain is run on random gradients. Measured on
small networks: with Adam, weight decay or clipping by element after a projection, a tenth to a quarter of each update
lies in the protected space again; before the projection they do no harm.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.continual import projection
from subspace_jax.core import capture, meshes
from subspace_jax.core.capture import Layers
from subspace_jax.core.keys import as_key
from subspace_jax.core.moments import Moments, wide
from subspace_jax.core.subspace import adjoint
from subspace_jax.typing import Array, Key, Params, PyTree

LIMIT = 1e-4  # float32 leaves 1e-7, a chain in the wrong order 1e-2 and more
DUST = 0.1  # smallest ||dK|| to divide by, as a share of the unprojected update: a full layer's is only rounding


def leak(
    key: Key[Array, ""],
    table: Layers,
    tx: optax.GradientTransformation,
    params: Params,
    opt_state: Any,
    *,
    steps: int = 5,
) -> dict[str, float]:
    """||P dK|| / ||dK|| per layer: P projects onto its stored basis, dK sums the chain's updates on random gradients.

    The chain starts from its current state, momentum included; leaves that are no floats (a counter of steps) get zero
    gradients. In a layer whose basis is (nearly) full, dK is only rounding error without a meaningful direction: the
    denominator is therefore at least a tenth of ||dK|| without bases. For `sgp` all importances are taken as 1, which
    makes it `gpm`.

    Args:
      key: of the gradients, standard normal.
      table: of the network.
      tx: the whole chain.
      params: current parameters.
      opt_state: current state of the chain, with the `bases` of a projection in it; it does not change.
      steps: number of random gradients; with `optax.MultiSteps` give at least as many as it accumulates.

    Returns:
      {path: leak in [0, 1]}; 0 for a layer with nothing stored or without an update, and where the leak is below the
      rounding error of 16-bit parameters.

    Raises:
      ValueError: no bases in opt_state; steps below 1.
    """
    key = as_key(key)
    params, opt_state = meshes.moved((params, opt_state))
    bases = optax.tree.get(opt_state, "bases")
    if bases is None or steps < 1:
        raise ValueError(f"leak needs a projection in opt_state and at least 1 step; got steps={steps}, bases={bases}.")
    if importance := optax.tree.get(opt_state, "importance"):
        opt_state = optax.tree.set(opt_state, importance=jax.tree.map(jnp.ones_like, importance))
    without = optax.tree.set(opt_state, bases=jax.tree.map(jnp.zeros_like, bases))
    layers = Layers({path: projection.uncast(table[path]) for path in bases}, ())
    moved, free = (
        capture.kernels(layers, _drift(params, state, key, tx=tx, steps=steps)) for state in (opt_state, without)
    )
    return {path: _share(space.basis, moved[path], free[path]) for path, space in bases.items()}


def warn(leaks: Mapping[str, float]) -> None:
    """Warn of every layer whose leak is above 1e-4, with the remedy."""
    if bad := {path: value for path, value in leaks.items() if not value <= LIMIT}:
        named = ", ".join(f"{path} {value:.1%}" for path, value in bad.items())
        warnings.warn(
            f"updates reach what earlier tasks use: {named}. Put the projection last in the chain, behind Adam, weight "
            "decay and clipping by element, and start each task with a fresh momentum.",
            stacklevel=2,
        )


def interference(table: Layers, before: Params, after: Params, moments: Mapping[str, Moments]) -> dict[str, float]:
    """tr(D'GD) per layer, D = K_after - K_before: the energy ||X D||_F^2 by which its outputs on the rows X changed.

    Args:
      table: of the network.
      before: parameters at the end of the task from which X comes.
      after: later parameters.
      moments: of the layer inputs X; layers without moments are left out.

    Raises:
      ValueError: no moments of any layer.
    """
    layers = Layers({path: layer for path, layer in table.items() if path in moments}, ())
    if not layers:
        raise ValueError(f"no moments of any layer; there are {', '.join(table)}.")
    old, new = (capture.kernels(layers, params) for params in (before, after))
    found = {}
    for path in layers:
        change = wide(new[path]) - wide(old[path])
        found[path] = float((change.conj() * (wide(moments[path].gram) @ change)).sum().real)
    return found


@functools.partial(jax.jit, static_argnames=("tx", "steps"))
def _drift(params: Params, opt_state: Any, key: Key[Array, ""], *, tx: Any, steps: int) -> PyTree:
    """Sum of the updates; the change of the parameters would be rounded to their size."""

    def step(carry: tuple, i: Array) -> tuple[tuple, None]:
        params, opt_state, total = carry
        gradients = optax.tree.random_like(jax.random.fold_in(key, i), params, sampler=_gradient)
        updates, new = tx.update(gradients, opt_state, params)
        total, new = jax.tree.map(_counting, (total, opt_state), (optax.tree.add(total, updates), new))
        return (optax.apply_updates(params, updates), new, total), None

    start = params, opt_state, optax.tree.zeros_like(params)
    return jax.lax.scan(step, start, jnp.arange(steps))[0][2]


def _gradient(key: Array, shape: Sequence[int], dtype: Any) -> Array:
    """Standard normal; zero for what has no gradient, such as a counter of steps."""
    is_float = jnp.issubdtype(dtype, jnp.inexact)
    return jax.random.normal(key, shape, dtype) if is_float else jnp.zeros(shape, dtype)


def _counting(old: Array, new: Array) -> Array:
    """The new value, of integers as integers: a learning rate makes floats of a counter's zero gradient."""
    is_integer = jnp.issubdtype(old.dtype, jnp.integer)
    return new.astype(old.dtype) if is_integer else new


def _share(basis: Array, moved: Array, free: Array) -> float:
    back = adjoint(wide(basis)) @ wide(moved)
    size = max(np.linalg.norm(moved), DUST * np.linalg.norm(free))
    share = float(np.linalg.norm(back) / size) if size else 0.0
    kept = jnp.finfo(moved.dtype)
    return 0.0 if kept.bits < 32 and share < kept.eps else share
