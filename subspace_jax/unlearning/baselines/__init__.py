"""Baselines of class projection: eleven gradient-based ways to forget classes.

Every method is `method(key, model, variables, retain, forget, *, recipe=RECIPE) -> Unlearned`, with (x, y) of the
samples to keep and of those to forget, scaled as in training; the cost is counted in passes of one sample. All get the
same samples and, where their papers leave it open, the same recipe; `retrain`, the reference that the others try to
match, takes all samples to keep and the recipe of the original.
"""

from subspace_jax.unlearning.baselines.descent import finetune, random_labels, retrain
from subspace_jax.unlearning.baselines.engine import RECIPE, Unlearned
from subspace_jax.unlearning.baselines.last_layers import cf_k, eu_k
from subspace_jax.unlearning.baselines.neggrad import neggrad, neggrad_plus
from subspace_jax.unlearning.baselines.salun import salun
from subspace_jax.unlearning.baselines.scrub import scrub
from subspace_jax.unlearning.baselines.ssd import ssd
from subspace_jax.unlearning.baselines.unsir import unsir

METHODS = {
    method.__name__: method
    for method in (retrain, neggrad, neggrad_plus, finetune, random_labels, salun, ssd, scrub, unsir, cf_k, eu_k)
}

__all__ = [
    "METHODS", "RECIPE", "Unlearned", "cf_k", "eu_k", "finetune", "neggrad", "neggrad_plus", "random_labels", "retrain",
    "salun", "scrub", "ssd", "unsir",
]  # fmt: skip
