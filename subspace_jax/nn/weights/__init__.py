"""Published weights: files of the original ViT, timm, torchvision and Hugging Face, as variables of our networks."""

from subspace_jax.nn.weights.loading import Loaded, load

__all__ = ["Loaded", "load"]
