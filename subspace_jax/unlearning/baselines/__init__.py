"""What class projection is compared with: eleven ways to forget by training, each in a few lines over one engine.

Every method is `method(key, model, variables, retain, forget, *, recipe=RECIPE) -> Unlearned`, with (x, y) of the
samples that stay and of those to forget, scaled as in training, and the cost in passes of one sample. All get the same
samples and, in what their papers leave open, the same recipe; `retrain` takes all that stays and the recipe of the
original, and is what the others try to reach.
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
