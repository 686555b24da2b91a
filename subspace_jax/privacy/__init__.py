"""Who can tell that a sample was in the training set? Membership attacks from saved outputs of a few models.

The pieces, in the order of an audit (those without a module yet are named as they will be):

    keep = masks.shadow_masks(key, 64, len(y))  # bool (models, n): who is trained on what
    ...                                         # train a model on each row, save its logits, maybe its curvature
    said = statistics.from_logits(logits, y, curvature=c)  # (models, queries, n, classes) and (models, queries, n)
        -> Statistics(loss, label_logit, top_logit, entropy, curvature), each float64 (models, queries, n)
    score = membership.attack(name, target, shadows, keep, population=None)  # Statistics -> (targets, n), high = member
    membership.TABLE[name] -> Attack(function, statistic, needs)  # needs: some of "shadows", "population"
    core.roc.summary(score[0], member) -> Summary(auroc, balanced_accuracy, tpr, negatives)
    core.roc.curve(score[0], member) -> Curve(fpr, tpr, threshold); core.roc.exposure(...), core.roc.bootstrap(key, ...)

Modules load when they are first used.
"""

import importlib

__all__ = ["accounting", "audit", "clipping", "dp_sgd", "masks", "noise", "reports", "sampling"]


def __getattr__(name: str):
    """Import a module at its first use."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
