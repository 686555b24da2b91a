"""One seed of class_unlearning: every method on one network, and what is measured of each."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments.class_unlearning import methods
from experiments.families import classifier
from experiments.harness import runner, timing
from subspace_jax import training
from subspace_jax.core import capture
from subspace_jax.typing import Variables
from subspace_jax.unlearning import evaluation

if TYPE_CHECKING:
    from experiments.class_unlearning.experiment import Config


Arrays = dict[str, dict[str, np.ndarray]]
ATTACKED = 2000  # samples a side of the simple attack, which is quadratic in them


confusion_matrix = jax.jit(evaluation.confusion_matrix)


def one_seed(config: Config, shared: classifier.Setup, seed: int, compiled: set[Any]) -> Arrays:
    """{method: arrays} of one network, and under "ulira" the attack on it."""
    shared = classifier.own(config, shared, seed)
    task = classifier.task(config, shared, seed)
    methods.check(config, shared, task, seed)
    original = classifier.trained(config, shared, task, seed)
    earlier = tuple(c for edit in original.config["edits"] for c in edit.get("forget", ()))
    if again := set(earlier) & set(config.forget):
        raise ValueError(f"class {min(again)} is forgotten in {config.checkpoint} already: name others in --forget.")
    rows = methods.choose(config, task, seed, config.forget, earlier)
    case = methods.Case(config, shared, task, seed, original, earlier, rows)
    found = {}
    for name, method in methods.methods(case).items():
        work = functools.partial(run_method, case, name, method, compiled)
        found[name] = runner.stage(config, f"seed{seed}_{name}", work)
    if config.shadows and not earlier and "weights" not in original.config:
        alphas = (float(found["projection"][name]) for name in ("alpha_r", "alpha_f"))
        found["ulira"] = runner.stage(config, f"seed{seed}_ulira", functools.partial(methods.attack, case, *alphas))
    return found


def run_method(case: methods.Case, name: str, method: methods.Method, compiled: set[Any]) -> dict[str, Any]:
    """Everything that is measured of one method; its time is that of a second run where the first one compiles."""
    if (program := (name, case.original.model.apply)) not in compiled:
        jax.block_until_ready(method()[0].variables)
        compiled.add(program)
    (found, chosen), seconds = timing.timed(method)
    if name == "projection":
        classifier.save_edited(
            case.config, case.seed, case.original, found.variables, method="unlearn_classes",
            layers=methods.edited_layers(case),
            forget=list(case.config.forget), alpha_r=chosen["alpha_r"], alpha_f=chosen["alpha_f"],
            data=case.config.data,
        )  # fmt: skip
    cost = {"seconds": seconds, "forward": found.forward, "backward": found.backward}
    return judge(case, found.variables) | cost | chosen


def judge(case: methods.Case, variables: Variables) -> dict[str, Any]:
    """What a network still knows: accuracies, the simple attack, a probe of its features, the change of its weights."""
    model, before = case.original.model, case.original.variables
    rows, task, forget = case.rows, case.task, case.config.forget
    test_x, test_y = task.test_x[rows.test], task.test_label[rows.test]
    logits = training.predict(model.apply, variables, test_x)
    accuracy = evaluation.class_accuracy(logits, test_y, forget=forget)
    gone = np.isin(test_y, forget)
    attacked = [*(case.train(part[:ATTACKED]) for part in (rows.stay, rows.go)), (test_x[gone], test_y[gone])]
    odds = [methods.label_logit(training.predict(model.apply, variables, x), y) for x, y in attacked]
    train_x, train_y = case.train(np.concatenate([rows.stay, rows.go]))
    features = [training.predict(classifier.penultimate(model.features), variables, x) for x in (train_x, test_x)]
    probe = evaluation.linear_probe(features[0], train_y, features[1], test_y, forget=forget)
    change = evaluation.relative_weight_change(capture.layers(model.apply, variables, test_x[:1]), before, variables)
    return {
        "retain_accuracy": accuracy.retain,
        "forget_accuracy": accuracy.forget,
        "mia": evaluation.svc_mia(*(jax.nn.sigmoid(values) for values in odds)),
        "probe": probe.forget,
        "confusion": confusion_matrix(logits, test_y),
        "layers": list(change),
        "change": list(change.values()),
    }
