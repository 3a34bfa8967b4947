"""Architectures as PyTorch modules."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convscope_export.architecture import Architecture, PlacedLayer
from convscope_export.layers import Conv, FullyConnected, Pool, Relu


class Network(nn.Module):
    """An architecture with weights; sub-modules and parameters carry the layers' names."""

    def __init__(self, architecture: Architecture) -> None:
        """Make the layers, with PyTorch's default random weights from its global generator."""
        super().__init__()
        self.architecture = architecture
        for placed in architecture.layers:
            self.add_module(placed.name, _module(placed))

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """Every layer's output by the layer's name, in the network's order.

        Args:
            x: Normalised pixels, float32, shape (N, depth, height, width).

        Returns:
            float32, shape (N, C, H, W), and (N, K) from the first FC layer on. The
            last one holds the raw class scores.
        """
        outputs: dict[str, Tensor] = {}
        for placed in self.architecture.layers:
            if isinstance(placed.layer, FullyConnected) and x.dim() > 2:
                x = x.flatten(1)
            x = self.get_submodule(placed.name)(x)
            outputs[placed.name] = x
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Raw class scores, float32, shape (N, K); see activations() for `x`."""
        return self.activations(x)[self.architecture.layers[-1].name]


def _module(placed: PlacedLayer) -> nn.Module:
    match placed.layer:
        case Conv() as conv:
            return nn.Conv2d(
                placed.input.depth, conv.filters, conv.size, conv.stride, padding=conv.zeros
            )
        case Relu():
            return nn.ReLU()
        case Pool(method="max") as pool:
            return nn.MaxPool2d(pool.size, pool.step)
        case Pool() as pool:
            return nn.AvgPool2d(pool.size, pool.step)
        case FullyConnected() as fc:
            return nn.Linear(placed.input.values, fc.outputs)


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised pixels, `(value / 255 - mean) / std` for each channel.

    Args:
        pixels: uint8, shape (N, C, H, W), 0-255.
        mean: C values, on pixels scaled to 0-1.
        std: C values, on pixels scaled to 0-1.

    Returns:
        float32, shape (N, C, H, W).
    """
    shape = (1, len(mean), 1, 1)
    offset = torch.tensor(mean, device=pixels.device).view(shape)
    scale = torch.tensor(std, device=pixels.device).view(shape)
    return (pixels.float() / 255 - offset) / scale
