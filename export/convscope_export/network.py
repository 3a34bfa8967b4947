"""Architectures as PyTorch modules."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from convscope_export.architecture import Architecture, PlacedLayer
from convscope_export.layers import (
    Conv,
    FullyConnected,
    GlobalAveragePool,
    Pool,
    Relu,
    distance_weights,
)

# After a convolution's name, that of its batch normalisation.
_NORM = "_norm"
# Far below any activation that matters; see L2Pool.
_TINY = 1e-12


class Network(nn.Module):
    """An architecture with weights; sub-modules and parameters carry the layers' names."""

    def __init__(self, architecture: Architecture, *, batch_norm: bool = False) -> None:
        """Make the layers, with PyTorch's default random weights from its global generator.

        Args:
            architecture: The layers.
            batch_norm: For training, normalise the output of each convolution; it is no
                layer of the architecture: fold() it into the convolutions afterwards.
        """
        super().__init__()
        self.architecture = architecture
        for placed in architecture.layers:
            self.add_module(placed.name, _module(placed))
            if batch_norm and isinstance(placed.layer, Conv):
                self.add_module(f"{placed.name}{_NORM}", nn.BatchNorm2d(placed.layer.filters))

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
            if norm := getattr(self, f"{placed.name}{_NORM}", None):
                x = norm(x)
            outputs[placed.name] = x
        # The last layer may be the global average of as many channels as there are classes.
        outputs[self.architecture.layers[-1].name] = x.flatten(1)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Raw class scores, float32, shape (N, K); see activations() for `x`."""
        return self.activations(x)[self.architecture.layers[-1].name]


class L2Pool(nn.Module):
    """The L2 norm of each window, sqrt(sum of x^2)."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Norms, float32, shape (N, C, H', W'), from x, float32, shape (N, C, H, W)."""
        # Not lp_pool2d, nor ONNX's LpPool: CUDA has no kernel for it, and on the CPU it leaves
        # the blocked layout at full resolution. Of these four only Sqrt does, after the pool.
        squares = avg_pool2d(x * x, self.size, self.stride) * float(self.size**2)
        if self.training:
            # The slope of sqrt at 0 is infinite: a window of zeros, as ReLU leaves them, would
            # turn every gradient into NaN. Below the bound the gradient is 0.
            squares = squares.clamp_min(_TINY)
        return squares.sqrt()


class DistancePool(nn.Module):
    """The average of each window, weighted by the distance from its centre."""

    kernel: Tensor

    def __init__(self, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        # Fixed, so neither a parameter nor part of a checkpoint. One filter a channel: as a
        # convolution it keeps ONNX Runtime's blocked layout and runs on CUDA.
        kernel = torch.tensor(distance_weights(size)).expand(channels, 1, size, size)
        self.register_buffer("kernel", kernel.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Averages, float32, shape (N, C, H', W'), from x, float32, shape (N, C, H, W)."""
        return conv2d(x, self.kernel, stride=self.stride, groups=self.channels)


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
        case Pool(method="average") as pool:
            return nn.AvgPool2d(pool.size, pool.step)
        case Pool(method="l2") as pool:
            return L2Pool(pool.size, pool.step)
        case Pool() as pool:
            return DistancePool(placed.input.depth, pool.size, pool.step)
        case GlobalAveragePool():
            # Not AdaptiveAvgPool2d: that is exported as ReduceMean, which ONNX Runtime has no
            # blocked kernel for.
            return nn.AvgPool2d((placed.input.height, placed.input.width))
        case FullyConnected() as fc:
            return nn.Linear(placed.input.values, fc.outputs)


def fold(network: Network) -> Network:
    """The same network, as it is in eval mode, without batch normalisation.

    A normalisation by fixed statistics is a scale and an offset of each channel, and so is
    part of the convolution before it: w' = w g / sqrt(v + e), b' = (b - m) g / sqrt(v + e) + o
    with mean m, variance v, scale g, offset o (Ioffe and Szegedy, 2015, section 3.1).
    """
    folded = Network(network.architecture)
    with torch.no_grad():
        for name, module in folded.named_children():
            source = network.get_submodule(name)
            module.load_state_dict(source.state_dict())
            norm = getattr(network, f"{name}{_NORM}", None)
            if isinstance(module, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                # In float64: the roundings of the product would be seen in the last digits.
                of = {key: value.double() for key, value in norm.state_dict().items()}
                scale = of["weight"] / (of["running_var"] + norm.eps).sqrt()
                weights, biases = (parameter.double() for parameter in module.parameters())
                biases = (biases - of["running_mean"]) * scale + of["bias"]
                weights = weights * scale.view(-1, 1, 1, 1)
                module.load_state_dict({"weight": weights, "bias": biases})
    return folded.to(next(network.parameters()).device).train(network.training)


def he_initialize(network: Network) -> None:
    """Draw new weights that keep the signal's size through any number of CONV -> RELU.

    Normal with variance 2 / fan-in, biases 0 (He, Zhang, Ren and Sun, Delving Deep into
    Rectifiers, 2015, equation 10). With PyTorch's own draw, whose variance is 1 / (3 fan-in),
    each layer divides the variance by 6: what reaches the end of VGG-16 is all bias.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pictures stretched to another size, bicubic, smoothed where they shrink (as Pillow does).

    Args:
        pixels: uint8, shape (N, C, H, W), 0-255.
        height: In pixels.
        width: In pixels.

    Returns:
        uint8, shape (N, C, height, width), 0-255; `pixels` itself if it has that size.
    """
    if pixels.shape[2:] == (height, width):
        return pixels
    size = (height, width)
    stretched = interpolate(pixels.float(), size, mode="bicubic", antialias=True)
    return stretched.round_().clamp_(0, 255).to(torch.uint8)


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
