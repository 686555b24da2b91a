"""Training with a server: clients with data of their own, who send it updates of the weights; and what these tell.

`fedavg` is the loop of rounds, with any compressor of `core.compress` on the way up. `tofu` sends a few synthetic
samples instead, whose gradient stands for the update. `inversion` rebuilds private images from an update, `matching`
scores what was rebuilt. A method is an `Algorithm` for ONE client, written against `core.exchange.Comm`;
`core.exchange.vmap`, `pmap` and `shard_map` run it for all.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["fedavg", "inversion", "matching", "tofu"]
__getattr__, __dir__ = modules(__name__, __all__)
