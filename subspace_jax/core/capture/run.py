"""The executor: runs a plan equation by equation and hands every product of a layer to a visitor."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from subspace_jax.core.capture import parts
from subspace_jax.core.capture.parts import Part
from subspace_jax.core.capture.products import Product
from subspace_jax.core.capture.steps import Chosen, Looped, Nested, Plan, Step, Use, Uses
from subspace_jax.core.capture.table import Layer, Traced
from subspace_jax.core.convolve import derives_plainly
from subspace_jax.typing import Array, Params, PyTree


class Call(NamedTuple):
    """One evaluation of one layer, as a visitor sees it; rows are (n, d), with groups (groups, n, d).

    Of kernels that are concatenated before one product each has a call of its own, with its part of data and result.
    """

    layer: Layer
    product: Product
    part: Part | None
    x: Array
    kernel: Array
    result: Callable[[], Array]

    def inputs(self) -> Array:
        """The rows that the layer reads: patches for a convolution."""
        return self.product.inputs(self.x)

    def outputs(self) -> Array:
        """The rows that the layer gives, before any bias."""
        return self.product.outputs(self.result())

    def linear(self, matrix: Array) -> Array:
        """The same product with another matrix (d_in, k), as rows (n, k): a convolution stays a convolution."""
        return self.product.linear(self.x, matrix)


class Visitor(NamedTuple):
    """Functions called at each layer; `extras` are the arrays that `run` was given for it.

    Attributes:
      record: (call, extras) -> what is recorded, or None.
      swap: (call, extras) -> what the layer gives instead, in the layout of the product.
      watch: (call, result of the whole product, extras) -> the same values.
      streams: records of several uses of a layer are summed; otherwise they are rows, and are concatenated.
      once: they are all the same, and the last is kept.
    """

    record: Callable[[Call, Any], Any] | None = None
    swap: Callable[[Call, Any], Array] | None = None
    watch: Callable[[Call, Array, Any], Array] | None = None
    streams: bool = False
    once: bool = False

    def join(self, a: PyTree, b: PyTree) -> PyTree:
        """One record from those of two uses of one layer."""
        if self.once:
            return b
        return jax.tree.map(operator.add, a, b) if self.streams else jnp.concatenate([a, b], -2)

    def add(self, records: dict, path: str, record: PyTree) -> None:
        """One more record of a layer."""
        records[path] = self.join(records[path], record) if path in records else record


def run(traced: Traced, params: Params, args: tuple, visitor: Visitor, extras: dict[str, PyTree]) -> tuple[Any, dict]:
    """fn(params, *args) and the records of its layers; `extras` are arrays per layer that the visitor receives."""
    values = jax.tree.leaves((params, *args))
    outs, records = _Run(traced.names, visitor).plan(traced.plan, traced.consts, values, extras)
    return jax.tree.unflatten(traced.structure, outs), records


class _Run(NamedTuple):
    names: dict
    visitor: Visitor

    def plan(self, plan: Plan, consts: Sequence, values: Sequence, extras: dict) -> tuple[list, dict]:
        """Evaluate one jaxpr; values are dropped after their last use."""
        jaxpr, records = plan.jaxpr, {}
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
        last = {atom: i for i, eqn in enumerate(jaxpr.eqns) for atom in eqn.invars if not isinstance(atom, jex.Literal)}
        keep = {atom for atom in jaxpr.outvars if not isinstance(atom, jex.Literal)}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jex.Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            outs, new = self._equation(eqn, plan.steps.get(i), [read(atom) for atom in eqn.invars], extras)
            env.update(zip(eqn.outvars, outs, strict=True))
            for path, record in new.items():
                self.visitor.add(records, path, record)
            for atom in (*eqn.invars, *eqn.outvars):
                if not isinstance(atom, jex.Literal) and last.get(atom, -1) <= i and atom not in keep:
                    env.pop(atom, None)
        return [read(atom) for atom in jaxpr.outvars], records

    def _equation(self, eqn: Any, step: Step | None, values: list, extras: dict) -> tuple[Sequence, dict]:
        if isinstance(step, Nested) and not step.plan.keys.isdisjoint(self.names):
            return self._enter(eqn, step, values, extras)
        if isinstance(step, Looped) and not step.plan.keys.isdisjoint(self.names):
            return self._loop(eqn, step, values, extras)
        if isinstance(step, Chosen) and not step.keys.isdisjoint(self.names):
            return self._choose(eqn, step, values, extras)
        if isinstance(step, Uses) and any(use.key in self.names for use in step.each):
            return self._product(eqn, step.each, values, extras)
        return _bind(eqn, values), {}

    def _product(self, eqn: Any, uses: tuple[Use, ...], values: list, extras: dict) -> tuple[Sequence, dict]:
        """One product: of a layer, or of several that are joined before it."""
        whole = functools.cache(lambda: _bind(eqn, values)[0])
        calls = [self._call(eqn, use, values, whole) for use in uses if use.key in self.names]
        records: dict[str, PyTree] = {}
        record, swap, watch = self.visitor.record, self.visitor.swap, self.visitor.watch
        if record:
            for call in calls:
                if (new := record(call, extras.get(call.layer.path))) is not None:
                    self.visitor.add(records, call.layer.path, new)
        if swap:
            return [self._swapped(eqn, uses, values, whole, lambda call: swap(call, extras[call.layer.path]))], records
        result = whole()
        if watch:
            for call in calls:
                result = watch(call, result, extras[call.layer.path])
        return [result], records

    def _swapped(self, eqn: Any, uses: Sequence[Use], values: list, whole: Callable, swap: Callable) -> Array:
        """The product with some of its layers computed another way, the others as they are."""
        shape, results = eqn.outvars[0].aval.shape, []
        for use in uses:
            known = use.key in self.names
            y = swap(self._call(eqn, use, values, whole)) if known else _own(eqn, use, values, whole)
            results.append(parts.put(y, use.part.result, shape) if use.part else y)
        return functools.reduce(operator.add, results)

    def _call(self, eqn: Any, use: Use, values: list, whole: Callable[[], Array]) -> Call:
        x, kernel = (values[side] for side in (use.product.data_side, 1 - use.product.data_side))
        if use.part:
            x, kernel = parts.take(x, use.part.data), parts.take(kernel, use.part.kernel)
        return Call(self.names[use.key], use.product, use.part, x, kernel, lambda: _own(eqn, use, values, whole))

    def _enter(self, eqn: Any, nested: Nested, values: list, extras: dict) -> tuple[Sequence, dict]:
        """Evaluate the inner jaxpr under the same transformation."""
        name, params = eqn.primitive.name, eqn.params
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        consts = getattr(inner, "consts", ())

        def body(extras: dict, *values: Any) -> tuple[list, dict]:
            return self.plan(nested.plan, consts, values, extras)

        if name == "scan":
            return self._scan(eqn, nested, body, values, extras)
        if name in ("jit", "pjit"):
            body.__name__ = params["name"]
            body = jax.jit(body)
        elif "prevent_cse" in params:
            body = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
        elif name.startswith("custom_") and not derives_plainly(eqn):
            body = _without_derivative(body, name, nested)
        return body(extras, *values)

    def _choose(self, eqn: Any, chosen: Chosen, values: list, extras: dict) -> tuple[Sequence, dict]:
        """A choice of branches: layers of those that are not taken read no rows."""
        index, *operands = values
        inner = zip(chosen.plans, eqn.params["branches"], strict=True)
        branches = [functools.partial(self.plan, plan, each.consts, extras=extras) for plan, each in inner]
        if self.visitor.once:
            return _bind(eqn, values), {path: new for branch in branches for path, new in branch(operands)[1].items()}
        empty = self._nothing({path: n for f in branches for path, n in jax.eval_shape(f, operands)[1].items()})

        def recorded(branch: Callable, operands: list) -> tuple[list, dict]:
            outs, records = branch(operands)
            return outs, {**empty, **records}

        return lax.switch(index, [functools.partial(recorded, branch) for branch in branches], operands)

    def _loop(self, eqn: Any, looped: Looped, values: list, extras: dict) -> tuple[Sequence, dict]:
        """A loop of unknown length: the records of its iterations are added up in the carry."""
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        inner, ends = eqn.params["body_jaxpr"], jex.jaxpr_as_fun(eqn.params["cond_jaxpr"])
        body = functools.partial(self.plan, looped.plan, inner.consts, extras=extras)
        fixed, start = values[n : n + m], values[n + m :]
        if self.visitor.once:
            return _bind(eqn, values), body([*fixed, *start])[1]
        if self.visitor.watch:
            raise ValueError(f"{self._first(looped)!r} is in a 'while', of which JAX takes no gradients backwards.")
        empty = self._nothing(jax.eval_shape(body, [*fixed, *start])[1])

        def goes_on(carry: list) -> Array:
            return ends(*values[:n], *carry)[0]

        def step(state: tuple[list, dict]) -> tuple[list, dict]:
            carry, sums = state
            outs, records = body([*fixed, *carry])
            if (own := goes_on(carry)).ndim:  # under vmap: what has ended waits for the others
                both = zip(outs, carry, strict=True)
                outs = [jnp.where(jnp.expand_dims(own, range(own.ndim, new.ndim)), new, old) for new, old in both]
            return outs, {path: self.visitor.join(sums[path], record) for path, record in records.items()}

        return lax.while_loop(lambda state: goes_on(state[0]).any(), step, (start, empty))

    def _first(self, looped: Looped) -> str:
        return min(layer.path for key, layer in self.names.items() if key in looped.plan.keys)

    def _nothing(self, records: dict) -> dict:
        """Records, given as shapes, of products that are not evaluated."""
        if records and not self.visitor.streams:
            raise ValueError(
                f"{min(records)!r} is in a branch that may not be taken or in a 'while': it has moments, no fixed rows."
            )
        return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), records)

    def _scan(self, eqn: Any, nested: Nested, body: Callable, values: list, extras: dict) -> tuple[Sequence, dict]:
        """A scan: stacked layers leave one record per iteration, shared ones add theirs up in the carry."""
        n, m = nested.split
        stacked = {self.names[key].path for key in nested.stacked if key in self.names}
        walked = {path: extra for path, extra in extras.items() if path in stacked}
        fixed = {path: extra for path, extra in extras.items() if path not in stacked}

        def step(carry: list, slices: list, walked: dict) -> tuple[list, list, dict, dict]:
            outs, records = body({**fixed, **walked}, *values[:n], *carry, *slices)
            own = {path: record for path, record in records.items() if path in stacked}
            return outs[:m], outs[m:], own, {path: record for path, record in records.items() if path not in stacked}

        def iterate(state: tuple, xs: tuple) -> tuple[tuple, tuple]:
            carry, outs, own, shared = step(state[0], *xs)
            if carried:
                sums = {path: self.visitor.join(state[1][path], record) for path, record in shared.items()}
                return (carry, sums), (outs, own, {})
            return (carry, {}), (outs, own, shared)

        xs = values[n + m :], walked
        start, carried = {}, self.visitor.streams or self.visitor.once
        if carried:
            first = jax.tree.map(lambda a: a[0], xs)
            start = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: step(values[n : n + m], *first)[3]))
        options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
        (carry, sums), (outs, own, rows) = lax.scan(iterate, (values[n : n + m], start), xs, **options)
        joined = {path: jnp.moveaxis(r, 0, -3).reshape(*r.shape[1:-2], -1, r.shape[-1]) for path, r in rows.items()}
        return [*carry, *outs], {**own, **sums, **joined}


def _bind(eqn: Any, values: Sequence) -> Sequence:
    """The results of the equation, unchanged."""
    with eqn.ctx.manager:
        outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return outs if eqn.primitive.multiple_results else [outs]


def _own(eqn: Any, use: Use, values: Sequence, whole: Callable[[], Array]) -> Array:
    """What one layer gives: its part of the product's result, or what it adds to it."""
    if use.part is None:
        return whole()
    if not use.part.adds:
        return parts.take(whole(), use.part.result)
    side = use.product.data_side
    operands = parts.take(values[side], use.part.data), parts.take(values[1 - side], use.part.kernel)
    return _bind(eqn, operands if side == 0 else operands[::-1])[0]


def _without_derivative(body: Callable, name: str, nested: Nested) -> Callable:
    """Inside a custom derivative rule: the values can be followed, its rule cannot, so differentiation is refused."""
    guarded = jax.custom_jvp(body)

    @guarded.defjvp
    def refuse(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        leaves = ", ".join(sorted({repr(key.leaf) for key in nested.plan.keys}))
        raise ValueError(
            f"cannot differentiate through {name!r}, which holds the weight {leaves}: entering it loses its own "
            "derivative rule. Name the other layers in layers= to leave it as it is."
        )

    return guarded
