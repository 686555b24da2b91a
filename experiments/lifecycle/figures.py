"""What the life of the network came to, in plain numbers: the figures of one seed from the arrays of its steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.lifecycle import methods
from experiments.lifecycle.protocol import NETWORKS
from subspace_jax.core import roc

Arrays = dict[str, np.ndarray]
Parts = dict[str, Arrays]  # arrays by step or baseline
GROUPS = "old", "forgotten", "new", "all_old"


def judge(case: methods.Case, parts: Parts) -> dict[str, float]:
    """Every figure of one seed."""
    figures: dict[str, float] = {}
    for name in (name for name in (*NETWORKS, "finetuned", "retrained") if name in parts):
        figures |= {f"accuracy/{name}/{group}": accuracy(case, parts[name], group) for group in GROUPS}
    if "trusted_only" in parts:
        figures["accuracy/trusted_only/all_old"] = accuracy(case, parts["trusted_only"], "all_old")
    networks = {name: parts[name] for name in NETWORKS if name in parts}
    for name, arrays in networks.items():
        figures |= {f"accuracy_told/{name}/{group}": accuracy(case, arrays, group, told=True) for group in GROUPS}
        figures[f"noise_reproduced/{name}"] = reproduced(case, arrays)
    figures |= found_figures(case, parts) | exposed_figures(case, parts) | edit_figures(parts)
    if "unlearned" in parts:
        figures["forget_accuracy"] = figures["accuracy/unlearned/forgotten"]
    if "learned" in parts:
        figures["forget_accuracy_learned"] = figures["accuracy/learned/forgotten"]
        figures["bwt"] = figures["accuracy/learned/old"] - figures["accuracy/unlearned/old"]
    return figures | {f"seconds/{name}": float(arrays["seconds"]) for name, arrays in parts.items()}


def accuracy(case: methods.Case, arrays: Arrays, group: str, *, told: bool = False) -> float:
    """Share of a group's test samples that are recognised, among all classes or told whether they are old or new."""
    rows = methods.group(case, group)[1]
    return float((predicted(case, arrays, told=told) == case.task.test_label)[rows].mean())


def predicted(case: methods.Case, arrays: Arrays, *, told: bool = False) -> np.ndarray:
    """The class of every test sample, among all of them or among those of its own task."""
    logits = arrays["test"]
    if not told:
        return logits.argmax(axis=1)
    new = np.isin(case.task.test_label, case.config.new_classes)
    classes = np.array(case.config.new_classes)
    return np.where(new, methods.inside(logits, classes), methods.inside(logits, case.old))


def reproduced(case: methods.Case, arrays: Arrays) -> float:
    """Share of the wrongly labelled members whose wrong label the network gives."""
    wrong = case.members[case.task.noisy[case.members]]
    said = arrays["train"][wrong].argmax(axis=1)
    return float((said == case.task.label[wrong]).mean()) if len(wrong) else 0.0


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; a half where there is nothing to tell apart."""
    return roc.auroc(roc.curve(scores, positive)) if positive.any() and not positive.all() else 0.5


def found_figures(case: methods.Case, parts: Parts) -> dict[str, float]:
    """How well the wrong labels are found, and how clean the trusted samples are."""
    if "scored" not in parts:
        return {}
    arrays, noisy = parts["scored"], case.task.noisy
    kinds = {"": "score", "_last": "score_last", "_loss": "score_loss"}
    found = {f"memorized_found_auroc{kind}": area(arrays[key], noisy[case.members]) for kind, key in kinds.items()}
    return found | {"trusted_clean": float((~noisy[arrays["trusted"]]).mean())}


def exposed_figures(case: methods.Case, parts: Parts) -> dict[str, float]:
    """How well the attack tells members: of all, of those labelled correctly, of those labelled with what goes."""
    member, label = np.isin(case.pool, case.members), case.task.label[case.pool]
    right, gone = ~case.task.noisy[case.pool], np.isin(label, case.config.forget)
    figures = {}
    for name, arrays in attacks(parts).items():
        figures[f"membership_auroc/{name}"] = area(arrays, member)
        figures[f"membership_auroc_correct/{name}"] = area(arrays[right], member[right])
        if name == "unlearned":
            figures["membership_auroc_forgotten/unlearned"] = area(arrays[gone], member[gone])
    return figures


def attacks(parts: Parts) -> Arrays:
    """Membership scores of the pool by network; the attack on the first one is a step of its own."""
    first = next(name for name in NETWORKS if name in parts)
    found = {first: parts["attacked"]["membership"]} if "attacked" in parts else {}
    return found | {name: parts[name]["membership"] for name in NETWORKS if "membership" in parts.get(name, {})}


def edit_figures(parts: Parts) -> dict[str, float]:
    """Strengths, ranks of the protected spaces, and what a new head still finds of the forgotten classes."""
    found = {name: float(arrays[name]) for arrays in parts.values() for name in ("alpha", "alpha_r", "alpha_f")
             if name in arrays}  # fmt: skip
    found |= {f"probe_accuracy/{name}": float(arrays["probe"]) for name, arrays in parts.items() if "probe" in arrays}
    for name, kind in (("learned", "rank"), ("learned_sealed", "rank_sealed")):
        ranks = {key.partition("/")[2]: value for key, value in parts.get(name, {}).items() if key.startswith("rank/")}
        found |= {f"{kind}/{path}": float(rank) for path, rank in ranks.items()}
    return found


def metric_rows(case: methods.Case, parts: Parts) -> list[dict[str, Any]]:
    """One row a seed and network."""
    return [
        {"seed": case.seed, "network": name} | {group: accuracy(case, parts[name], group) for group in GROUPS}
        for name in parts
        if "test" in parts[name]
    ]
