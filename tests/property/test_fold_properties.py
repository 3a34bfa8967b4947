"""Whatever batch normalisation learnt: folded into the convolutions it computes the same."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convscope_export.network import Network, fold
from convscope_export.notation import parse

LAYERS = st.lists(
    st.builds("CONV({}, {})".format, st.integers(1, 5), st.sampled_from(["1x1", "3x3"]))
    | st.sampled_from(["RELU", "CONV(2, 2x2, stride 2, padding none)", "POOL(average, 2x2)"]),
    min_size=1,
    max_size=5,
)


def draw_statistics(network: Network, seed: int) -> None:
    """Give every normalisation statistics, scales (also negative and 0) and offsets."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    with torch.no_grad():
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(draw(norm.running_mean, -2, 2))
                norm.running_var.copy_(draw(norm.running_var, 0.05, 4))
                norm.weight.copy_(draw(norm.weight, -2, 2))
                norm.bias.copy_(draw(norm.bias, -2, 2))
                norm.weight[0] = 0


@given(layers=LAYERS, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_every_layer_of_a_folded_network_computes_what_it_did(layers: list[str], seed: int) -> None:
    architecture = parse(" -> ".join(["INPUT(32x32x2)", *layers, "POOL(average, global)", "FC(3)"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(architecture, batch_norm=True)
        x = torch.randn(2, 2, 32, 32)
    draw_statistics(network, seed)
    network.eval()
    with torch.inference_mode():
        expected = network.activations(x)
        found = fold(network).activations(x)
    assert list(found) == list(expected)
    for name, values in expected.items():
        # Sums in another order: compared with the largest value of the layer.
        scale = max(1.0, values.abs().max().item())
        torch.testing.assert_close(found[name], values, rtol=0, atol=2e-5 * scale)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_a_network_without_normalisation_is_folded_to_itself(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(parse("INPUT(4x4x1) -> CONV(2, 3x3) -> RELU -> FC(2)")).eval()
    state = fold(network).state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
