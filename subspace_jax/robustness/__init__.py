"""Does a network withstand changed images, or does it only hide its gradients? And what do defences really add?

`audit` attacks any function from images to logits in several ways, joins them image by image and says whether its
gradients were masked. `trend` measures how examples made on one network carry over to others, designs ensembles by it
and attacks them through all members. `neighborhood` keeps the table of a layer that gives weighted means of embeddings
in place of a matrix product. `ot_classifier` trains networks that read a short code, whose distribution `latent`
compares with a prior. The attacks themselves are in `core.attacks`.

Modules load when they are first used.
"""

from subspace_jax.lazy import modules

__all__ = ["audit", "latent", "neighborhood", "ot_classifier", "trend"]
__getattr__, __dir__ = modules(__name__, __all__)
