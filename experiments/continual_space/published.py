"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Continual learning by structured sharing (SPACE)",
    source=(
        "arXiv 2001.08650: no forgetting, up to 5x less energy than the best of its time; its tables were not seen"
    ),
    figures={},
    runs=(
        "cpu_digits",
        "study_mnist",
        "gpu_cifar10",
    ),
)
