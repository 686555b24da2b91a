"""Mathematics on arrays and functions: no framework, no data, no files.

It exports modules, not functions, whose short names need the module's to be clear (`compress.sign`) or unique
(`capture.observe`, `quantize.observe`): `from subspace_jax.core import capture`. Modules load at their first use.
"""

from subspace_jax.lazy import modules

__all__ = [
    "attacks", "binary", "capture", "checks", "closures", "compress", "convolution", "convolve", "costs", "curvature",
    "exchange", "inference", "keys", "kinks", "likelihood", "losses", "meshes", "metrics", "moments", "packed",
    "processes", "programs", "quantize", "roc", "shares", "subspace", "topology", "turns",
]  # fmt: skip
__getattr__, __dir__ = modules(__name__, __all__)
