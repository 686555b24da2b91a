"""A small network, a batch of six samples, and what a step of training is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax import nn

N, D, K = 6, 4, 3
KEY, SGD = jax.random.key(0), optax.sgd(0.1, momentum=0.9)
RNG = np.random.default_rng(0)
X, Y = RNG.random((N, D)).astype(np.float32), np.arange(N) % K
PARAMS = {"first": jnp.asarray(RNG.normal(size=(D, 5)), jnp.float32), "second": jnp.ones((5, K))}


def fn(params, x):
    return jnp.tanh(x @ params["first"]) @ params["second"]


def apply(variables, x):
    return fn(variables["params"], x)


MODEL = nn.from_function(lambda key, x: PARAMS, fn)
VARIABLES = {"params": PARAMS, "batch_stats": {}}


class Step(NamedTuple):
    """A step from `held` on a batch.

    Attributes:
      made_by: the public function that gives it.
      fn: (held, x, y) -> (the same after the step, the loss it reports or None).
      held: the parameters, or the whole state.
      x: inputs of the batch.
      y: labels of the batch.
      learned: held -> what the step trains.
      carried: beginnings of the paths in held that this step hands on without a look.
      empty: whether a batch without samples is right.
      begin: (key, variables) -> held, where a method has one.
    """

    made_by: Callable
    fn: Callable
    held: Any
    x: np.ndarray = X
    y: np.ndarray = Y
    learned: Callable = lambda held: held
    carried: tuple[str, ...] = ()
    empty: bool = False
    begin: Callable | None = None
