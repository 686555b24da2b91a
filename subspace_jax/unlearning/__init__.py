"""Make a trained classifier forget classes: a closed-form edit, baselines, and evaluation."""

from subspace_jax.unlearning import baselines, class_projection, evaluation, samples

__all__ = ["baselines", "class_projection", "evaluation", "samples"]
