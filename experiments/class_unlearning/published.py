"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Class unlearning by projection",
    source="ViT-B/16 on ImageNet, mean over classes: abstract of arXiv 2312.00761",
    figures={
        "forget_accuracy/projection": "< .01",
    },
    runs=(
        "cpu_digits",
        "study_cifar10",
        "gpu_cifar10",
        "gpu_imagenet",
    ),
)
