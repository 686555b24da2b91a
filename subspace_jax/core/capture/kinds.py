"""What is known of a value while a jaxpr is walked.

Every value is a VIEW of one parameter leaf, several views JOINED by concatenation, KNOWN (computed from parameters and
constants alone) or DATA. Data times a known value with leaves in it are a layer too, whose kernel is that value.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from subspace_jax.core.capture import joined, views
from subspace_jax.core.capture.joined import Joined, Seen
from subspace_jax.core.capture.views import View

JOINING = {"concatenate": (joined.concatenate, "dimension"), "stack": (joined.stack, "axis")}
PICKING = {"gather", "dynamic_slice"}  # by data: rows of a leaf (an embedding) are data, matrices (experts) are kernels
PASSING = {
    "convert_element_type",
    "reshape",
    "transpose",
    "squeeze",
    "broadcast_in_dim",
    "slice",
    "split",
    "unstack",
    *views.SAME,
}


class Data(NamedTuple):
    """Depends on the arguments; equal tokens are the same value.

    Attributes:
      token: identifies the value.
      holds: leaves whose entries it contains unchanged.
      how: how they got in, for the error message of a product that reads them.
      times: leaves that it was multiplied with elementwise.
      varies: axes along which those leaves differ: a sum over one of them is a product of their kernel.
    """

    token: int
    holds: frozenset[str] = frozenset()
    how: str = ""
    times: frozenset[str] = frozenset()
    varies: frozenset[int] = frozenset()


class Known(NamedTuple):
    """Computed from leaves and constants alone.

    Attributes:
      leaves: which; a constant when there are none.
      by: the first operation.
      repeats: axes along which it is constant.
      token: identifies the value.
      scans: the enclosing scans in whose iterations it differs.
    """

    leaves: frozenset[str] = frozenset()
    by: str = ""
    repeats: frozenset[int] = frozenset()
    token: int = 0
    scans: frozenset[int] = frozenset()


Kind = View | Joined | Known | Data


def leaves_of(kind: Kind) -> frozenset[str]:
    """Leaves that a value is computed from; none for data."""
    if isinstance(kind, View):
        return frozenset([kind.leaf])
    return frozenset() if isinstance(kind, Data) else kind.leaves


def scans_of(kind: Kind) -> frozenset[int]:
    """Enclosing scans in whose iterations a value that is no data differs."""
    if isinstance(kind, Known):
        return kind.scans
    views = [kind] if isinstance(kind, View) else [view for view, _ in kind.parts] if isinstance(kind, Joined) else []
    return frozenset(scan for view in views for scan in view.stack)


def marked(kind: Kind) -> bool:
    """Whether an equation that reads this may be the product of a leaf."""
    return bool(leaves_of(kind)) or (isinstance(kind, Data) and bool(kind.holds or kind.times))


def passed(kind: Data, eqn: Any, token: int) -> Data:
    """The same data cast or reshaped; what is known of axes is kept only where the axes stay."""
    if eqn.primitive.name in ("convert_element_type", *views.SAME):
        return kind._replace(token=token)
    return kind._replace(token=token, times=frozenset(), varies=frozenset())


def repeats(kinds: Sequence[Kind], eqn: Any) -> frozenset[int]:
    """Axes along which the result of an equation on parameters is constant."""
    shape = getattr(eqn.outvars[0].aval, "shape", ())
    shapes = [getattr(atom.aval, "shape", ()) for atom in eqn.invars]
    if eqn.primitive.name == "broadcast_in_dim":
        where = dict(zip(map(int, eqn.params["broadcast_dimensions"]), range(len(shapes[0])), strict=True))
        old = _repeats(kinds[0])
        return frozenset(i for i in range(len(shape)) if i not in where or shapes[0][where[i]] == 1 or where[i] in old)
    if any(own not in ((), shape) for own in shapes):
        return frozenset()
    each = [_repeats(kind) for kind, own in zip(kinds, shapes, strict=True) if own]
    return frozenset.intersection(*each) if each else frozenset()


def _repeats(kind: Kind) -> frozenset[int]:
    return kind.repeats if isinstance(kind, Known) else frozenset()


def scaled(kinds: Sequence[Kind], eqn: Any, token: int) -> Data:
    """Elementwise product of data with something computed from parameters."""
    side = next(i for i, kind in enumerate(kinds) if not isinstance(kind, Data))
    shape, data = eqn.invars[side].aval.shape, kinds[1 - side]
    differs = frozenset(i for i, size in enumerate(shape) if size > 1) - _repeats(kinds[side])
    before = (data.times, data.varies) if isinstance(data, Data) else (frozenset(), frozenset())
    return Data(token, times=leaves_of(kinds[side]) | before[0], varies=differs | before[1])


def shown(kinds: Sequence[Kind]) -> list[str]:
    """Leaves of which these values are views."""
    return [leaf for kind in kinds if isinstance(kind, View | Joined) for leaf in sorted(leaves_of(kind))]


def advance(kinds: Sequence[Kind], eqn: Any) -> Sequence[Seen] | None:
    """The views that an equation makes of views; None where the results are not views or it reads other values."""
    seen = [kind for kind in kinds if isinstance(kind, View | Joined)]
    if not seen or len(seen) < len(kinds):
        return None
    if eqn.primitive.name in JOINING:
        join, axis = JOINING[eqn.primitive.name]
        whole = join(seen, eqn.params[axis])
        return None if whole is None else [whole]
    if len(seen) > 1:
        return None
    return joined.advance(seen[0], eqn) if isinstance(seen[0], Joined) else views.advance(seen[0], eqn)


def walked(kind: Kind, scan: int) -> Kind:
    """What one iteration reads of a value that a scan walks over."""
    if isinstance(kind, View):
        return views.enter_scan(kind, scan)
    if isinstance(kind, Joined):
        return joined.enter_scan(kind, scan) or Known(kind.leaves, "a scan along the concatenated axis")
    return kind
