import numpy as np
import pytest
import torch

from convscope_export.architecture import Architecture
from convscope_export.layers import Conv, FullyConnected, Pool, Relu, Volume
from convscope_export.network import Network, normalize
from convscope_export.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_activations_have_the_volumes_that_the_architecture_computes(name: str) -> None:
    architecture = PRESETS[name].architecture
    network = Network(architecture)
    volume = architecture.input
    activations = network.activations(torch.zeros(3, volume.depth, volume.height, volume.width))
    assert list(activations) == [layer.name for layer in architecture.layers]
    for layer in architecture.layers:
        expected = (3, layer.volume.depth, layer.volume.height, layer.volume.width)
        flat = "fc" in layer.name
        assert tuple(activations[layer.name].shape) == (expected[:2] if flat else expected)
    parameters = sum(weights.numel() for weights in network.parameters())
    assert parameters == architecture.parameters


def test_every_kind_of_layer_computes_what_its_name_says() -> None:
    architecture = Architecture(
        Volume(1, 4, 4),
        (Conv(1, 3), Relu(), Pool("max", 2), Pool("average", 2), FullyConnected(2)),
    )
    network = Network(architecture)
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
        network.get_parameter("conv1.weight")[0, 0, 1, 1] = 2.0  # doubles its centre
        network.get_parameter("conv1.bias")[:] = -10.0
        network.get_parameter("fc1.weight")[1] = 3.0
        found = network.activations(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert found["conv1"].flatten().tolist() == [2.0 * value - 10 for value in range(16)]
    assert found["relu1"].flatten().tolist() == [max(0.0, 2.0 * v - 10) for v in range(16)]
    assert found["pool1_1"].flatten().tolist() == [0.0, 4.0, 16.0, 20.0]
    assert found["pool1_2"].flatten().tolist() == [10.0]
    assert found["fc1"].tolist() == [[0.0, 30.0]]
    assert network(torch.arange(16.0).reshape(1, 1, 4, 4)).tolist() == [[0.0, 30.0]]


def test_normalize_scales_each_channel() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)
    found = normalize(torch.from_numpy(pixels), (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    assert found.flatten().tolist() == pytest.approx([-1.0, 0.0, 0.5], abs=1e-6)
