"""Valid calls of memorization, unlearning and label noise."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.label_noise import early_stopping, trusted, verifix
from subspace_jax.memorization import (
    confident_learning,
    duplicates,
    dynamics,
    epoch_average,
    scores,
    second_split,
    stability,
)  # fmt: skip
from subspace_jax.unlearning import class_projection, evaluation, samples
from tests.fuzz.mutations import Call, Own, blind, call, unread
from tests.fuzz.values import (
    GRAM,
    JX,
    KERNEL,
    KEY,
    LOGITS,
    PARAMS,
    ROWS,
    SCORES,
    SEEN,
    TABLE,
    VARIABLES,
    Y3,
    X,
    Y,
    apply,
    fn,
    loss,
)

BESIDE = [(at, leaf) for at in (2, 3) for leaf in (1, 2)]  # of the moments only the Gram is used

RNG = np.random.default_rng(1)  # its own: the values of a file do not depend on which others were read


def finite(params):
    """NaN of NaN, as an accuracy of a network on data would be refused."""
    return float(jnp.sum(params["w"]))


def calls() -> list[Call]:
    outcome = np.abs(np.sign(RNG.normal(size=(8, 6)))).astype(np.float32)
    mask = np.tile(np.arange(6) % 2 == 0, (8, 1)) ^ (np.arange(8) % 2 == 0)[:, None]
    sums = stability.memorization_sums(outcome, mask)
    state = dynamics.update(dynamics.init(6), LOGITS, Y3)
    history = epoch_average.update(epoch_average.init(6), SCORES)
    split = second_split.update(second_split.init(6), LOGITS, Y3)
    unit = ROWS[:, 0]
    return [
        call(confident_learning.folds, KEY, 6, count=2),
        call(confident_learning.confident_learning, ROWS, Y3),
        blind(call(duplicates.conflicting_copies, np.concatenate([X, X]), np.concatenate([Y, 1 - Y]))),
        call(dynamics.init, 6),
        call(dynamics.update, Own(state), LOGITS, Y3),
        call(dynamics.margin, LOGITS, Y3),
        call(dynamics.finalize, Own(state)),
        call(epoch_average.init, 6, history=2),
        call(epoch_average.update, Own(history), SCORES),
        call(epoch_average.finalize, Own(history)),
        call(scores.input_grad_norm, loss, VARIABLES, JX, Y, precision=Own("highest")),
        call(scores.loss_value, loss, VARIABLES, JX, Y),
        call(scores.score, KEY, apply, VARIABLES, X, Y, name="loss"),
        call(scores.score, KEY, apply, VARIABLES, X, Y, name="fd_norm", probes=2, step=1e-3, batch=4),
        call(scores.scorer, "fd_norm", apply, probes=2, step=1e-3),
        call(scores.refuse_nan, SCORES, name=Own("loss")),
        call(second_split.init, 6),
        blind(call(second_split.update, Own(split), LOGITS, Y3)),
        call(second_split.finalize, Own(split)),
        call(stability.subset_tables, KEY, 6, models=4, ratio=0.5),
        unread(call(stability.outcomes, fn, {"w": KERNEL[None]}, X, Y), (1, 0)),
        call(stability.memorization_sums, outcome, mask),
        call(stability.influence_sums, outcome, mask),
        call(stability.merge, Own(sums), Own(sums)),
        call(stability.estimate, Own(sums)),
        call(stability.memorization, outcome, mask),
        call(stability.cscore, Own(sums)),
        unread(
            call(
                stability.high_influence, outcome, mask, Y, Y, unit, mem_above=0.1, influence_above=0.1, top=2, block=4
            ),
            (4, 0),
        ),
        call(early_stopping.init, VARIABLES),
        call(early_stopping.update, Own(early_stopping.init(VARIABLES)), VARIABLES, jnp.float32(1), patience=2),
        call(trusted.select_trusted, SCORES, Y, per_class=1, skip=0.1),
        call(trusted.select_members, KEY, np.arange(6), Y, per_class=1),
        call(trusted.check_trusted, np.arange(3), Y, classes=2),
        unread(call(verifix.verifix, TABLE, PARAMS, SEEN, alpha=10.0), (2, 1), (2, 2)),
        unread(call(verifix.alpha_curve, TABLE, PARAMS, SEEN, alphas=(1.0, 10.0), score_fn=finite), (2, 1), (2, 2)),
        unread(call(verifix.verifix_select, TABLE, PARAMS, SEEN, alphas=(1.0, 10.0), score_fn=finite), (2, 1), (2, 2)),
        call(class_projection.unlearn_projector, GRAM, GRAM, 10.0, 3.0),
        unread(call(class_projection.unlearn_classes, TABLE, PARAMS, SEEN, SEEN, alpha_r=10.0, alpha_f=3.0), *BESIDE),
        unread(
            call(class_projection.unlearn_search, TABLE, PARAMS, SEEN, SEEN, finite, alphas_r=(10.0,), alphas_f=(3.0,)),
            *BESIDE,
        ),
        blind(call(evaluation.class_accuracy, LOGITS, Y3, forget=1)),
        call(evaluation.forget_score, 0.9, 0.1),
        blind(call(evaluation.confusion_matrix, LOGITS, Y3)),
        call(evaluation.label_logit, LOGITS, Y3),
        call(evaluation.svc_mia, unit, unit, unit),
        call(evaluation.ulira, RNG.normal(size=(8, 6)), RNG.normal(size=(8, 6))),
        call(evaluation.linear_probe, X, Y3, X, Y3, forget=1, ridge=1e-3),
        call(evaluation.relative_weight_change, TABLE, PARAMS, PARAMS),
        call(samples.select_samples, KEY, Y, forget=1, retain_count=2, forget_count=2),
        call(samples.check_samples, np.array([0, 0]), np.array([1, 1]), forget=1),
        call(samples.as_classes, 1),
    ]
