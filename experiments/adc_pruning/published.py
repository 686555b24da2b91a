"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Pruning for the converters of crossbars (DUB)",
    source=(
        "VGG-11 on CIFAR-10, crossbars of 32 rows: Ibrayev et al., arXiv 2403.13082, released logs (ResNet-18 on "
        "ImageNet, 64 rows: 1.27 times less at .6890)"
    ),
    figures={
        "accuracy/dense": ".9083", "accuracy/lbl": ".9026", "improvement/lbl": "3.44", "accuracy/gated_0.001": ".9027",
        "improvement/gated_0.001": "7.13",
    },
    runs=("cpu_digits", "gpu_cifar10", "gpu_imagenet"),
)  # fmt: skip
