"""Loops and choices in the walk: what is known of the values that they carry, and of those that they give."""

from typing import TYPE_CHECKING, Any

from subspace_jax.core.capture.joined import Joined
from subspace_jax.core.capture.kinds import Data, Kind, Known, walked
from subspace_jax.core.capture.steps import Chosen, Looped, Nested
from subspace_jax.core.capture.views import View

if TYPE_CHECKING:
    from subspace_jax.core.capture.plan import Walk


def scan(walk: "Walk", eqn: Any, kinds: list[Kind], blocked: str) -> tuple[Nested | None, list[Kind]]:
    """A scan: what it walks over, and a carry that changes, differ between its iterations."""
    consts, carry = scan_split(eqn)
    scan = walk.token()
    slices = [_inside(walk, walked(kind, scan), scan) for kind in kinds[consts + carry :]]
    body = [*kinds[: consts + carry], *slices]
    body[consts : consts + carry] = _fixed_point(walk, eqn.params["jaxpr"], body, consts, carry, scan)
    walk.scans.append((scan, eqn.params["length"]))
    first = len(walk.uses)
    plan, outs = walk.plan(eqn.params["jaxpr"], body, blocked)
    walk.scans.pop()
    stacked = frozenset(use.key for use in walk.uses[first:] if scan in use.product.view.stack)
    results = [
        kind if i < carry and _unchanged(kinds[consts + i], kind) else _outside(walk, kind, scan)
        for i, kind in enumerate(outs)
    ]
    return (Nested(plan, (consts, carry), stacked) if plan.keys else None), results


def cond(walk: "Walk", eqn: Any, kinds: list[Kind], blocked: str) -> tuple[Chosen | None, list[Kind]]:
    """A choice of branches: rows that one of them reads are not those of another."""
    plans, outs = [], []
    for branch in eqn.params["branches"]:
        walk.branches.append(walk.token())
        plan, own = walk.plan(branch, kinds[1:], blocked)
        walk.branches.pop()
        plans.append(plan)
        outs.append(own)
    chosen = Chosen(tuple(plans))
    results = [walk.choice(kinds[0], each) for each in zip(*outs, strict=True)]
    return (chosen if chosen.keys else None), results


def while_loop(walk: "Walk", eqn: Any, kinds: list[Kind], blocked: str) -> tuple[Looped | None, list[Kind]]:
    """A loop of unknown length: the layers of its body meet data as often as it runs, and what data end is data."""
    cond, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    state, loop = kinds[cond:], walk.token()
    carry = _fixed_point(walk, eqn.params["body_jaxpr"], state, consts, len(state) - consts, loop)
    (again,) = walk.plan(eqn.params["cond_jaxpr"], [*kinds[:cond], *carry], "the condition of a 'while'")[1]
    walk.branches.append(loop)
    plan, outs = walk.plan(eqn.params["body_jaxpr"], [*state[:consts], *carry], blocked)
    walk.branches.pop()
    ends = zip(state[consts:], outs, strict=True)
    results = [out if _unchanged(start, out) else walk.choice(again, [start, out], "while") for start, out in ends]
    return (Looped(plan) if plan.keys else None), results


def _fixed_point(walk: "Walk", jaxpr: Any, kinds: list[Kind], consts: int, carry: int, loop: int) -> list[Kind]:
    """Kinds of a carry that hold in every iteration; a weight that comes back as it was is still a view."""
    state = [walk.fresh(kind) if isinstance(kind, Data) else kind for kind in kinds[consts : consts + carry]]
    while True:
        _, outs = type(walk)(walk.count).plan(jaxpr, [*kinds[:consts], *state, *kinds[consts + carry :]])
        both = list(zip(state, outs[:carry], strict=True))
        new = [old if _alike(old, out) else walk.join([old, out], "a loop carry") for old, out in both]
        if all(map(_alike, state, new)):
            return [old if _unchanged(old, out) else _inside(walk, old, loop) for old, out in both]
        state = new


def _inside(walk: "Walk", kind: Kind, scan: int) -> Kind:
    """A value that differs between the iterations of a scan, as one of them reads it."""
    kind = walk.fresh(kind)
    return kind._replace(scans=kind.scans | {scan}) if isinstance(kind, Known) else kind


def _outside(walk: "Walk", kind: Kind, scan: int) -> Kind:
    """The same after the scan."""
    one = walk.join([kind], "scan")
    return one._replace(scans=one.scans - {scan}) if isinstance(one, Known) else one


def _alike(old: Kind, new: Kind) -> bool:
    """Whether a carry needs no other kind for its new value."""
    if isinstance(old, Known) and isinstance(new, Known):
        return new.leaves <= old.leaves and new.scans <= old.scans
    return isinstance(old, Data) or old == new


def _unchanged(old: Kind, new: Kind) -> bool:
    """Whether two values that are no data are certainly the same one."""
    if isinstance(old, Known) and isinstance(new, Known):
        return old.token == new.token
    return isinstance(old, View | Joined) and old == new


def scan_split(eqn: Any) -> tuple[int, int]:
    """Constants and carry of a scan; jax 0.12 keeps them as a tree."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))
