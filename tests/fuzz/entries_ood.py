"""Valid calls of the out-of-distribution detectors and of the class hierarchy."""

import jax.numpy as jnp
import numpy as np

from subspace_jax.hierarchy import baselines, conditional, tree
from subspace_jax.hierarchy import metrics as in_tree
from subspace_jax.ood import (
    ash,
    auxiliary_class,
    detectors,
    evaluation,
    knn,
    mahalanobis,
    norm_scaling,
    odin,
    outliers,
    react,
    scores,
    thresholds,
    vim,
    vrm,
)  # fmt: skip
from tests.fuzz.mutations import Call, Own, blind, call, unread
from tests.fuzz.values import IMAGES, JX, KERNEL, KEY, LOGITS, ROWS, SCORES, VARIABLES, Y3, X, Y, apply

RNG = np.random.default_rng(1)  # its own: the values of a file do not depend on which others were read


def calls() -> list[Call]:
    features = RNG.normal(size=(6, 4)).astype(np.float32)
    features_of = {name: {"penultimate": features} for name in ("knn", "mahalanobis", "vim", "ash", "react")}
    head = RNG.normal(size=(4, 3)).astype(np.float32), np.zeros(3, np.float32)
    made = {
        "msp": scores.msp(),
        "maxlogit": scores.maxlogit(),
        "energy": scores.energy(),
        "entropy": scores.entropy(),
        "gen": scores.gen(gamma=0.1, top=2),
        "knn": knn.knn(k=2),
        "mahalanobis": mahalanobis.mahalanobis(),
        "vim": vim.vim(head, dim=2),
        "ash": ash.ash(head),
        "react": react.react(head),
        "norm": norm_scaling.norm_scaling(correct_only=False),
        "odin": odin.odin(lambda x: x @ KERNEL),
    }
    methods = []
    for name, detector in made.items():
        outputs = detectors.Outputs(LOGITS, features_of.get(name, {"input": X} if name == "odin" else {}))
        seen = call(detector.fit, outputs, Y3)._replace(name=f"ood.{name}.fit")
        methods.append(unread(seen, (0, 1)) if name in ("ash", "odin") else seen)
        state = detector.fit(outputs, Y3)
        methods.append(call(detector.score, Own(state), outputs)._replace(name=f"ood.{name}.score"))
    stats = norm_scaling.statistics(LOGITS, Y3, correct_only=False)
    family = tree.from_nested({"a": ["b", "c"], "d": ["e"]})
    return [
        *methods,
        call(ash.ash, head, kind="s", percentile=0.9),
        call(ash.shape, jnp.abs(features), "s", 0.5),
        call(auxiliary_class.known_logits, LOGITS, classes=2),
        call(auxiliary_class.flagged, LOGITS),
        call(detectors.check, detectors.Outputs(LOGITS), Y3),
        call(evaluation.separation, SCORES, SCORES + 1, positive="id"),
        call(evaluation.class_quantiles, SCORES, Y3, classes=3, q=0.05),
        call(knn.knn, k=2),
        call(norm_scaling.statistics, LOGITS, Y3, correct_only=False),
        call(norm_scaling.transform, Own(stats), mode="std"),
        call(norm_scaling.norm_scaling, mode="std", kind="msp", temperature=1.0),
        call(norm_scaling.matched, mode="norm"),
        call(norm_scaling.matched_raw, mode="norm"),
        call(norm_scaling.weight, head),
        call(norm_scaling.mean_confidence, LOGITS, 1.0),
        call(norm_scaling.matching_temperature, LOGITS, 0.6),
        call(odin.odin, apply, temperature=100.0, step=0.01),
        call(odin.confidence, apply, VARIABLES, JX, temperature=100.0, step=0.01, std=1.0),
        call(odin.check_settings, 100.0, 0.1),
        call(outliers.gaussian, KEY, (6, 4, 4, 1)),
        call(outliers.uniform, KEY, (6, 4, 4, 1)),
        call(outliers.salt_pepper, KEY, (6, 4, 4, 1)),
        call(outliers.blur, KEY, (6, 4, 4, 1)),
        call(outliers.constant, KEY, (6, 4, 4, 1)),
        call(outliers.inverted, IMAGES),
        blind(call(outliers.permuted, KEY, IMAGES)),
        blind(call(outliers.fitted, IMAGES, (2, 2, 1))),
        call(react.react, head, percentile=0.9),
        call(scores.gen, gamma=0.1, top=2),
        call(scores.msp, temperature=1.0),
        call(scores.energy, temperature=1.0),
        call(scores.check_temperature, 1.0),
        call(scores.log_odds, LOGITS, 1.0),
        call(scores.free_energy, LOGITS, 1.0),
        call(thresholds.fit, SCORES, tpr=0.9),
        blind(call(thresholds.known, Own(thresholds.fit(SCORES, tpr=0.9)), SCORES)),
        call(vim.vim, head, dim=2),
        call(vim.checked_head, head),
        blind(call(vim.check_width, features, head[0])),
        call(vrm.partners, KEY, Y),
        call(vrm.blend, jnp.ones(6) / 2, JX, JX),
        call(vrm.noise_like, JX),
        call(vrm.noise_vicinity, KEY, JX, jnp.asarray(Y), classes=2, noise=((0.0,), (1.0,)), share_max=1.0),
        call(vrm.mixup, apply, alpha=1.0),
        call(vrm.intra, apply, alpha=1.0),
        call(vrm.within_class, KEY, JX, jnp.asarray(Y), alpha=1.0),
        call(vrm.shares_of, KEY, 1.0, 3),
        call(vrm.auxiliary, apply, classes=2, noise=((0.0,), (1.0,)), alpha=1.0, weight=1.0, share_max=1.0),
        call(vrm.check_settings, alpha=1.0, share_max=1.0),
        call(baselines.branch_weights, 3),
        call(baselines.soft_labels, Own(family), beta=1.0),
        call(baselines.soft_objective, apply, Own(family), beta=1.0),
        call(baselines.least_expected_distance, ROWS, Own(family)),
        call(conditional.objective, apply, Own(family), level=1),
        call(in_tree.catastrophic_coefficient, Y3, Y3[::-1], Own(family)),
        call(in_tree.severity, Y3, Y3[::-1], Own(family)),
        call(tree.flat, 3),
        call(tree.distance, Own(family)),
        call(tree.ancestors, Own(family), Y3),
        call(tree.from_nested, Own({"a": ["b", "c"], "d": ["e"]})),
    ]
