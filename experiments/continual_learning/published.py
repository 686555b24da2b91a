"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Continual learning by gradient projection",
    source="permuted MNIST, 10 tasks, MLP 784-100-100-10: arXiv 2103.09762",
    figures={
        "acc/gpm": ".9390",
        "bwt/gpm": "-.03",
        "acc/ewc": ".9016",
        "bwt/ewc": "-.04",
        "acc/a_gem": ".8351",
        "bwt/a_gem": "-.14",
        "acc/er": ".8729",
        "bwt/er": "-.11",
        "acc/owm": ".9073",
        "bwt/owm": "-.01",
        "acc/multitask": ".9671",
    },
    runs=(
        "cpu_digits",
        "cpu_mnist",
        "cpu_mnist_whole",
        "study_cifar100",
        "gpu_cifar100",
    ),
)
