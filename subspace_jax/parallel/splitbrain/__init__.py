"""SplitBrain: data parallel convolutions, model parallel dense layers (Lai, Kadav & Kruus, arXiv 2112.15317).

Dense layers hold most parameters of a network, convolutions do most of its work. D x K devices on a mesh with the axes
"data" and "model": each has samples of its own, and the convolutions. A large dense layer is split over the K members
of a group, which exchange activations around it; D groups hold it. The loss and its gradients are those of one device.

    plan          which dense layer is split, and how; `param_specs` and `shard_params` place the parameters
    hybrid_loss   the loss of such a network, to be differentiated as any other
    train_step, compile_step   a step of it, and its program from shapes alone
    memory_model, comm_model   bytes on a device and through its collectives, before anything is compiled
    plain_loss, annotated_loss, fsdp_specs   the same network on one device, and placed by the compiler

>>> import jax
>>> params = {"dense0": {"kernel": jax.ShapeDtypeStruct((64, 96), "float32")},
...           "dense1": {"kernel": jax.ShapeDtypeStruct((96, 80), "float32")}}
>>> [layer.kind for layer in plan(params, ("dense0", "dense1"), data=2, model=4, batch=8).layers]
['column', 'row']
"""

from subspace_jax.parallel.splitbrain.baselines import annotated_loss, fsdp_specs, plain_loss
from subspace_jax.parallel.splitbrain.exchanges import modulo_gather, modulo_scatter, own_rows, shard_gather, shard_own
from subspace_jax.parallel.splitbrain.loss import SCHEMES, check_batch, hybrid_loss
from subspace_jax.parallel.splitbrain.network import Network
from subspace_jax.parallel.splitbrain.planning import KINDS, LAYOUTS, RULES, Layer, Plan, plan
from subspace_jax.parallel.splitbrain.predict import Memory, comm_model, memory_model
from subspace_jax.parallel.splitbrain.shards import gather_params, grid, pad_params, param_specs, shard_params
from subspace_jax.parallel.splitbrain.step import compile_step, state_specs, train_step

__all__ = [
    "KINDS", "LAYOUTS", "RULES", "SCHEMES", "Layer", "Memory", "Network", "Plan", "annotated_loss", "check_batch",
    "comm_model", "compile_step", "fsdp_specs", "gather_params", "grid", "hybrid_loss", "memory_model",
    "modulo_gather", "modulo_scatter", "own_rows", "pad_params", "param_specs", "plain_loss", "plan", "shard_gather",
    "shard_own", "shard_params", "state_specs", "train_step",
]  # fmt: skip
