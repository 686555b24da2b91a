"""Capture: the layers of ANY JAX function of (params, *args), their inputs, and the function with layers swapped.

No hook and no edit in the model: the function is traced to a jaxpr and walked. A layer is a product of data with one
parameter leaf (up to cast, reshape, transpose, static slice or split), whatever framework wrote it. Leaves that are
concatenated before one product are one layer each. A kernel that is computed from parameters alone (a LoRA sum, a mask,
a norm) is a layer too, to be measured; `write_kernels` tells which of these it can write.

>>> import jax, jax.numpy as jnp
>>> def mlp(params, x):
...     return jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"]) @ params["second"]["kernel"]
>>> params = {"first": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros((1, 4))}, "second": {"kernel": jnp.ones((4, 2))}}
>>> layers(mlp, params, jnp.ones((5, 3)))
path           kind   kernel  matrix  rows  reads as
first/kernel   dense  (3, 4)  3x4     5
second/kernel  dense  (4, 2)  4x2     5
other: first/bias
>>> out, moments = observe(mlp, params, jnp.ones((5, 3)))
>>> moments["first/kernel"].gram.shape
(3, 3)
"""

from subspace_jax.core.capture.records import collect, layers, observe, record
from subspace_jax.core.capture.replace import check_writes, factorise, kernels, replace, run_factorised, write_kernels
from subspace_jax.core.capture.run import Call
from subspace_jax.core.capture.static import named
from subspace_jax.core.capture.table import Layer, Layers

__all__ = [
    "Call",
    "Layer",
    "Layers",
    "check_writes",
    "collect",
    "factorise",
    "kernels",
    "layers",
    "named",
    "observe",
    "record",
    "replace",
    "run_factorised",
    "write_kernels",
]
