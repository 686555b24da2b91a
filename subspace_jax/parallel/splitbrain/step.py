"""A training step over the devices of a plan, compiled from shapes alone to see what it takes, or run."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from subspace_jax.typing import Array, Params, PyTree

ALL = PartitionSpec(("data", "model"))  # how the samples of a global batch lie


def train_step(loss: Callable[[Params, Any, Any], Array], optimizer: optax.GradientTransformation) -> Callable:
    """The function step(params, state, x, y) -> (params, state, loss, gradients), to be put into `jit`."""

    def step(params: Params, state: PyTree, x: Any, y: Any) -> tuple[Params, PyTree, Array, Params]:
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value, grads

    return step


def state_specs(optimizer: optax.GradientTransformation, params: Params, specs: PyTree) -> PyTree:
    """Specs of the optimiser's state: what belongs to a parameter lies as that does, counts lie everywhere."""
    state = jax.eval_shape(optimizer.init, params)
    return optax.tree.map_params(
        optimizer.init, lambda _, spec: spec, state, specs, transform_non_params=lambda _: PartitionSpec()
    )


def compile_step(
    loss: Callable[[Params, Any, Any], Array],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    params: Params,
    specs: PyTree,
    batch: tuple[Any, Any],
) -> Any:
    """The compiled step(params, state, x, y) -> (params, state, loss), whose first two arguments are donated.

    Nothing has to exist: `core.programs` reads memory, operations and collectives from it.

    Args:
      loss: over this mesh, such as `hybrid_loss`.
      optimizer: whose state lies as the parameters do.
      mesh: the devices.
      params: arrays or shapes, padded where the plan pads.
      specs: how they lie, such as `param_specs`.
      batch: arrays or shapes of the global batch, x and y.
    """

    def on(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, spec)

    def shape(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on(spec))

    state, placed = jax.eval_shape(optimizer.init, params), state_specs(optimizer, params, specs)
    arguments = jax.tree.map(shape, params, specs), jax.tree.map(shape, state, placed)
    outputs = jax.tree.map(on, specs), jax.tree.map(on, placed), on(PartitionSpec())
    step = train_step(loss, optimizer)
    program = jax.jit(lambda *each: step(*each)[:3], donate_argnums=(0, 1), out_shardings=outputs)
    return program.lower(*arguments, *(shape(leaf, ALL) for leaf in batch)).compile()
