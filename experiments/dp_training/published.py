"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Differentially private training",
    source="CIFAR-10 from scratch, a large tuned WideResNet, delta 1e-5: arXiv 2204.13650, from memory of it",
    figures={
        "accuracy/eps_8": ".81",
    },
    runs=(
        "cpu_digits",
        "study_mnist",
        "gpu_cifar10",
    ),
)
