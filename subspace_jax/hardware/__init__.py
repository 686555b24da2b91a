"""What analog hardware does to a trained network: accuracy over chips, energy, delay, converters that pruning saves.

`sram` runs any network as an array of 6T-SRAM cells with process variation would, many chips at a time; `circuit` sums
the analog `products` that were simulated for such cells, group by group, through a converter. `system` says what that
costs beside a digital processor, and `waveform` draws one product in time. `adc_pruning` trains networks for crossbars
whose converters need fewer bits, `snapping` prunes them, `conversion` counts the bits and runs what is left of them.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["adc_pruning", "circuit", "conversion", "products", "snapping", "sram", "system", "waveform"]
__getattr__, __dir__ = modules(__name__, __all__)
