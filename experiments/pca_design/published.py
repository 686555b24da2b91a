"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Network design by principal components",
    source=(
        "AlexNet and VGG on CIFAR-10, CIFAR-100, ImageNet at tau .999, the best of them: abstract of arXiv 1812.06224 "
        "(up to 3.8 times fewer operations, 9 times fewer parameters)"
    ),
    figures={"parameters_ratio/depth_0.999": "1/9", "macs_ratio/depth_0.999": "1/3.8"},
    runs=("cpu_digits", "gpu_cifar10"),
)
