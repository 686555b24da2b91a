"""Training on many devices where a network or its data do not fit on one, or where devices would wait for each other.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = [
    "splitbrain",
]
__getattr__, __dir__ = modules(__name__, __all__)
