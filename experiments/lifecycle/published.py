"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="One network through every pipeline",
    source="none of the chain as a whole; of its steps see their own tables below and above",
    figures={},
    runs=(
        "cpu_digits",
        "study_cifar10",
        "study_fashion_mnist",
        "gpu_cifar10",
    ),
)
