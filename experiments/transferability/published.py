"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Transferability and robust ensembles",
    source=(
        "abstract of arXiv 2008.01524: input quantisation and other architectures hamper transfer, seeds do not, and "
        "a designed ensemble is more robust than any single network; its tables were not at hand. From the released "
        "counts of ten seeds at one strength: a mean of 6,030 of about 6,900 successes carries over"
    ),
    figures={"transfer/fp/fp": ".87"},
    runs=("cpu_digits", "study_mnist", "gpu_cifar10"),
    omit="(transfer|transfer_share|transfer_fitted|fit_rmse)/(?!fp/|q2/fp)|robust/[^/]+/(?!min|pgd|square|dag)",
)
