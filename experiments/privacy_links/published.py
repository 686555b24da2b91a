"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Links between privacy, memorization and input curvature",
    source=(
        "ICML 2024, arXiv 2402.18726, shows curves and no numbers; curvature against memorization of single samples: "
        "CIFAR-100, ICML 2025 follow-up"
    ),
    figures={
        "pearson/link1": ".49",
        "cosine/link1": ".69",
    },
    runs=(
        "cpu_digits",
        "study_mnist",
        "gpu_cifar10",
    ),
)
