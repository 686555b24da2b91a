"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Correction of label noise (Verifix)",
    source="CIFAR-10, ResNet-18, 25 % symmetric noise, 1,000 trusted samples, 3 seeds: arXiv 2403.08618",
    figures={
        "test_accuracy/before": ".7837",
        "test_accuracy/verifix": ".8696",
        "test_accuracy/sam": ".8376",
        "test_accuracy/sam_verifix": ".8774",
    },
    runs=(
        "cpu_digits",
        "study_cifar10",
        "study_cifar10_worse",
        "gpu_cifar10",
        "gpu_cifar10_human_labels",
    ),
)
