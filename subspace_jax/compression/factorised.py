"""Factorised networks as a `Model`, to be trained, evaluated and loaded like any other."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax

from subspace_jax.core import capture
from subspace_jax.nn import Model
from subspace_jax.typing import Variables


def factorised_model(model: Model, ranks: Mapping[str, int]) -> Model:
    """The network with each layer in `ranks` replaced by two thin factors where that saves parameters.

    Its variables are {"params": factorised, "batch_stats": ...}: the result of `utilized_rank.factorise(table,
    variables["params"], ...)` and the statistics of the dense network. It works with `training` and `checkpoint` like
    any model. Its functions are the same objects for all ranks, so that equal shapes compile once.

    Args:
      model: the dense network; its `init` tells the shapes of what is replaced.
      ranks: {path of a layer: rank}. Only `init` reads them: it factorises a fresh dense network, for training from
        scratch and for the shapes to restore a checkpoint.
    """

    def init(key: Any, x: Any) -> Variables:
        dense = model.init(key, x)
        table = capture.layers(model.apply, dense, x)
        return dense | {"params": capture.factorise(table, dense["params"], ranks)}

    return Model(init, *_functions(model))


@lru_cache(maxsize=64)  # one function object a network
def _functions(model: Model) -> tuple[Callable, ...]:
    """apply, train_apply, features."""

    def factorised(fn: Callable) -> Callable:
        def dense(params: Any, statistics: Any, *args: Any) -> Any:
            return fn({"params": params, "batch_stats": statistics}, *args)

        def run(variables: Variables, x: Any, *key: Any) -> Any:
            like = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
            return capture.run_factorised(dense, like)(variables["params"], variables["batch_stats"], x, *key)

        return run

    return tuple(factorised(fn) for fn in (model.apply, model.train_apply, model.features))
