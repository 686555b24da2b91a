"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Low-precision decentralized learning",
    source=(
        "8 bits: less than 1 % of accuracy lost on IID and non-IID data, about 4x less compute, memory and "
        "traffic: abstract of arXiv 2111.09389; its tables were not seen"
    ),
    figures={
        "bytes_ratio/int8": "about 4",
    },
    runs=(
        "cpu_digits",
        "study_cifar10",
        "gpu_cifar10",
    ),
)
