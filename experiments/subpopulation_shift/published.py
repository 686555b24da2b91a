"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Class trees under a shift of subpopulations",
    source=(
        "LIVING-17 with ResNet-18, accuracy in percent, mean of 5 seeds, unseen on three splits: poster of Mukherjee, "
        "Garg and Roy at the CVPR 2022 workshop FGVC9"
    ),
    figures={
        "accuracy/unseen/flat": "57.02 / 53.54 / 53.04",
        "accuracy/unseen/bcnn": "58.80 / 55.66 / 55.10",
        "accuracy/unseen/sequential": "60.53 / 56.60 / 55.62",
        "cc/unseen/flat": "1.75 / 1.97 / 1.93",
        "cc/unseen/bcnn": "1.62 / 1.82 / 1.80",
        "cc/unseen/sequential": "1.55 / 1.77 / 1.76",
        "accuracy/seen/flat": "92.30",
        "accuracy/seen/bcnn": "93.02",
        "accuracy/seen/sequential": "93.17",
        "cc/seen/flat": ".33",
        "cc/seen/bcnn": ".30",
        "cc/seen/sequential": ".28",
    },
    runs=("cpu_digits", "cpu_gaussian_tree", "gpu_cifar100"),
    omit="^split_",
)
