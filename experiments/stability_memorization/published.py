"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Stability memorization and influence",
    source=(
        "CIFAR-100, curvature of all samples against published stability scores: same tables; share with "
        "memorization >= .3: arXiv 2008.03703, CIFAR-100, from memory of it"
    ),
    figures={
        "pearson/fd_norm_one": ".49",
        "pearson/loss": ".79",
        "memorized_share": ".23",
    },
    runs=(
        "cpu_digits",
        "study_fashion_mnist",
        "gpu_cifar10",
    ),
)
