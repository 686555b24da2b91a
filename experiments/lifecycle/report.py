"""The life of the network as a page that tells it to somebody who read none of the papers.

The pictures are those of the first seed, the tables means over all of them.
"""

from __future__ import annotations

import numpy as np

from experiments.harness import plots, report
from experiments.lifecycle import methods
from experiments.lifecycle.figures import GROUPS, Parts, attacks
from experiments.lifecycle.protocol import NETWORKS
from subspace_jax.core import roc
from subspace_jax.unlearning import evaluation

Found = list[tuple[methods.Case, Parts]]
SHOWN = 10  # images a row


def sections(figures: dict[str, float], std: dict[str, float], found: Found) -> list[report.Section]:
    """Seven pictures and what they show; those of steps that were not taken are left out."""
    case, parts = found[0]
    listed = [life(case, figures, parts), numbers(figures, std, parts)]
    if "scored" in parts:
        listed.append(memorized(case, figures, parts))
    if "attacked" in parts:
        listed.append(members_found(case, figures, parts))
    elif not case.known:
        listed.append(report.Section("Who was in the training set?", SKIPPED))
    if "alpha" in parts.get("corrected", {}):
        listed.append(strengths(case, figures, parts))
    listed.append(confusions(case, parts))
    if "learned" in parts:
        listed += [step_by_step(case, figures, parts), came_back(case, figures)]
    return listed


SKIPPED = (
    "The network came from a checkpoint that does not say which samples it was trained on. An attack on membership "
    "needs samples that it certainly never saw, so it was left out, and so were its figures."
)


def life(case: methods.Case, figures: dict[str, float], parts: Parts) -> report.Section:
    """The timeline: what each network knows, and what it says of four samples."""
    steps = [name for name in NETWORKS if name in parts]
    kinds = {"old classes": "accuracy/{}/old", "forgotten class": "accuracy/{}/forgotten"}
    kinds |= {"new classes": "accuracy/{}/new", "wrong labels reproduced": "noise_reproduced/{}"}
    lines = {label: [figures[key.format(step)] for step in steps] for label, key in kinds.items()}
    aside = (steps.index("unlearned"), len(steps) - 1) if steps[-1] == "learned_sealed" and len(steps) > 2 else None
    picture = plots.timeline(case.config.workdir, "life", steps, lines, thumbnails(case, parts, steps), aside=aside)
    gone, new = (", ".join(map(case.task.called, classes)) for classes in (case.config.forget, case.config.new_classes))
    text = (
        "One network, from left to right. It is trained on images of the old classes, some of them under wrong "
        "labels; it is corrected, which makes it give up the wrong labels (red falls); it is made to forget a class "
        f"({gone}), which it then no longer recognises; and it learns new classes ({new}) without losing the old "
        "ones. learned_sealed (dashed) is learned again from the unlearned network, with what the forgotten class used "
        "closed too. Each point is the mean over the seeds, on test images that no step has seen, but for the wrong "
        "labels: those are training images, and the line shows how often the network repeats the wrong label. Below, "
        "what each network says of four images of the first seed; green: it is the true class, or for a "
        "wrongly labelled training image its true class rather than its label. All classes compete in every answer."
    )
    return report.Section("One life", text, (picture,))


def thumbnails(case: methods.Case, parts: Parts, steps: list[str]) -> list[plots.Row]:
    """An image of each kind, with the answer of each network and whether it is the true class."""
    task = case.task
    if task.image.ndim != 4:  # rows of numbers
        return []
    first = parts[steps[0]]
    wrong = case.members[task.noisy[case.members]]
    wrong = wrong[~np.isin(task.true[wrong], case.config.forget)]
    repeats = wrong[first["train"][wrong].argmax(axis=1) == task.label[wrong]] if len(wrong) else wrong
    rows = []
    for label, group in (("old", "old"), ("forgotten", "forgotten"), ("new", "new")):
        at = int(np.flatnonzero(methods.group(case, group)[1])[0])
        said = [int(parts[step]["test"][at].argmax()) for step in steps]
        rows.append((label, case.shared.test["image"][at], said, int(task.test_label[at])))
    for at in repeats[:1].tolist():
        said = [int(parts[step]["train"][at].argmax()) for step in steps]
        rows.append((f"labelled {task.called(task.label[at])}", task.image[at], said, int(task.true[at])))
    return [
        (label, image, [task.called(answer) for answer in said], [answer == true for answer in said])
        for label, image, said, true in rows
    ]


def numbers(figures: dict[str, float], std: dict[str, float], parts: Parts) -> report.Section:
    """All networks by group of classes, with the baselines."""
    names = [name for name in (*NETWORKS, "finetuned", "retrained", "trusted_only") if name in parts]

    def cell(key: str) -> str:
        return f"{figures[key]:.3f} ± {std[key]:.3f}" if key in figures else "-"

    kinds = [f"accuracy/{{}}/{group}" for group in GROUPS] + ["noise_reproduced/{}", "membership_auroc/{}"]
    cells = [(name, *(cell(kind.format(name)) for kind in kinds)) for name in names]
    head = ("network", "old", "forgotten", "new", "old and forgotten", "wrong labels repeated", "membership AUROC")
    text = (
        "Test accuracy by group of classes, all classes competing; means and deviations over the seeds. finetuned "
        "learns the new classes by plain training from the unlearned network. retrained is trained from scratch on "
        "the members that are not labelled with the forgotten class, trusted_only on the trusted members alone"
    )
    if "trusted_only" in parts:
        text += (
            f": with {figures['accuracy/trusted_only/all_old']:.3f} against "
            f"{figures['accuracy/corrected/all_old']:.3f} it shows what the correction is worth here, where training "
            "anew is cheap"
        )
    return report.Section("In numbers", text + ".", table=(head, *cells))


def memorized(case: methods.Case, figures: dict[str, float], parts: Parts) -> report.Section:
    """The members of highest curvature beside those of lowest."""
    task, score, rows = case.task, parts["scored"]["score"], []
    order = np.argsort(-score, kind="stable")
    for heading, chosen in (
        ("highest", order[:SHOWN]),
        ("next", order[SHOWN : 2 * SHOWN]),
        ("lowest", order[::-1][:SHOWN]),
    ):
        at = case.members[chosen]
        told = [f"{task.called(task.label[i])} → {task.called(task.true[i])}" for i in at]
        rows.append((heading, [
            (task.image[i], report.caption(task.image[i], task.index[i], said), bool(task.noisy[i]))
            for i, said in zip(at, told, strict=True)
        ]))  # fmt: skip
    text = (
        "An image under a wrong label can only be learned by heart: around it the loss bends sharply. This "
        "input-loss curvature, averaged over the epochs of the training, ranks the training images; above are the "
        "highest, at the bottom the lowest. Given label → true label; framed: the label is wrong. The chance that a "
        f"wrongly labelled image ranks above a correct one (AUROC) is {figures['memorized_found_auroc']:.3f}; by the "
        f"curvature after the last epoch alone {figures['memorized_found_auroc_last']:.3f}, by the loss averaged over "
        f"the epochs {figures['memorized_found_auroc_loss']:.3f}: to find wrong labels the loss is the simpler tool, "
        "curvature also says what is memorized. The lowest of each class are trusted from here on; "
        f"{figures['trusted_clean']:.3f} of them are labelled correctly."
    )
    return report.gallery("What did it memorize?", text, case.config.workdir, "memorized", rows)


def members_found(case: methods.Case, figures: dict[str, float], parts: Parts) -> report.Section:
    """ROC of the attack on each network, on logarithmic axes."""
    member = np.isin(case.pool, case.members)
    least = 1 / (~member).sum(), 1 / member.sum()
    grid = np.geomspace(least[0], 1, 200)
    lines = {}
    for name, scores in attacks(parts).items():
        of = roc.curve(scores, member)
        tpr = np.maximum(np.interp(grid, of.fpr, of.tpr), least[1])
        lines[f"{name}  {figures[f'membership_auroc/{name}']:.3f}"] = grid, tpr
    lines["guessing  0.500"] = grid, grid
    picture = plots.curves(
        case.config.workdir, "roc", lines, x="non-members accused (share)", y="members found (share)", log_x=True,
        log_y=True,
    )  # fmt: skip
    first = next(iter(attacks(parts)))
    right = figures[f"membership_auroc_correct/{first}"]
    text = (
        f"An attacker trains {case.config.shadows} shadow models like the network, each on half of the images, and "
        "learns what a network says of an image it has seen and of one it has not. The curve shows how many members "
        "are found (up) for each share of innocent images that are accused (right); in the legend the mean area under "
        "it, .5 is guessing. Members and non-members have the same share of wrong labels. A wrong label that was "
        "learned by heart gives a member away, so taking it out protects too; of the correctly labelled images alone "
        f"the area is {right:.3f} for the {first} network. The shadow models are "
        "those of the network as trained; an attacker who edits his shadow models too may find more."
    )
    return report.Section("Who was in the training set?", text, (picture,))


def strengths(case: methods.Case, figures: dict[str, float], parts: Parts) -> report.Section:
    """Selection and test accuracy along alpha, with the choice."""
    arrays, along = parts["corrected"], list(case.config.alphas)
    selection, on_test = arrays["selection"], arrays["on_test"]
    lines = {
        "selection set, given labels": (along, selection[1:]), "test set": (along, on_test[1:]),
        "selection set, unedited": (along, [selection[0]] * len(along)),
        "test set, unedited": (along, [on_test[0]] * len(along)),
    }  # fmt: skip
    chosen = float(arrays["alpha"])
    picture = plots.curves(
        case.config.workdir, "alpha", lines, x="alpha: the larger, the more is kept", y="accuracy", log_x=True,
        mark=(chosen, float(selection[1 + along.index(chosen)])) if chosen else None,
    )  # fmt: skip
    text = (
        "The correction keeps of each layer the directions that the trusted images use, and suppresses the others, "
        "where the wrong labels were written. A small alpha suppresses nearly everything, a large one nothing. Alpha "
        f"is chosen (circle: {chosen:g}) on {len(case.selection)} images that the network was not trained on, by their "
        "given labels. Some of these are wrong, which lowers the whole curve; the test curve was not looked at, and "
        "may have its peak elsewhere. No label is repaired and nothing is trained. Mean over the seeds: "
        f"{figures['accuracy/trained/all_old']:.3f} before, {figures['accuracy/corrected/all_old']:.3f} after."
    )
    return report.Section("Undo what the wrong labels wrote", text, (picture,))


def confusions(case: methods.Case, parts: Parts) -> report.Section:
    """Confusion matrices of the networks."""
    names = [name for name in ("trained", "corrected", "unlearned", "learned") if name in parts]
    matrices = {
        name: np.asarray(evaluation.confusion_matrix(parts[name]["test"], case.task.test_label)) for name in names
    }
    picture = plots.confusions(case.config.workdir, "confusions", matrices)
    count = int(methods.group(case, "forgotten")[1].sum())
    text = (
        "Test images: the row is the true class, the column the answer. After unlearning the column of the forgotten "
        f"class empties and its images scatter over the others; there are {count} of them, so one is {1 / count:.3f}. "
        "Until the last step the new classes are never answered, since the network has seen none of them."
    )
    return report.Section("Which answers change", text, (picture,))


def step_by_step(case: methods.Case, figures: dict[str, float], parts: Parts) -> report.Section:
    """Accuracy of each group along the steps of the new task."""
    every = -(-case.config.new_steps // methods.WATCHED)
    lines = {}
    for name, title in (("finetuned", "plain"), ("learned", "projected")):
        history = parts[name]["history"]
        along = every * np.flatnonzero(~np.isnan(history[:, 0]))
        for column, group in ((0, "old"), (2, "new")):
            lines[f"{group} classes, {title}"] = along, history[along // every, column]
    picture = plots.curves(
        case.config.workdir, "learning", lines, x="training step on the new classes", y="test accuracy"
    )
    text = (
        "Training on new classes alone makes a network forget the old ones within a few steps (plain). A layer "
        "changes only in directions of its inputs; if every update is kept off the directions that the old classes "
        "use, their answers stay (projected), and no old image has to be stored. All classes compete, so old images "
        f"also may not be taken for new ones. Mean over the seeds: the old classes change by {figures['bwt']:+.3f}, "
        f"by {figures['accuracy/finetuned/old'] - figures['accuracy/unlearned/old']:+.3f} without the projection."
    )
    return report.Section("Learn without forgetting", text, (picture,))


def came_back(case: methods.Case, figures: dict[str, float]) -> report.Section:
    """The forgotten class under three readings."""
    steps = [name for name in NETWORKS if f"accuracy/{name}/forgotten" in figures]
    groups = {
        "all classes compete": [figures[f"accuracy/{name}/forgotten"] for name in steps],
        "only the old classes compete": [figures[f"accuracy_told/{name}/forgotten"] for name in steps],
    }
    picture = plots.bars(
        case.config.workdir, "came_back", groups, labels=steps, x="network", y="accuracy on the forgotten class"
    )
    text = (
        "A class that is never answered may still be in the network. When the old classes alone compete, the "
        f"forgotten one is at {figures['accuracy_told/learned/forgotten']:.3f} after the new classes were learned: "
        "the directions it used were free, and training went through them. If they are closed as well (sealed) it "
        f"stays at {figures['accuracy_told/learned_sealed/forgotten']:.3f}. A probe, a new last layer fitted with the "
        "true labels, tells what the features still hold"
    )
    probes = [f"{name} {figures[f'probe_accuracy/{name}']:.3f}" for name in ("unlearned", "retrained", "untrained")
              if f"probe_accuracy/{name}" in figures]  # fmt: skip
    text += (
        f": {', '.join(probes)}. It counts only above the untrained network, which never saw an image."
        if probes
        else "."
    )
    if "membership_auroc_forgotten/unlearned" in figures:
        text += (
            " The attack on membership, among images labelled with the forgotten class, has an AUROC of "
            f"{figures['membership_auroc_forgotten/unlearned']:.3f} after unlearning; .5 would be none."
        )
    return report.Section("Did the forgotten class come back?", text, (picture,))
