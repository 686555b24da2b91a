"""The same training step in PyTorch on a CPU, as a program of its own: prints {network: rates} as JSON."""

import itertools
import json
import sys
import time

import torch  # type: ignore
from torch import nn  # type: ignore
from torch.nn import functional  # type: ignore


class Block(nn.Module):
    """The basic block of a ResNet with a projected shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.body = nn.Sequential(*conv(inputs, outputs, stride), nn.ReLU(), *conv(outputs, outputs))
        self.shortcut = nn.Sequential()
        if stride > 1:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x):
        """(b, inputs, h, w) -> (b, outputs, h / stride, w / stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


def conv(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)


def chain(widths: tuple[int, ...], pools: tuple[int, ...], *, norm: bool) -> list[nn.Module]:
    """3x3 convolutions with ReLU; a pooling after each number of them in `pools`."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise((3, *widths)), 1):
        layers += [*([nn.Conv2d(inputs, outputs, 3, 1, 1)]), *([nn.BatchNorm2d(outputs)] * norm), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * pools.count(i)
    return layers


def network(name: str) -> nn.Module | None:
    """The networks of `subspace_jax.nn.build` that PyTorch has the layers of, ten classes, 32x32x3."""
    if name == "lenet5":
        first = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
        dense = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
        return nn.Sequential(*first, nn.Flatten(), *dense)
    if name == "cnn2":
        dense = [nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10)]
        return nn.Sequential(*chain((16, 32), (1, 2), norm=False), nn.Flatten(), *dense)
    if name == "cnn":
        layers = chain((32, 32, 64, 64, 64, 64), (2,), norm=False)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 256, 10))
    if name == "vgg11":
        widths = (64, 128, 256, 256, 512, 512, 512, 512)
        return nn.Sequential(*chain(widths, (1, 2, 4, 6, 8), norm=True), nn.Flatten(), nn.Linear(512, 10))
    if name == "resnet20":
        blocks = [Block(a, b) for a, b in itertools.pairwise([16] * 4 + [32] * 3 + [64] * 3)]
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
        return nn.Sequential(*conv(3, 16), nn.ReLU(), *blocks, *head)
    return None


def measure(net: nn.Module, batch: int, repeats: int) -> dict[str, float]:
    """Samples a processor second, forward at inference and a step of SGD with momentum."""
    x, y = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10
    sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def forward():
        net.eval()
        with torch.no_grad():
            net(x)

    def step():
        net.train()
        sgd.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        sgd.step()

    least = {}
    for row, call in {"forward": forward, "step": step}.items():
        call()
        times = []
        for _ in range(repeats):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        least[row] = min(times)
    return {"torch_step_per_second": batch / least["step"], "torch_of_forward": least["step"] / least["forward"]}


if __name__ == "__main__":
    size, turns, *names = sys.argv[1:]
    networks = {name: net for name in names if (net := network(name)) is not None}
    print(json.dumps({name: measure(net, int(size), int(turns)) for name, net in networks.items()}))
