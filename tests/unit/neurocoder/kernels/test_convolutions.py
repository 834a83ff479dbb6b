"""The gradient of many forward passes together against autograd's gradient, and the memory that it needs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder.kernels import compiled, conv_pool_relu, convolutions, pool_relu
from neurocoder.kernels.convolutions import Activations, activations, features
from neurocoder.networks.conv_lstm import ConvLSTM


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch) -> None:
    """Switches compiled code on or off."""
    if request.param == "torch":
        monkeypatch.setattr(conv_pool_relu, "usable", lambda *_: False)
        monkeypatch.setattr(pool_relu, "usable", lambda _: False)
    elif compiled.library(conv_pool_relu.SOURCE) is None:
        pytest.skip("no C++ compiler, or NEUROCODER_FUSED=0")


def small_network(dtype=torch.float32, *, pooled=True) -> list[nn.Conv2d]:
    torch.manual_seed(0)
    strides = (1, 1, 1) if pooled else (2, 3, 1)
    layers = [
        nn.Conv2d(1, 32, 5, padding=2, stride=strides[0]),
        nn.Conv2d(32, 6, 3, stride=strides[1]),
        nn.Conv2d(6, 5, 2, padding=1, stride=strides[2]),
    ]
    return [layer.to(dtype=dtype, memory_format=torch.channels_last) for layer in layers]


def frames(number, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(number, 20, 18, 1, dtype=torch.float64, generator=draw)
    return x.permute(0, 3, 1, 2).to(dtype)


def by_torch(x, network, *, pooled=True):
    for layer in network:
        x = layer(x.contiguous()).relu()
        x = F.max_pool2d(x, 2) if pooled else x
    return x.flatten(1)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["double", "single"]
)
@pytest.mark.parametrize("group_frames", [1, 3, 64])
@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "strided"])
def test_the_gradient_of_separate_passes_is_that_of_torch_in_double_precision(
    way, dtype, tolerance, group_frames, pooled, monkeypatch
):
    monkeypatch.setattr(convolutions, "BACKWARD_FRAMES", group_frames)
    network, exact = (small_network(each, pooled=pooled) for each in (dtype, torch.float64))
    steps = [frames(number, dtype, seed=number) for number in (3, 1, 2)]
    result = features([activations(x, network, dtype, pooled=pooled) for x in steps], network)
    expected = by_torch(torch.cat(steps).double(), exact, pooled=pooled)
    assert result.dtype == dtype
    weights = torch.randn_like(expected)
    parameters = [list(nn.ModuleList(layers).parameters()) for layers in (network, exact)]
    gradients = torch.autograd.grad(result, parameters[0], weights.to(dtype))
    slow = torch.autograd.grad(expected, parameters[1], weights)
    for ours, theirs in zip((result, *gradients), (expected, *slow), strict=True):
        assert theirs.norm() > 0 and (ours - theirs).norm() < tolerance * theirs.norm()


def test_in_half_precision_weights_and_features_stay_in_single(way):
    network = small_network()
    result = features([activations(frames(4), network, torch.bfloat16)], network)
    (gradient,) = torch.autograd.grad(result.sum(), network[1].weight)
    assert result.dtype == gradient.dtype == torch.float32
    expected = by_torch(frames(4), network)
    assert 0 < (result - expected).norm() < 0.02 * expected.norm()


def test_weights_that_changed_after_the_passes_are_an_error():
    network = small_network()
    result = features([activations(frames(2), network, torch.float32)], network)
    with torch.no_grad():
        network[1].weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_a_frame_needs_less_than_a_third_of_the_memory_that_torch_needs_for_its_gradient():
    network = ConvLSTM(6)
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    frame = torch.randint(256, (1, 1, 80, 80), dtype=torch.uint8)

    def nbytes(tensors) -> int:
        """Counts tensors that several operations share once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        return sum(storage.nbytes() for address, storage in storages.items() if address not in parameters)

    ours: Activations = network.activations(frame)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        by_torch(frame.float(), network.convolutions)
    assert 0 < nbytes([*ours.inputs, *ours.chosen, ours.output]) < nbytes(saved) / 3
