"""The authors' way in PyTorch, as a peer of `benchmarks.curvature`: the same networks, TF32 convolutions by default."""

import itertools
from collections.abc import Callable

import numpy as np
import torch  # type: ignore
from torch import nn  # type: ignore
from torch.nn import functional  # type: ignore


class Block(nn.Module):
    """The basic block of a ResNet with a projected shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        """(b, inputs, h, w) -> (b, outputs, h / stride, w / stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


def network(name: str) -> nn.Module:
    """The networks of `subspace_jax.nn.build`, ten classes."""
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
        )
    if name == "lenet5":
        convolutions = (nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5))
        features = [layer for conv in convolutions for layer in (conv, nn.ReLU(), nn.MaxPool2d(2))]
        dense = (nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
        return nn.Sequential(*features, nn.Flatten(), *dense)
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = (Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths))
    stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def released(name: str, x: np.ndarray, y: np.ndarray, *, probes: int, step: float) -> Callable:
    """A call that scores the batch: per probe two input gradients, the base one every time."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = network(name).to(device).eval().requires_grad_(False)
    images = torch.tensor(np.moveaxis(x, -1, 1)).contiguous().to(device)
    labels = torch.tensor(y).long().to(device)

    def gradient(z):
        z = z.detach().requires_grad_()
        return torch.autograd.grad(functional.cross_entropy(net(z), labels, reduction="sum"), z)[0]

    def run():
        total = torch.zeros(len(images), device=device)
        for _ in range(probes):
            v = torch.randint_like(images, 2) * 2 - 1
            total += (gradient(images + step * v) - gradient(images)).flatten(1).norm(dim=1)
        return (total / probes).cpu().numpy()  # the copy waits for the device

    return run
