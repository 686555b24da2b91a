"""Make a trained classifier forget classes: the closed-form edit, and the measures of what was forgotten and kept."""

from subspace_jax.unlearning import class_projection, evaluation, samples

__all__ = ["class_projection", "evaluation", "samples"]
