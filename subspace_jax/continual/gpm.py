"""Gradient projection memory (GPM): updates are made orthogonal to the layer inputs of earlier tasks.

A layer's gradient lies in the span of the layer's inputs. With an orthonormal basis M of the inputs of earlier tasks
every update of a kernel becomes dK - M M' dK, so that x K never changes for an input x in the span of M: earlier tasks
keep their outputs, and no example of them is stored. Put `gpm` LAST in the chain: Adam, weight decay, clipping by
element or a momentum older than the basis bring back what was projected out (`leak` measures it on your chain). Saha,
Garg, Roy, ICLR 2021, arXiv 2103.09762.

>>> import jax.numpy as jnp, optax
>>> from subspace_jax.core import capture
>>> def fn(params, x):
...     return x @ params["kernel"]
>>> params, x = {"kernel": jnp.zeros((3, 2))}, jnp.eye(3)[:2]
>>> tx = optax.chain(optax.sgd(1.0), gpm(capture.layers(fn, params, x)))
>>> opt_state = tx.init(params)  # the first task is not constrained; then:
>>> moments = capture.collect(fn, params, [x], dtype="float64")
>>> bases = update(optax.tree.get(opt_state, "bases"), moments, energy=0.97)
>>> opt_state = optax.tree.set(opt_state, bases=bases)
>>> updates, opt_state = tx.update({"kernel": jnp.ones((3, 2))}, opt_state, params)
>>> print(abs(updates["kernel"]))
[[0. 0.]
 [0. 0.]
 [1. 1.]]
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.continual import projection
from subspace_jax.continual.projection import Bases
from subspace_jax.core import checks, subspace
from subspace_jax.core.capture import Layers
from subspace_jax.core.moments import Moments, wide
from subspace_jax.core.subspace import Subspace

Energy = float | int | Mapping[str, float | int]


class GPMState(NamedTuple):
    """State of `gpm`.

    Attributes:
      bases: {path: Subspace} of the inputs of earlier tasks, (*stack, *groups, d_in, d_in); rank 0 before the first.
    """

    bases: dict[str, Subspace]


def gpm(table: Layers, *, heads: Collection[str] = (), freeze: bool = True) -> optax.GradientTransformation:
    """Make updates orthogonal to the inputs of earlier tasks: dK <- dK - M M' dK for every protected kernel.

    Guarantees, for any number of steps with this transform last in the chain: for layer inputs X stored with energy e,
    ||X dK||_F^2 <= ||dK||_2^2 (1 - e) ||X||_F^2. With e = 1, all layers in the table and the other leaves frozen, the
    network's outputs on these samples stay the same, up to the rounding of the parameters. Before the first
    task (rank 0) every update passes as it is. Convolutions, scanned and grouped layers are matrices (d_in, d_out) in
    the layout of `capture.kernels`; all products are exact float32.

    Args:
      table: `capture.layers` of the network: all of its layers, or those that `capture.layers(..., layers=)` was given;
        leaves of layers that are not in it pass as they are.
      heads: leaves that are never projected, by path or path prefix ("heads" for "heads/kernel"): the output layers of
        all tasks, including those that the traced function does not read.
      freeze: freeze all leaves that are no layer's kernel (biases, norm scales and shifts) once a basis is stored, as
        the paper does; they are learned in the first task. Otherwise they go on to change earlier tasks' outputs.

    Raises:
      ValueError: a head that names nothing, heads that leave nothing; a kernel that is computed from several leaves (an
        adapter, a normalised weight), which no update of one of them protects; at `init`, parameters of another
        network, or a kernel that is also read elsewhere (tied weights).
    """
    plan = projection.plan(table, heads=heads, freeze=freeze)

    def start(params: optax.Params) -> GPMState:
        return GPMState(init(projection.held(plan, params)))

    def keep_off(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        checks.check_updates(updates, params)
        return projection.project(plan, updates, state.bases), state

    return optax.GradientTransformation(start, keep_off)


def init(table: Layers) -> dict[str, Subspace]:
    """Bases of rank 0 with the capacity of the whole input, so that shapes never change and checkpoints take them."""
    return {
        path: Subspace(
            jnp.zeros((*layer.lead, layer.d_in, layer.d_in), complex if layer.is_complex else float),
            jnp.zeros(layer.lead, jnp.int32),
        )
        for path, layer in table.items()
    }


def update(
    bases: Bases, moments: Mapping[str, Moments], *, energy: Energy, rule: Literal["paper", "released"] = "paper"
) -> dict[str, Subspace]:
    """The bases after a task: new directions until each layer keeps the share `energy` of the task's inputs.

    First task (eq. 5): the fewest leading directions of X with this share of ||X||_F^2. Later (eqs. 8, 9): the fewest
    leading directions of X - X M M' with share(M) + sum of theirs >= energy; none if M has it already. Only the Gram
    X'X is needed. Old columns stay bit for bit. Computed in float64, not for `jit`; leading axes (of stacked layers or
    seeds) are batched. A layer whose Gram is zero adds nothing.

    Args:
      bases: of `gpm`, by path.
      moments: of the layer inputs on samples of this task, with its finished network in inference mode; float64
        (`capture.collect(..., dtype="float64")`) where energy is 1.
      energy: share to keep, in [0, 1], the paper's epsilon; one, or {path: share}. 0 keeps nothing. The paper raises it
        from task to task (.97 + .003 t).
      rule: "released" is that of the authors' published scripts (sahagobinda/GPM at dc5ba5c): after the first task (as
        long as no layer has any direction) one direction fewer than eq. 5, and otherwise as in the paper.

    Raises:
      ValueError: energy outside [0, 1] or for other layers than the bases'; an unknown rule; moments that are missing,
        of another size, of no rows or not finite.
    """
    grown = grow(bases, moments, energy=energy, rule=rule)
    full = [path for path, space in grown.items() if np.any(np.asarray(space.rank) == space.basis.shape[-2])]
    if full:
        warnings.warn(
            f"full: {', '.join(full)}; these layers learn nothing more (heads go on): lower energy or widen them.",
            stacklevel=2,
        )
    return grown


def grow(
    bases: Bases, moments: Mapping[str, Moments], *, energy: Energy, rule: Literal["paper", "released"] = "paper"
) -> dict[str, Subspace]:
    """`update` without the warning about full layers."""
    if rule not in ("paper", "released"):
        raise ValueError(f"rule is 'paper' or 'released'; got {rule!r}.")
    checks.check_host("update", bases, moments)
    shares = dict(energy) if isinstance(energy, Mapping) else dict.fromkeys(bases, energy)
    if set(shares) != set(bases):
        raise ValueError(f"energy names {', '.join(shares) or 'no layer'}; the bases are of {', '.join(bases)}.")
    for path, space in bases.items():
        _check(path, space, moments, shares[path])
    first = not any(np.any(space.rank) for space in bases.values())
    fewer = int(rule == "released" and first)  # the scripts count what lies below the share: eq. 5 without the last
    return {path: _grown(space, moments[path], shares[path], fewer) for path, space in bases.items()}


def check_energy(energy: Energy | Callable[[int], Energy]) -> None:
    """Refuse a share outside [0, 1], of one or all layers; a function of the task's number is not asked.

    Raises:
      ValueError: names the share.
    """
    if callable(energy):
        return
    for path, share in (energy if isinstance(energy, Mapping) else {"all layers": energy}).items():
        if not 0 <= share <= 1:
            raise ValueError(f"energy is the kept share of squared singular values, in [0, 1]; got {share} for {path}.")


def _check(path: str, space: Subspace, moments: Mapping[str, Moments], energy: float | int) -> None:
    if not 0 <= energy <= 1:
        raise ValueError(f"energy is the kept share of squared singular values, in [0, 1]; got {energy} for {path!r}.")
    if path not in moments:
        raise ValueError(f"no moments of layer {path!r}, only of {', '.join(moments) or 'none'}.")
    gram, count = moments[path].gram, checks.as_real("the count", moments[path].count)
    if gram.shape != space.basis.shape:
        raise ValueError(f"the Gram of {path!r} is {gram.shape}, its basis {space.basis.shape}: sizes may not change.")
    if np.iscomplexobj(gram) and not np.iscomplexobj(space.basis):
        raise ValueError(f"the Gram of {path!r} is {gram.dtype}, its basis real: the layer has become another.")
    if not (np.isfinite(count) & (count >= 1)).all() or not np.isfinite(gram).all():
        raise ValueError(f"moments of {path!r} hold {np.min(count):g} rows, or a NaN: give samples of the task.")


def _grown(space: Subspace, moments: Moments, energy: float | int, fewer: int) -> Subspace:
    """One layer, without the last `fewer` directions; in float64, but the noise floor stays that of the Gram."""
    exact = Subspace(wide(space.basis), np.asarray(space.rank))
    gram = np.asarray(moments.gram)
    basis, rank = subspace.grow(exact, gram, energy=energy, rows=int(np.max(moments.count)))
    if fewer:
        rank = np.maximum(rank - fewer, 0)
        basis = basis * (np.arange(basis.shape[-1]) < rank[..., None])[..., None, :]
    return Subspace(jnp.asarray(basis, space.basis.dtype), jnp.asarray(rank, jnp.int32))
