"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Optimal transport classifier",
    source=(
        "abstract of arXiv 1811.07950: robust to strong attacks on several sets of images, and a short code by itself "
        "does not help; no code was released and its tables were not at hand, so no figure stands beside ours"
    ),
    figures={},
    runs=("cpu_digits", "gpu_cifar10"),
    omit="robust/[^/]+/(?!min|pgd|square)",
)
