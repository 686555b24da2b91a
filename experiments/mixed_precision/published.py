"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Mixed precision by principal components",
    source=(
        "ResNets on CIFAR-100 and ImageNet: abstract of arXiv 1906.01493 (more than 10 points over the binary network, "
        "up to 94 % of its energy efficiency)"
    ),
    figures={"accuracy/hybrid_2": "> xnor + .10", "energy_efficiency/hybrid_2": "up to 94 % of xnor"},
    runs=("cpu_digits", "gpu_cifar100"),
)
