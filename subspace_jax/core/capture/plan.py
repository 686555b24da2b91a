"""The walk: which equation of a jaxpr is a layer, which must be entered, and which is bound as it stands.

Data times a view of one parameter leaf is a layer; data times joined views are one layer for each. Data times something
computed from parameters alone (weight norm, a LoRA sum, a mask) is a layer whose kernel is that value, an EFFECTIVE
kernel: it can be measured, its leaves are known, but no single one of them is the kernel. Weights whose products cannot
be followed are refused, naming the leaves. Data times data is no layer.
"""

import collections
from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend import core as jex

from subspace_jax.core.capture import joined, loops, views
from subspace_jax.core.capture.joined import Joined
from subspace_jax.core.capture.kinds import (
    JOINING,
    PASSING,
    PICKING,
    Data,
    Kind,
    Known,
    advance,
    leaves_of,
    marked,
    passed,
    repeats,
    scaled,
    scans_of,
    shown,
)  # fmt: skip
from subspace_jax.core.capture.parts import Part, part
from subspace_jax.core.capture.products import Conv, Dense
from subspace_jax.core.capture.steps import Nested, Plan, Refusal, Step, Use, Uses
from subspace_jax.core.capture.views import View

PRODUCTS = {"dot_general", "conv_general_dilated"}
SPARSE = {f"{kind}_{name}" for kind in ("coo", "csr") for name in ("spmv", "spmm", "matvec", "matmat")}
SPARSE |= {"bcoo_dot_general", "bcoo_dot_general_sampled", "bcoo_spdot_general", "bcsr_dot_general", "spsolve"}
UNFOLLOWED = SPARSE | {"ragged_dot", "ragged_dot_general", "scaled_dot", "scaled_matmul", "triangular_solve"}
INLINE = {
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
}


class Walk:
    """State of the walk over a jaxpr and all jaxprs nested in it."""

    def __init__(self, count: int = 0) -> None:
        self.uses: list[Use] = []
        self.refusals: list[Refusal] = []
        self.other_reads: dict[str, list[str]] = {}  # leaf -> the primitives that read it other than as a kernel
        self.effective: dict[str, Known] = {}  # name of an effective kernel -> what it is computed from
        self._tokens: dict[Any, int] = {}
        self.scans: list[tuple[int, int]] = []  # the enclosing ones, outermost first, with their lengths
        self.branches: list[int] = []  # the enclosing branches and loops of unknown length
        self.count = count

    def new_data(self) -> Data:
        """A value that is not known before the call."""
        return Data(self.token())

    def plan(self, jaxpr: Any, kinds: Sequence[Kind], blocked: str = "") -> tuple[Plan, list[Kind]]:
        """Walk one jaxpr; where `blocked` names an enclosing primitive, its layers are refused."""
        first = len(self.uses)
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        env: dict[Any, Kind] = dict(zip(jaxpr.invars, kinds, strict=True))
        env |= {var: Known(token=self.token()) for var in jaxpr.constvars}
        steps: dict[int, Step] = {}
        read = collections.Counter(atom for atom in _atoms(jaxpr) if not isinstance(atom, jex.Literal))

        def kind(atom: Any) -> Kind:
            return Known(token=self.token()) if isinstance(atom, jex.Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            step, outs = self._equation(eqn, [kind(atom) for atom in eqn.invars], blocked)
            env |= {var: _summable(kind, read[var]) for var, kind in zip(eqn.outvars, outs, strict=True)}
            if step is not None:
                steps[i] = step
        keys = frozenset(use.key for use in self.uses[first:])
        return Plan(jaxpr, steps, keys), [kind(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, kinds: list[Kind], blocked: str) -> tuple[Step | None, list[Kind]]:
        name = eqn.primitive.name
        if name in PRODUCTS:
            return self._product(eqn, kinds, blocked)
        if name == "optimization_barrier":
            return None, kinds
        if seen := advance(kinds, eqn):
            return None, list(seen)
        if not any(map(marked, kinds)):
            return None, self._plain(eqn, kinds)
        if name == "scan":
            return loops.scan(self, eqn, kinds, blocked)
        if name in INLINE:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            plan, outs = self.plan(inner, kinds, blocked)
            return (Nested(plan, (0, 0), frozenset()) if plan.keys else None), outs
        if name == "while":
            return loops.while_loop(self, eqn, kinds, blocked)
        if name == "cond":
            return loops.cond(self, eqn, kinds, blocked)
        if name in UNFOLLOWED or any(_has_product(inner) for inner in jex.jaxprs_in_params(eqn.params)):
            self._refuse(kinds, f"the primitive {name!r}, which capture does not know, holds it")
        return None, self._plain(eqn, kinds)

    def _plain(self, eqn: Any, kinds: list[Kind]) -> list[Kind]:
        """The results of arithmetic: data if any operand is, else parameters only."""
        name, outs = eqn.primitive.name, len(eqn.outvars)
        self.read_by(name, kinds)
        if name == "select_n":
            return [self.choice(kinds[0], kinds[1:], name)]
        if not any(isinstance(kind, Data) for kind in kinds):
            one = self.join(kinds, name)
            if outs != 1:
                return [self.fresh(one) for _ in range(outs)]
            return [one._replace(repeats=repeats(kinds, eqn)) if isinstance(one, Known) else one]
        if name in PICKING and leaves_of(kinds[0]) and sum(n > 1 for n in eqn.params["slice_sizes"]) > 1:
            return [self._holding(kinds[:1], "data pick it from several, which hides its product")]
        if name in JOINING:
            return [self._holding(kinds, "it is concatenated with data, which hides its product")]
        if name in PASSING and len(kinds) == 1 and isinstance(kinds[0], Data):
            same = [self.token((name, repr(eqn.params), kinds[0], i)) for i in range(outs)]
            return [passed(kinds[0], eqn, token) for token in same]
        if name == "mul" and any(map(leaves_of, kinds)):
            return [scaled(kinds, eqn, self.token())]
        if name == "reduce_sum" and isinstance(kinds[0], Data) and kinds[0].varies.intersection(eqn.params["axes"]):
            why = "it is multiplied with data and summed, which is a product: write it as a matmul or an einsum"
            self._refuse([Known(kinds[0].times)], why)
        return [self.new_data() for _ in range(outs)]

    def read_by(self, name: str, kinds: Sequence[Kind]) -> None:
        """Note that a primitive reads these values, other than as a kernel."""
        for leaf in shown(kinds):
            self.other_reads.setdefault(leaf, []).append(name)

    def _product(self, eqn: Any, kinds: list[Kind], blocked: str) -> tuple[Uses | None, list[Kind]]:
        sides = [i for i, kind in enumerate(kinds) if isinstance(kind, Data)]
        if len(sides) != 1:
            for kind in kinds:
                if isinstance(kind, Data) and kind.holds:
                    self._refuse([Known(kind.holds)], kind.how)
            return None, self._plain(eqn, kinds)
        side, kernel, name = sides[0], kinds[1 - sides[0]], eqn.primitive.name
        why, blocks = "", []
        if not leaves_of(kernel):
            return None, self._plain(eqn, kinds)
        if blocked:
            why = f"its product is inside {blocked}"
        elif isinstance(kernel, Known) and not kernel.scans.isdisjoint(self.branches):
            why = "it is another value in each iteration of a 'while'"
        elif name == "conv_general_dilated" and (side == 1 or eqn.params["batch_group_count"] != 1):
            why = "it is the image, or batch-grouped, in a convolution"
        elif isinstance(kernel, Joined):
            blocks = [(view, part(eqn, side, spans)) for view, spans in joined.blocks(kernel)]
            if any(place is None for _, place in blocks):  # an axis that is neither input nor output is cut
                self.read_by(name, [kernel])
                kernel = self.join([kernel], name)
        if isinstance(kernel, Known):
            blocks = [(self._effective(kernel, eqn.invars[1 - side].aval.shape), None)]
        elif isinstance(kernel, View):
            blocks = [(kernel, None)]
        if why:
            self._refuse([kernel], why)
            return None, self._plain(eqn, kinds)
        uses = Uses(tuple(self._use(eqn, side, kinds[side], view, place) for view, place in blocks))
        self.uses += uses.each
        return uses, [self.new_data()]

    def _use(self, eqn: Any, side: int, data: Kind, view: View, place: Part | None) -> Use:
        """One kernel in one product."""
        conv = eqn.primitive.name == "conv_general_dilated"
        product = Conv.of(eqn, view, place) if conv else Dense.of(eqn, side, view, place)
        if product.batched:
            kernel = self.effective.get(view.leaf, view)
            self._refuse([kernel], "it carries batch axes (vmap over weights, experts)", unless_asked=True)
        key, steps = product.matrix()
        read = place.data if place and place.adds else ()
        reads = data, read, product.reads, tuple(self.scans), tuple(self.branches), view.stack
        return Use(product, place, key, steps, tuple(self.scans), reads)

    def _effective(self, kernel: Known, shape: tuple[int, ...]) -> View:
        """A value computed from parameters alone as a leaf of its own; the first axes are those of enclosing scans."""
        scans = [(scan, length) for scan, length in self.scans if scan in kernel.scans]
        name = f"value {kernel.token}"
        self.effective[name] = kernel
        whole = views.of_leaf(name, (*(length for _, length in scans), *shape))
        return whole._replace(stack=tuple(scan for scan, _ in scans))

    def choice(self, by: Kind, kinds: Sequence[Kind], name: str = "cond") -> Kind:
        """One of several values, selected by another; weights that data select between count as in `_holding`."""
        one = self.join(kinds if isinstance(by, Data) else [*kinds, by], name)
        how = "data choose between it and others ('select_n' or 'cond')"
        return self._holding([one], how) if isinstance(by, Data) and isinstance(one, Known) else one

    def _holding(self, kinds: Sequence[Kind], how: str) -> Data:
        """Data that contain entries of leaves: the input of a product with a weight, refused as its kernel."""
        leaves = [kind.holds if isinstance(kind, Data) else leaves_of(kind) for kind in kinds]
        return Data(self.token(), frozenset().union(*leaves), how)

    def join(self, kinds: Sequence[Kind], by: str) -> Kind:
        """Union of kinds: data if any of them is data, else known from the leaves of all."""
        if any(isinstance(kind, Data) for kind in kinds):
            return self.new_data()
        leaves = frozenset().union(*(leaves_of(kind) for kind in kinds))
        scans = frozenset().union(*map(scans_of, kinds))
        named = [kind.by for kind in kinds if isinstance(kind, Known) and kind.by]
        return Known(leaves, (named or [by])[0] if leaves else "", token=self.token(), scans=scans)

    def _refuse(self, kinds: Sequence[Kind], why: str, *, unless_asked: bool = False) -> None:
        if leaves := frozenset().union(*(leaves_of(kind) for kind in kinds)):
            self.refusals.append(Refusal(leaves, why, unless_asked))

    def fresh(self, kind: Kind) -> Kind:
        """The same as another value; views stay what they are."""
        return kind._replace(token=self.token()) if isinstance(kind, Data | Known) else kind

    def token(self, of: Any = None) -> int:
        """A new number, or the one given before to the same operation on the same value."""
        self.count += 1
        return self.count if of is None else self._tokens.setdefault(of, self.count)


def _atoms(jaxpr: Any) -> Iterator[Any]:
    """Every atom that a jaxpr reads, once per read."""
    for eqn in jaxpr.eqns:
        yield from eqn.invars
    yield from jaxpr.outvars


def _summable(kind: Kind, readers: int) -> Kind:
    """With several readers, scaled data are no product (multiply, then sum): a norm reads them for a mean too."""
    return kind._replace(times=frozenset(), varies=frozenset()) if isinstance(kind, Data) and readers > 1 else kind


def _has_product(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name in PRODUCTS | UNFOLLOWED or any(map(_has_product, jex.jaxprs_in_params(eqn.params)))
        for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )
