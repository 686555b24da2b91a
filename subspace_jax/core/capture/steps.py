"""Result of the walk, for the executor: the equations of a jaxpr that are layers or contain some."""

from typing import Any, NamedTuple

from subspace_jax.core.capture.parts import Part
from subspace_jax.core.capture.products import Key, Product


class Plan(NamedTuple):
    """A jaxpr, with the equations that are not evaluated unchanged, by position."""

    jaxpr: Any
    steps: dict[int, "Step"]
    keys: frozenset[Key]


class Use(NamedTuple):
    """One product of a layer, or its part of one that several joined kernels share."""

    product: Product
    part: Part | None
    key: Key
    matrix: tuple  # steps from the leaf to the matrix
    scans: tuple[tuple[int, int], ...]  # (scan, length), outermost first
    reads: tuple  # equal for uses that read the same rows


class Uses(NamedTuple):
    """The layers of one product: one, or each of several joined kernels."""

    each: tuple[Use, ...]


class Nested(NamedTuple):
    """An equation whose inner jaxpr contains layers."""

    plan: Plan
    split: tuple[int, int]  # constants, carry of a scan
    stacked: frozenset[Key]  # layers with one entry per iteration of a scan


class Looped(NamedTuple):
    """A loop of unknown length whose body contains layers."""

    plan: Plan


class Chosen(NamedTuple):
    """A choice between jaxprs that contain layers."""

    plans: tuple[Plan, ...]

    @property
    def keys(self) -> frozenset[Key]:
        """Layers of all branches."""
        return frozenset().union(*(plan.keys for plan in self.plans))


Step = Uses | Nested | Looped | Chosen


class Refusal(NamedTuple):
    """Leaves that cannot be followed, and why; with `unless_asked`, naming the layer allows it."""

    leaves: frozenset[str]
    why: str
    unless_asked: bool = False
