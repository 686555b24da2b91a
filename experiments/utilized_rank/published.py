"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Utilized rank",
    source="ViT-B/16 on ImageNet: abstract of arXiv 2407.04797",
    figures={
        "utilization/mean": ".35",
        "parameters_ratio/search": ".50",
        "accuracy_change_finetuned/search": "> -.002",
    },
    runs=(
        "cpu_digits",
        "study_cifar10",
        "study_cifar10_resnet20",
        "gpu_cifar100",
        "gpu_imagenet",
    ),
)
