"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Data-parallel training without barriers (ASAP)",
    source="the abstract of arXiv 1612.08608: 2-10 times faster convergence, up to 10 times less network traffic",
    figures={
        "speedup_to_target/notify_ack_ring/jitter": "2 to 10",
        "speedup_to_target/notify_ack_ring/straggler": "2 to 10",
    },
    runs=("cpu_digits", "gpu_mnist"),
    omit=r"^speedup_makespan/.*sigma_1\.0$",
)
