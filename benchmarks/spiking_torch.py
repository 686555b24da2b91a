"""snnTorch as a peer of `benchmarks.spiking`: the same network with its Leaky neurons, where it can be imported."""

import importlib.metadata
from collections.abc import Callable, Sequence

import numpy as np
import snntorch  # type: ignore
import torch  # type: ignore

VERSIONS = {name: importlib.metadata.version(name) for name in ("torch", "snntorch")}


class Network(torch.nn.Module):
    """Convolutions with neurons, each 2x2 average behind the ones it follows, dense layers; no bias."""

    def __init__(self, kernels: Sequence[np.ndarray], pools: Sequence[int], *, leak: float, threshold: float):
        super().__init__()
        self.kernels = torch.nn.ParameterList([torch.from_numpy(moved(kernel)) for kernel in kernels])
        neurons = {"beta": leak, "threshold": threshold, "reset_mechanism": "subtract"}
        self.neurons = [snntorch.Leaky(**neurons) for _ in kernels[:-1]]
        self.pools = pools

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """(steps, b, channels, h, w) -> logits, one step after the other as its tutorials run it."""
        membranes, total = [neuron.init_leaky() for neuron in self.neurons], 0.0
        for own in spikes:
            for number, kernel in enumerate(self.kernels):
                for _ in range(self.pools[number]):
                    own = torch.nn.functional.avg_pool2d(own, 2)
                if kernel.ndim == 4:
                    own = torch.nn.functional.conv2d(own, kernel, padding=1)
                else:  # a flattened map has its channels last in the weights
                    own = (own.permute(0, 2, 3, 1).flatten(1) if own.ndim == 4 else own) @ kernel
                if number < len(self.neurons):
                    own, membranes[number] = self.neurons[number](own, membranes[number])
            total = total + own
        return total / len(spikes)


def moved(kernel: np.ndarray) -> np.ndarray:
    """(h, w, in, out) as torch has it; dense ones as they are."""
    return np.array(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel)


def calls(
    kernels: Sequence[np.ndarray], pools: Sequence[int], spikes: np.ndarray, *, leak: float, threshold: float
) -> dict[str, Callable[[], np.ndarray]]:
    """{"forward": logits, "forward and backward": gradient of the first kernel of the sum of their squares}."""
    network = Network(kernels, pools, leak=leak, threshold=threshold)
    own = torch.from_numpy(np.array(spikes.transpose(0, 1, 4, 2, 3)))

    def forward() -> np.ndarray:
        with torch.no_grad():
            return network(own).numpy()

    def both() -> np.ndarray:
        network.zero_grad()
        network(own).square().sum().backward()
        return network.kernels[0].grad.numpy()

    return {"forward": forward, "forward and backward": both}
