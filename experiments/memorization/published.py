"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Input-loss curvature and memorization",
    source=(
        "CIFAR-10, ResNet-18, 10 % symmetric noise, 250 duplicate pairs, 3 seeds: tables of the authors' "
        "follow-up (ICML 2025) to arXiv 2307.05831"
    ),
    figures={
        "auroc/fd_norm": ".9819 ± .0006",
        "auroc/loss": ".9869",
        "auroc/second_split": ".936",
        "auroc/confident_learning": ".855",
        "auroc/inconfidence": ".653",
        "auroc/learning_time": ".495",
        "duplicates_auroc/fd_norm": ".9536",
        "duplicates_auroc/loss": ".9821",
    },
    runs=(
        "cpu_digits",
        "cpu_mnist",
        "cpu_cifar10",
        "cpu_cifar100",
        "study_cifar10",
        "study_cifar10_symmetric",
        "study_cifar10_worse",
        "study_cifar100",
        "gpu_cifar10",
        "gpu_cifar100",
    ),
)
