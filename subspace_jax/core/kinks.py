"""Whether a function is piecewise linear, where a method takes second derivatives of it."""

import numpy as np
from jax.extend.core import Jaxpr, Literal


def has_kinks(jaxpr: Jaxpr) -> bool:
    """Whether a value is compared with the constant 0 by max, as ReLU does, at any depth of a traced function.

    Leaky ReLU, which selects, and max-pooling, which compares values with each other, are not looked for.

    >>> import jax, jax.numpy as jnp
    >>> [has_kinks(jax.make_jaxpr(fn)(jnp.ones(2)).jaxpr) for fn in (jax.nn.relu, jax.nn.silu)]
    [True, False]
    """
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "max" and any(isinstance(v, Literal) and np.all(v.val == 0) for v in eqn.invars):
            return True
        parameters = [p for v in eqn.params.values() for p in (v if isinstance(v, tuple) else (v,))]
        inner = [getattr(p, "jaxpr", p) for p in parameters]
        if any(has_kinks(part) for part in inner if isinstance(part, Jaxpr)):
            return True
    return False
