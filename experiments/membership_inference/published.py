"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Membership inference by input-loss curvature",
    source=(
        "CIFAR-10, ResNet-18, 64 shadow models, 3 targets, 2 queries: recomputed by the authors' public notebooks "
        "(NeurIPS 2024, arXiv 2407.02747), whose LiRA takes the largest probability and a variance as a deviation"
    ),
    figures={
        "auroc/curvature_nll": ".6895 ± .0131",
        "auroc/curvature_lr": ".5896",
        "auroc/lira_as_released": ".6179",
        "auroc/ye": ".6730",
        "auroc/sablayrolles": ".6150",
        "auroc/watson": ".5858",
        "auroc/mentr": ".6042",
        "auroc/yeom": ".6044",
        "balanced_accuracy/curvature_nll": ".6196 ± .0087",
        "balanced_accuracy/lira_as_released": ".5827",
    },
    runs=(
        "cpu_digits",
        "study_cifar10",
        "gpu_cifar10",
    ),
)
