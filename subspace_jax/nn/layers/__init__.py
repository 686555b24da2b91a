"""Layers that Flax does not have; modules load when they are first used."""

from subspace_jax.lazy import modules

__all__ = ["binary", "neighborhood", "norm", "quantized", "spiking"]
__getattr__, __dir__ = modules(__name__, __all__)
