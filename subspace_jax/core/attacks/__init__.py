"""Attacks on any function from images to logits: the smallest change of pixels that changes the answer.

`pgd`, `fgsm`, `mi_fgsm`, `apgd`, `square`, `cw_l2` and `noise` make an `Attack` of their settings, a pair of `init` and
`step`; `run` carries it out on images in [0, 1], one key an image, so that an image is changed in the same way alone or
in any batch. eps is in pixels of [0, 1], and traced: one program for all strengths. `logits_fn` is a function of the
images alone; `jax.tree_util.Partial(apply, variables)` passes the variables as arguments, so that all networks of one
architecture share a program and `jax.vmap` attacks many at once.

>>> import jax, jax.numpy as jnp
>>> from subspace_jax.core import attacks, keys
>>> logits_fn = lambda x: x @ jnp.array([[2.0, 0.0], [0.0, 1.0]])
>>> x, y = jnp.array([[0.5, 0.5]]), jnp.array([0])
>>> image_keys = keys.sample_keys(jax.random.key(0), jnp.arange(1))
>>> print(attacks.run(image_keys, attacks.fgsm(), logits_fn, x, y, eps=0.25))
[[0.25 0.75]]
"""

from subspace_jax.core.attacks.apgd import apgd
from subspace_jax.core.attacks.attack import Attack, Problem, bound, right, run
from subspace_jax.core.attacks.cw_l2 import cw_l2
from subspace_jax.core.attacks.noise import noise
from subspace_jax.core.attacks.objectives import OBJECTIVES, ascent, scores
from subspace_jax.core.attacks.pgd import fgsm, mi_fgsm, pgd, steps_of
from subspace_jax.core.attacks.square import square

__all__ = [
    "OBJECTIVES", "Attack", "Problem", "apgd", "ascent", "bound", "cw_l2", "fgsm", "mi_fgsm", "noise", "pgd", "right",
    "run", "scores", "square", "steps_of",
]  # fmt: skip
