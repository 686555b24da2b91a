"""What is known of a value while a jaxpr is walked.

Every value is a VIEW of one parameter leaf, several views JOINED by concatenation, KNOWN (computed from parameters and
constants alone) or DATA.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from subspace_jax.core.capture import joined, views
from subspace_jax.core.capture.joined import Joined, Seen
from subspace_jax.core.capture.views import View

JOINING = {"concatenate": (joined.concatenate, "dimension"), "stack": (joined.stack, "axis")}
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
    """Depends on the arguments; equal tokens are the same value. `holds`: numbers of these leaves are in it, `how`."""

    token: int
    holds: frozenset[str] = frozenset()
    how: str = ""


class Known(NamedTuple):
    """Computed from these leaves alone (`by` names the first arithmetic); a constant when there are none."""

    leaves: frozenset[str] = frozenset()
    by: str = ""


Kind = View | Joined | Known | Data


def leaves_of(kind: Kind) -> frozenset[str]:
    """Leaves that a value is computed from; none for data."""
    if isinstance(kind, View):
        return frozenset([kind.leaf])
    return frozenset() if isinstance(kind, Data) else kind.leaves


def shown(kinds: Sequence[Kind]) -> list[str]:
    """Leaves that these values show as they are."""
    return [leaf for kind in kinds if isinstance(kind, View | Joined) for leaf in sorted(leaves_of(kind))]


def advance(kinds: Sequence[Kind], eqn: Any) -> Sequence[Seen] | None:
    """What an equation makes of views alone; None where its results are none, or it reads something else."""
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
    """One iteration's part of what a scan walks over."""
    if isinstance(kind, View):
        return views.enter_scan(kind, scan)
    if isinstance(kind, Joined):
        return joined.enter_scan(kind, scan) or Known(kind.leaves, "a scan along the concatenated axis")
    return kind
