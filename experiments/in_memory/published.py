"""What was published of the system, by the names of our figures, and the runs that belong beside it."""

from experiments.harness.published import System

PUBLISHED = System(
    title="Networks inside SRAM: accuracy over chips, energy and delay (IMAC)",
    source="VGG on CIFAR-10, 1,000 chips, and LeNet-5: Ali et al., IEEE TCAS-I 2020, released logs",
    figures={
        "accuracy/float": ".9118", "accuracy/quantized": ".8913", "accuracy/app": ".8857", "chip_std/app": ".0015",
        "chip_min/app": ".8810", "system/lenet5/delay_ratio": "9.42", "system/lenet5/energy_ratio": "6.24",
        "system/lenet5/edp_ratio": "58.8",
    },
    runs=("cpu_digits", "cpu_mnist", "gpu_cifar10"),
)  # fmt: skip
