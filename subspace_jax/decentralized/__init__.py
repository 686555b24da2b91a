"""Training without a server: agents with data of their own, who exchange with their neighbours in a graph.

Every method is an `Algorithm` for ONE agent, written against `core.exchange.Comm`; `core.exchange.vmap`, `pmap` and
`shard_map` run it for all. `methods` has them by name, `protocol` runs one from its start to its end.

Modules load when they are first used: `protocol` needs the library that writes checkpoints, the methods do not.
"""

from subspace_jax.lazy import modules

__all__ = [
    "cga", "choco_sgd", "codes", "deep_squeeze", "gossip", "idkd", "labelling", "low_precision", "methods", "ngc",
    "protocol", "push_sum", "qgm", "soft_labels", "state", "train",
]  # fmt: skip
__getattr__, __dir__ = modules(__name__, __all__)
