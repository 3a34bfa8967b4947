import numpy as np
import pytest
import torch
from PIL import Image

from convscope_export.architecture import Architecture
from convscope_export.layers import Conv, FullyConnected, Pool, Relu, Volume
from convscope_export.network import Network, fold, he_initialize, normalize, resize
from convscope_export.notation import parse
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


def pooled(pool: str, pixels: torch.Tensor) -> torch.Tensor:
    """The output of one pool over pixels, shape (1, 1, H, W)."""
    height, width = pixels.shape[2:]
    network = Network(parse(f"INPUT({width}x{height}x1) -> {pool} -> FC(1)")).eval()
    with torch.inference_mode():
        return network.activations(pixels)["pool1"]


def test_each_pool_computes_what_its_name_says() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0], [2.0, 2.0, -3.0]])[None, None]
    windows = [[1, -2, 0, 4], [-2, 3, 4, -1], [0, 4, 2, 2], [4, -1, 2, -3]]
    for method, of in (
        ("max", max),
        ("average", lambda window: sum(window) / 4),
        ("l2", lambda window: sum(value**2 for value in window) ** 0.5),
        # In a 2x2 window all are equally far from the centre.
        ("distance", lambda window: sum(window) / 4),
    ):
        found = pooled(f"POOL({method}, 2x2, stride 1)", x).flatten().tolist()
        assert found == pytest.approx([of(window) for window in windows], abs=1e-6), method
    assert pooled("POOL(average, global)", x).flatten().tolist() == pytest.approx([6 / 9])


def test_the_pool_by_distance_weighs_the_centre_most() -> None:
    spot = torch.zeros(1, 1, 3, 3)
    weights = []
    for y in range(3):
        for x in range(3):
            spot.zero_()[0, 0, y, x] = 1
            weights.append(pooled("POOL(distance, 3x3)", spot).item())
    corner, side, centre = weights[0], weights[1], weights[4]
    assert (side / centre, corner / centre) == pytest.approx((1 / 2, 1 / (1 + 2**0.5)))
    assert sum(weights) == pytest.approx(1)


def test_an_l2_pool_over_zeros_has_a_gradient_and_no_effect_on_the_others() -> None:
    network = Network(parse("INPUT(4x2x1) -> POOL(l2, 2x2) -> FC(1)")).train()
    x = torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 4.0]])[None, None].requires_grad_()
    pool = network.activations(x)["pool1"]
    torch.autograd.backward(pool.sum())
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx([0, 0, 0.6, 0, 0, 0, 0, 0.8])
    assert pool.flatten().tolist() == pytest.approx([0, 5], abs=1e-5)
    assert network.eval().activations(x)["pool1"].flatten().tolist() == [0, 5]


def test_a_head_by_global_average_makes_the_scores() -> None:
    network = Network(parse("INPUT(4x4x1) -> CONV(7, 3x3) -> POOL(average, global)"))
    activations = network.activations(torch.ones(3, 1, 4, 4))
    assert activations["pool1"].shape == (3, 7)
    torch.testing.assert_close(activations["pool1"], activations["conv1"].mean((2, 3)))


def test_fixed_weights_are_neither_learnt_nor_kept_in_a_checkpoint() -> None:
    network = Network(parse("INPUT(4x4x1) -> POOL(distance, 2x2) -> FC(1)"))
    assert set(network.state_dict()) == {"fc1.weight", "fc1.bias"}
    assert {name for name, _ in network.named_parameters()} == {"fc1.weight", "fc1.bias"}


def test_he_s_weights_keep_the_signal_s_size_through_vgg16() -> None:
    torch.manual_seed(0)
    network = Network(PRESETS["vgg16"].architecture).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch_s = network.activations(x)["conv5_3"].std().item()
        he_initialize(network)
        he_s = network.activations(x)["conv5_3"].std().item()
    assert network.get_parameter("conv5_3.bias").abs().max().item() == 0
    # Thirteen layers: without them some 1e-3 of it is left, mostly bias.
    assert torch_s < 0.1
    assert 0.3 < he_s < 10


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (20, 8)])
def test_resize_does_what_pillow_does(height: int, width: int) -> None:
    # Far from 0 and 255: Pillow clips and rounds between its two passes, torch only at the end.
    pixels = np.random.default_rng(0).integers(90, 160, (16, 16, 3), dtype=np.uint8)
    found = resize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], height, width)
    expected = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    difference = found[0].numpy().transpose(1, 2, 0).astype(int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1


def test_resize_leaves_what_fits_alone() -> None:
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert resize(pixels, 8, 8) is pixels


@pytest.mark.parametrize("head", ["FC(3)", "CONV(3, 2x2, padding 0) -> POOL(average, global)"])
def test_a_folded_network_computes_what_it_did(head: str) -> None:
    text = f"INPUT(8x8x3) -> [[CONV(4, 3x3) -> RELU]*2 -> POOL(max, 2x2)]*1 -> {head}"
    torch.manual_seed(0)
    network = Network(parse(text), batch_norm=True)
    for _ in range(5):  # statistics, scales and offsets that are not those of the start
        network(3 * torch.randn(20, 3, 8, 8) + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    folded = fold(network.eval())
    x = torch.randn(6, 3, 8, 8)
    expected = network.activations(x)
    for name, values in folded.activations(x).items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert not folded.training
