"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

SPLITS = {  # unseen accuracy and distance on splits A, B, C
    "flat": (("57.02", "1.75"), ("53.54", "1.97"), ("53.04", "1.93")),
    "bcnn": (("58.80", "1.62"), ("55.66", "1.82"), ("55.10", "1.80")),
    "sequential": (("60.53", "1.55"), ("56.60", "1.77"), ("55.62", "1.76")),
}

PUBLISHED = System(
    title="Class trees under a shift of subpopulations",
    source=(
        "LIVING-17 with ResNet-18, accuracy in percent, mean of 5 seeds, splits A, B, C: poster of Mukherjee, Garg and "
        "Roy at the CVPR 2022 workshop FGVC9"
    ),
    figures={
        f"split_{split}/{kind}/unseen/{name}": value
        for name, rows in SPLITS.items()
        for split, row in enumerate(rows)
        for kind, value in zip(("accuracy", "cc"), row, strict=True)
    }
    | {"accuracy/seen/flat": "92.30", "accuracy/seen/bcnn": "93.02", "accuracy/seen/sequential": "93.17"}
    | {"cc/seen/flat": ".33", "cc/seen/bcnn": ".30", "cc/seen/sequential": ".28"},
    runs=("cpu_digits", "cpu_gaussian_tree", "gpu_cifar100"),
)
