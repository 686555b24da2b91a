"""Layers whose channels must be equally many, because their outputs meet element by element: the sums of a ResNet.

The function is traced and walked, as `core.capture` does it. Each value carries the layers from which it comes without
another layer in between; where an elementwise operation joins values of different layers, these form one group.

>>> import jax, jax.numpy as jnp
>>> def block(params, x):
...     x = x @ params["stem"]
...     return (x + jnp.tanh(x @ params["a"]) @ params["b"]) @ params["head"]
>>> shapes = {name: jax.ShapeDtypeStruct((4, 4), "float32") for name in ("stem", "a", "b", "head")}
>>> channel_groups(block, shapes, jax.ShapeDtypeStruct((2, 4), "float32"))
{'stem': 'stem', 'a': 'a', 'b': 'stem', 'head': 'head'}
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core as jex

from subspace_jax.core import capture
from subspace_jax.core.capture.plan import INLINE, PRODUCTS
from subspace_jax.core.capture.table import leaf_paths
from subspace_jax.typing import Params

INPUT = "the network's input"
ELEMENTWISE = {
    "add", "add_any", "sub", "mul", "div", "max", "min", "rem", "pow", "atan2", "nextafter", "select_n", "clamp",
    "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor",
}  # fmt: skip


class Flow(NamedTuple):
    """Where a value comes from: the last layers for data, the leaves for what is computed from parameters alone."""

    layers: frozenset[str] = frozenset()
    leaves: frozenset[str] = frozenset()


def channel_groups(fn: Callable, params: Params, *args: Any) -> dict[str, str]:
    """For each layer, by its leaf, the first layer of its group; its own name where it stands alone.

    `INPUT` is the group of layers that are joined with an argument of fn, whose channels are given.

    Args:
      fn: fn(params, *args), in inference mode.
      params: arrays or ShapeDtypeStructs.
      *args: arrays or ShapeDtypeStructs.

    Raises:
      ValueError: channels of several layers that meet in another way (a concatenation, a product of data with data, a
        loop), where a width cannot be chosen layer by layer; as `capture.layers`.
    """
    closed, groups = jax.make_jaxpr(fn)(params, *args), Groups()
    own = [Flow(leaves=frozenset([path])) for path in leaf_paths(params)]
    rest = [Flow(frozenset([INPUT]))] * (len(closed.jaxpr.invars) - len(own))
    groups.walk(closed.jaxpr, [*own, *rest])
    order = [INPUT, *dict.fromkeys(layer.leaf for layer in capture.layers(fn, params, *args).values())]
    return {leaf: min(groups.group(leaf), key=order.index) for leaf in order[1:]}


class Groups:
    """The layers found to be joined, as disjoint sets."""

    def __init__(self) -> None:
        self.sets: list[frozenset[str]] = []

    def group(self, leaf: str) -> frozenset[str]:
        """The set of a layer."""
        return next((found for found in self.sets if leaf in found), frozenset([leaf]))

    def join(self, layers: frozenset[str]) -> None:
        """These layers, and all that are joined with one of them, are one set from now on."""
        touched = [found for found in self.sets if found & layers]
        self.sets = [found for found in self.sets if not found & layers] + [layers.union(*touched)]

    def walk(self, jaxpr: Any, flows: Sequence[Flow]) -> list[Flow]:
        """Where the results of a jaxpr come from."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        env = dict(zip(jaxpr.invars, flows, strict=True))

        def flow(atom: Any) -> Flow:
            return Flow() if isinstance(atom, jex.Literal) else env.get(atom, Flow())

        for eqn in jaxpr.eqns:
            env |= zip(eqn.outvars, self.equation(eqn, [flow(atom) for atom in eqn.invars]), strict=True)
        return [flow(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, flows: list[Flow]) -> list[Flow]:
        """Where the results of one equation come from."""
        name = eqn.primitive.name
        if name in INLINE:
            return self.walk(eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")), flows)
        data = {flow.layers for flow in flows if flow.layers}
        if name in PRODUCTS and sum(bool(flow.layers) for flow in flows) == 1:
            kernel = next(flow for flow in flows if not flow.layers)
            return [Flow(kernel.leaves or next(iter(data)))]
        if len(data) > 1 and name not in ELEMENTWISE:
            met = ", ".join(sorted(frozenset().union(*data)))
            raise ValueError(f"channels of {met} meet in {name!r}, and not element by element: choose widths by hand.")
        whole = Flow(frozenset().union(*data), frozenset().union(*(flow.leaves for flow in flows)))
        if len(data) > 1:
            self.join(whole.layers)
        return [whole._replace(leaves=frozenset()) if whole.layers else whole] * len(eqn.outvars)
