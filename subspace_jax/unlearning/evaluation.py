"""Evaluate unlearning: accuracies, membership attacks, a linear probe of the features, weight changes.

The aim is a network like one retrained without the classes: no accuracy on them, samples of them that an attack cannot
tell from unseen ones (`svc_mia`, `ulira`), features that no longer separate them (`linear_probe`: many methods only
change the head).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.core import capture, checks, likelihood, metrics
from subspace_jax.core.capture import Layers
from subspace_jax.typing import Array, Float, Int, Params
from subspace_jax.unlearning.samples import Classes, as_classes

Real = Float[Array | np.ndarray, "..."]


class ClassAccuracy(NamedTuple):
    """Accuracy on samples of the classes to keep, and of those to forget."""

    retain: Float[Array, ""]
    forget: Float[Array, ""]


class ULira(NamedTuple):
    """One value per held-out pair of models; at 0.5 the attack cannot tell them apart: perfect unlearning."""

    auc: Float[Array, " models"]
    balanced_accuracy: Float[Array, " models"]


@checks.on_host
def class_accuracy(
    logits: Float[Array | np.ndarray, "n classes"], y: Int[Array | np.ndarray, " n"], *, forget: Classes
) -> ClassAccuracy:
    """Accuracy on the classes to keep and on those to forget; not for use inside `jit`.

    Args:
      logits: class scores.
      y: true classes.
      forget: classes to forget, or the one class.

    Raises:
      ValueError: logits that are not (n, classes); labels that are no integers in [0, classes), (n,); a class to forget
        that is not in the labels, or no other class in them.
    """
    _check_scores(logits, y)
    y, classes = np.asarray(y), as_classes(forget)
    if len(missing := np.setdiff1d(classes, y)) or np.isin(y, classes).all():
        wrong = f"class {missing[0]} is not among them" if len(missing) else "no class stays"
        raise ValueError(f"labels {np.unique(y)} with {classes.tolist()} forgotten: {wrong}.")
    gone, logits = np.isin(y, classes), np.asarray(logits)
    return ClassAccuracy(*(_accuracy(logits[mask], y[mask]) for mask in (~gone, gone)))


_accuracy = jax.jit(metrics.accuracy)


def forget_score(retain: Any, forget: Any) -> Any:
    """acc_retain (1 - acc_forget), accuracies as fractions; 1 is best. For `unlearn_search` to maximise."""
    return retain * (1 - forget)


def confusion_matrix(
    logits: Float[Array | np.ndarray, "n classes"], y: Int[Array | np.ndarray, " n"]
) -> Int[Array, "classes classes"]:
    """Counts: row = true class, column = largest logit; rows of logits with a NaN are not counted.

    Raises:
      ValueError: shapes and labels, as in `class_accuracy`.
    """
    _check_scores(logits, y)
    logits = jnp.asarray(logits)
    counted = ~jnp.isnan(logits).any(axis=1)
    empty = jnp.zeros((logits.shape[1],) * 2, jnp.int32)
    return empty.at[jnp.asarray(y), logits.argmax(axis=1)].add(counted)


def label_logit(logits: Float[Array | np.ndarray, "n classes"], y: Int[Array | np.ndarray, " n"]) -> Float[Array, " n"]:
    """log(p_y / (1 - p_y)) = z_y - log sum_{k != y} exp z_k, without rounding where p_y is near 1; for `ulira`.

    Its sigmoid is the probability of the label, for `svc_mia`. Logits and log-probabilities give the same.

    Raises:
      ValueError: as `confusion_matrix`.
    """
    _check_scores(logits, y)
    return likelihood.label_logit(jnp.asarray(logits), y)


@checks.on_host
def svc_mia(retain_train: Real, forget_train: Real, forget_test: Real) -> float:
    """Share of unseen forget samples that an attack calls non-members; 1 is best, as for a retrained network.

    SVC(rbf, C=3, gamma="auto") on the probability of the true label, trained to tell retain-train (1) from
    forget-train (0); the score is the share of forget-test classified as 0. Quadratic cost in the training samples.

    Args:
      retain_train: probabilities of the true label (n,), of training samples that stay.
      forget_train: the same, of training samples to forget.
      forget_test: the same, of test samples of the classes to forget.

    Raises:
      ValueError: an empty set, another shape, values that are no probabilities (logits, log-probabilities).
    """
    sets = [checks.as_real("probabilities", values) for values in (retain_train, forget_train, forget_test)]
    for name, values in zip(("retain_train", "forget_train", "forget_test"), sets, strict=True):
        if values.ndim != 1 or not values.size:
            raise ValueError(f"{name} holds one probability per sample, (n,), at least one; got shape {values.shape}.")
        checks.check_finite(name, values)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"{name} holds probabilities of the true label, in [0, 1]; got {values.min():g} to {values.max():g}: "
                "take the sigmoid of label_logit."
            )
    from sklearn.svm import SVC  # slow to import, and few need it

    members = np.repeat([1, 0], [len(sets[0]), len(sets[1])])
    attack: Any = SVC(kernel="rbf", C=3, gamma="auto")
    attack.fit(np.concatenate(sets[:2])[:, None], members)
    return float(np.mean(attack.predict(sets[2][:, None]) == 0))


@checks.on_host
def ulira(unlearned: Float[Array | np.ndarray, "models n"], retrained: Float[Array | np.ndarray, "models n"]) -> ULira:
    """Can the likelihood ratio tell unlearned networks from retrained ones, sample by sample?

    Each pair of networks is held out in turn. For each sample, Gaussians (mean, std) are fitted to the others' logits,
    unlearned and retrained; the log ratio of the two densities is the attack's score on the held-out pair. The
    balanced accuracy is taken at the threshold where FPR + TPR is closest to 1. The authors' code instead scores the
    last shadow network, which is part of the fit. To audit one network put it last and read [-1].

    Args:
      unlearned: `label_logit` of the samples to forget, a row per network trained on all and then unlearned.
      retrained: the same, a row per network trained without these samples.

    Raises:
      ValueError: other shapes, fewer than 3 networks, no sample, values that are not finite or look like probabilities.
    """
    if np.ndim(unlearned) != 2 or np.shape(unlearned) != np.shape(retrained):
        raise ValueError(f"one (models, n) array a side; got {np.shape(unlearned)} and {np.shape(retrained)}.")
    models, n = np.shape(unlearned)
    if models < 3 or not n:
        raise ValueError(f"holding one out takes at least 3 networks a side, and samples; got {models} with {n}.")
    for name, values in (("unlearned", np.asarray(unlearned)), ("retrained", np.asarray(retrained))):
        checks.check_finite(
            name, values, remedy="a network diverged, or label_logit was given probabilities of 0 and 1"
        )
        if ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} holds probabilities, all in [0, 1]: take label_logit of the class scores.")
    return ULira(*_held_out(jnp.stack([jnp.asarray(unlearned), jnp.asarray(retrained)])))


@jax.jit
def _held_out(sides: Float[Array, "2 models n"]) -> tuple[Array, Array]:
    """AUC and balanced accuracy of each pair, by the Gaussians of the others."""
    _, models, n = sides.shape
    member = jnp.arange(2 * n) < n

    def one(model: Array) -> tuple[Array, Array]:
        others = (jnp.arange(models) != model)[None, :, None]
        fitted = likelihood.floored(likelihood.fit(sides, others, axis=1))
        unlearned, retrained = (likelihood.Gaussian(fitted.mean[i][None], fitted.std[i][None]) for i in (0, 1))
        ratio = likelihood.log_ratio(sides[:, model], unlearned, retrained).ravel()
        fpr, tpr = metrics.roc(ratio, member)
        at = jnp.argmin(jnp.abs(fpr + tpr - 1))
        return metrics.auroc(ratio, member), (tpr[at] + 1 - fpr[at]) / 2

    return jax.vmap(one)(jnp.arange(models))


@checks.on_host
def linear_probe(
    train_features: Float[Array | np.ndarray, "n d"],
    train_y: Int[Array | np.ndarray, " n"],
    test_features: Float[Array | np.ndarray, "m d"],
    test_y: Int[Array | np.ndarray, " m"],
    *,
    forget: Classes,
    ridge: float = 1e-3,
) -> ClassAccuracy:
    """Accuracies of a new head, fitted on hidden features with the labels of all classes, also those to forget.

    Ridge regression of one-hot labels on centred features, (F'F + ridge tr(F'F)/d I) W = F'Y, in float64. From
    constant features it predicts the most frequent class.

    Args:
      train_features: hidden features of training samples.
      train_y: their classes, those to forget among them.
      test_features: of test samples.
      test_y: their classes.
      forget: classes to forget, or the one class.
      ridge: relative to the mean energy of a feature, above 0.

    Raises:
      ValueError: a ridge that is not positive; features that are not (n, d), not finite or of other samples than the
        labels; as `class_accuracy`, of the test labels.
    """
    train, test = checks.as_real("train_features", train_features), checks.as_real("test_features", test_features)
    if train.ndim != 2 or test.ndim != 2 or not ridge > 0:
        raise ValueError(f"features are (n, d) and ridge is above 0; got {train.shape}, {test.shape} and {ridge}.")
    for name, features, y in (("train", train, train_y), ("test", test, test_y)):
        checks.check_labels(y, name=f"{name}_y")
        checks.check_lengths(**{f"{name}_features": features, f"{name}_y": y})
        checks.check_finite(f"{name}_features", features)
    classes = 1 + max(int(np.max(train_y)), int(np.max(test_y)))
    checks.check_labels(train_y, classes)
    onehot = np.eye(classes)[np.asarray(train_y)]
    centre, prior = train.mean(axis=0), onehot.mean(axis=0)
    rows = train - centre
    gram = rows.T @ rows
    energy = np.trace(gram) / len(gram) or 1.0
    weights = np.linalg.solve(gram + ridge * energy * np.eye(len(gram)), rows.T @ (onehot - prior))
    return class_accuracy((test - centre) @ weights + prior, test_y, forget=forget)


@checks.on_host
def relative_weight_change(table: Layers, before: Params, after: Params) -> dict[str, float]:
    """||K_after - K_before|| / ||K_before|| of each layer, Frobenius; for a kernel of zeros the change itself."""
    old, new = (capture.kernels(table, params) for params in (before, after))
    norms = {path: float(jnp.linalg.norm(kernel.ravel())) for path, kernel in old.items()}
    return {path: float(jnp.linalg.norm((new[path] - old[path]).ravel())) / (norms[path] or 1.0) for path in old}


def _check_scores(logits: Any, y: Any) -> None:
    if np.ndim(logits) != 2:
        raise ValueError(
            f"class scores are (n, classes); got shape {np.shape(logits)}: wrap a network that returns more than its "
            "logits."
        )
    checks.check_labels(y, np.shape(logits)[1])
    checks.check_lengths(logits=logits, labels=y)
