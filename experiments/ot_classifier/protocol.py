"""One seed of ot_classifier: networks that differ in their code, each audited, and how its codes are distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.families import classifier
from experiments.ot_classifier import methods
from subspace_jax import data, training, trees
from subspace_jax.robustness import audit, latent, ot_classifier

if TYPE_CHECKING:
    from experiments.ot_classifier.experiment import Config

LATENT_KEY, NOISE_KEY = 15, 16  # beside those of the classifier family
SHOWN_CODES = 1000
Arrays = dict[str, np.ndarray]


def trained(config: Config, shared: classifier.Setup, seed: int, name: str) -> Arrays:
    """Variables of one network by path, those of its discriminator after "discriminator/"."""
    task, model = classifier.task(config, shared, seed), methods.parts(config, shared, name).whole
    key = jax.random.fold_in(jax.random.key(seed), classifier.TRAIN_KEY)
    method = methods.algorithm(config, shared, name, config.epochs * (len(task.image) // config.batch))
    variables = jax.jit(model.init)(key, blank(task.image))
    prepare = training.prepare(classifier.pixels(shared.scaling), augment=config.augment)
    state, _ = training.fit(
        ot_classifier.train_epoch(method, batch=config.batch, prepare=prepare), method.init(key, variables),
        (task.image, task.label), epochs=config.epochs, label=f"seed {seed}, {name}",
        after_epoch=lambda _, state, carries: ot_classifier.check_training(state),
    )  # fmt: skip
    found = training.variables(state)
    if "discriminator" in state.opt_state:
        found |= {"discriminator": state.opt_state["discriminator"]}
    return {path: np.asarray(leaf) for path, leaf in trees.flatten(found).items()}


def blank(image: np.ndarray) -> np.ndarray:
    """One image as a network sees it."""
    return np.zeros((1, *image.shape[1:]), np.float32)


def restored(init: Any, x: Any, arrays: Arrays, start: str = "") -> Any:
    """Variables of a network from arrays by path."""
    shapes = jax.eval_shape(init, jax.random.key(0), x)
    return jax.device_put(trees.map_with_path(lambda path, leaf: arrays[start + path], shapes))


def audited(config: Config, shared: classifier.Setup, arrays: Arrays, seed: int, name: str) -> dict[str, Any]:
    """Everything the audit of one network found, the moments of its codes, and what the report shows of it."""
    parts, seen = methods.parts(config, shared, name), classifier.case(shared, seed, config.images)
    variables = restored(parts.whole.init, blank(shared.test["image"]), arrays)
    plain = jax.tree_util.Partial(parts.whole.apply, variables)
    fn, draws = plain, None
    if config.latent_noise:
        noisy = ot_classifier.noisy(*parts, latent_noise=config.latent_noise)
        fn, draws = jax.tree_util.Partial(noisy, variables), config.draws
    usual = methods.tried(config, shared.classes)
    reference = plain if name == methods.undefended(config.networks)[0] else None
    found = audit.audit(*seen[:1], fn, *seen[1:], eps=config.eps, attacks=usual, reference=reference, draws=draws)
    along = classifier.along(config.strengths, config.eps)
    others = [eps for eps in along if eps != config.eps]
    weaker = audit.over_strengths(*seen[:1], fn, *seen[1:], strengths=others, attacks=usual, draws=draws)
    at = along.index(config.eps)
    result: dict[str, Any] = {
        f"right/{kind}": np.insert(weaker[kind], at, right, axis=0) for kind, right in found.right.items()
    }
    result |= {"clean": found.clean, "power": found.power, "warnings": np.array(found.warnings, str)}
    result |= classifier.smoothness(plain, seen.x, seen.y, found.clean)
    result |= classifier.fallen(plain, seen, found.examples)
    return result | distributed(config, shared, parts, variables, arrays, seed)


def distributed(
    config: Config, shared: classifier.Setup, parts: methods.Parts, variables: Any, arrays: Arrays, seed: int
) -> dict[str, Any]:
    """Moments of the codes of the training set, and how far those of the test set are from the prior."""
    key = jax.random.fold_in(jax.random.key(seed), LATENT_KEY)
    of_train, of_test = (
        codes(config, shared, parts, variables, columns, jax.random.fold_in(key, NOISE_KEY + number))
        for number, columns in enumerate((shared.columns, shared.test))
    )
    settings = {"classes": shared.classes, "prior_std": config.prior_std}
    early = latent.latent_report(key, of_train, shared.columns["label"], **settings)
    late = latent.latent_report(key, of_test, shared.test["label"], **settings)
    found: dict[str, Any] = {
        "latent_mean_max": abs(early.mean).max(), "latent_std_min": early.std.min(), "latent_std_max": early.std.max(),
        "sliced_w2": late.sliced_w2, "within_share": early.within / (early.within + early.between),
        "codes": of_test[:SHOWN_CODES], "codes_label": shared.test["label"][:SHOWN_CODES],
    }  # fmt: skip
    if any(path.startswith("discriminator/") for path in arrays):
        found["discriminator_accuracy"] = told_apart(config, arrays, of_test, key)
    return found


def codes(
    config: Config, shared: classifier.Setup, parts: methods.Parts, variables: Any, columns: dict[str, np.ndarray],
    key: Any,
) -> np.ndarray:  # fmt: skip
    """Codes of a split as the head reads them."""
    x = np.asarray(data.scale(data.inputs(columns), classifier.pixels(shared.scaling)))
    found = np.asarray(training.predict(parts.encoder.apply, ot_classifier.part(variables, "encoder"), x))
    if not config.latent_noise:
        return found
    return found + config.latent_noise * np.asarray(jax.random.normal(key, found.shape, found.dtype))


def told_apart(config: Config, arrays: Arrays, of_test: np.ndarray, key: Any) -> float:
    """Accuracy of the discriminator on codes of the test set and as many samples of the prior."""
    judge = methods.discriminator()
    variables = restored(judge.init, of_test[:1], arrays, "discriminator/")
    prior = config.prior_std * np.asarray(jax.random.normal(key, of_test.shape, of_test.dtype))
    said = np.asarray(judge.apply(variables, np.concatenate([of_test, prior])))[:, 0] > 0
    return float((said == np.repeat([False, True], len(of_test))).mean())
