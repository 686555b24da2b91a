"""Make a trained classifier forget classes: the closed-form edit, its baselines, and the measures of both."""

from subspace_jax.unlearning import baselines, class_projection, evaluation, samples

__all__ = ["baselines", "class_projection", "evaluation", "samples"]
