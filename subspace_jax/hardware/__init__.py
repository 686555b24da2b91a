"""What analog hardware does to a trained network: accuracy over chips, energy, delay.

`sram` runs any network as an array of 6T-SRAM cells with process variation would, many chips at a time. `system` says
what that costs beside a digital processor.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["sram", "system"]
__getattr__, __dir__ = modules(__name__, __all__)
