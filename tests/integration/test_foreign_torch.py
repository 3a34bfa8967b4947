"""A residual network as PyTorch's two exporters write it, behind a real server."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.servers import running_server
from torch import Tensor, nn

from convscope_client import Client

HEIGHT, WIDTH = 16, 24


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, depth: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.around: nn.Module = nn.Identity()
        if (depth, 1) != (filters, stride):
            self.around = nn.Conv2d(depth, filters, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.around(x))


class ResidualNetwork(nn.Module):
    """A stem, two blocks, global average pooling, one fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block1 = Block(8, 8, 1)
        self.block2 = Block(8, 16, 2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(torch.relu(self.stem(x))))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_both_exporters_networks_are_served_with_their_layers(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResidualNetwork().eval()
    path = tmp_path / "residual.onnx"
    axes = (
        {"dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}, "external_data": False}
        if dynamo
        else {"dynamic_axes": {"input": {0: "batch"}}}
    )
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, HEIGHT, WIDTH),),
        path,
        input_names=["input"],
        output_names=["output"],
        dynamo=dynamo,
        **axes,
    )
    images = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    activations: dict[str, Tensor] = {}
    network.block2.register_forward_hook(
        lambda module, inputs, output: activations.update(block2=output)
    )
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    with running_server(path, max_batch_size=4) as server, Client(server.address) as client:
        layers = client.describe().layers
        result = client.classify(
            images, include_scores=True, features=[layer.name for layer in layers]
        )
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)  # type: ignore[arg-type]
    kinds = [layer.kind for layer in layers]
    assert (kinds.count("Conv"), kinds.count("Relu"), kinds.count("Add")) == (6, 5, 2)
    last_relu = [layer.name for layer in layers if layer.kind == "Relu"][-1]
    (maps,) = [maps for maps in result.feature_maps if maps.layer == last_relu]
    np.testing.assert_allclose(maps.values, activations["block2"], atol=1e-5)
