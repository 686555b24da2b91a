"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Spiking networks: frequencies over time (DCT-SNN)",
    source="VGG9 on CIFAR-10 at 48 steps: Garg, Chowdhury, Roy, ICCV 2021",
    figures={"accuracy/dct": ".8994"},
    runs=("cpu_digits", "gpu_cifar10"),
    omit="^(threshold|rate)/",
)
