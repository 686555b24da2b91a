"""Which inputs belong to none of the training classes? Detectors for one's own features, and honest figures of them.

Every detector is fitted on training data alone and gives scores that are HIGHER FOR KNOWN INPUTS. `detectors` says what
that is; `scores` has those of logits alone, `knn`, `mahalanobis`, `vim`, `react`, `ash`, `odin` and `norm_scaling` hold
one method each. `vrm` trains a network with an auxiliary class for the unknown, which `auxiliary_class` reads.
`thresholds` decides, `evaluation` measures, `outliers` makes inputs that no data set holds.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = [
    "ash", "auxiliary_class", "detectors", "evaluation", "knn", "mahalanobis", "norm_scaling", "odin", "outliers",
    "react", "scores", "thresholds", "vim", "vrm",
]  # fmt: skip
__getattr__, __dir__ = modules(__name__, __all__)
