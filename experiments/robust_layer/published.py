"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Neighborhood-preserving layers",
    source=(
        "abstract of arXiv 2101.11766: more robust to gradient attacks than a fully connected layer on MNIST and "
        "CIFAR-10; no code was released and its tables were not at hand, so no figure stands beside ours"
    ),
    figures={},
    runs=("cpu_digits", "study_mnist", "gpu_cifar10"),
)
