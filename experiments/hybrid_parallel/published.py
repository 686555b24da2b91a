"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Hybrid data and model parallelism (SplitBrain)",
    source=(
        "a hybrid VGG on CIFAR-10 over CPU machines: up to 67 % of memory saved, nearly linear speed-up: abstract of"
        " arXiv 2112.15317; its tables were not seen, and speed is not measured here: all devices share the cores"
    ),
    figures={},
    runs=("cpu_digits", "gpu_cifar10"),
    omit=r"max_difference|bytes_collective_predicted|bytes_arguments_predicted",
)
