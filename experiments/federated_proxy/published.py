"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Federated updates by proxy data (TOFU)",
    source=(
        "CIFAR-10, VGG-13: below 7 % of accuracy lost with proxies alone, 6.6x less communication near the full"
        " accuracy with full rounds at the end (MNIST: below 1 %, 4x): abstract of arXiv 2201.08494; 17x at 3 % lost"
        " on one device: project page"
    ),
    figures={},
    runs=("cpu_digits", "cpu_mnist", "gpu_cifar10"),
    omit=".*_trained|[a-z_]+/analytic/|[a-z_]+/[a-z]+/decoded_4/|ssim|share_ssim|cosine|whole|rounds/",
)
