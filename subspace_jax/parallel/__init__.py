"""One training that does not fit in one place, or should not wait there.

`splitbrain` spreads a network and its data over devices; `asap` trains workers that average with their neighbours
without a barrier, on a simulated and on a real clock. Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["asap", "splitbrain"]
__getattr__, __dir__ = modules(__name__, __all__)
