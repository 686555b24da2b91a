"""What analog hardware does to a trained network: accuracy over chips, energy, delay.

`sram` runs any network as an array of 6T-SRAM cells with process variation would, many chips at a time; `circuit` sums
the analog `products` that were simulated for such cells, group by group, through a converter. `system` says what that
costs beside a digital processor.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["circuit", "products", "sram", "system"]
__getattr__, __dir__ = modules(__name__, __all__)
