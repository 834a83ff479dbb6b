"""Convolution, pooling and ReLU in one pass against torch's three operations in double precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder.kernels import compiled
from neurocoder.kernels import conv_pool_relu as module
from neurocoder.kernels.conv_pool_relu import conv_pool_relu, conv_pool_relu_backward, usable
from neurocoder.networks.conv_lstm import ConvLSTM

needs_compiler = pytest.mark.skipif(
    compiled.library(module.SOURCE) is None, reason="no C++ compiler, or NEUROCODER_FUSED=0"
)
# bf16 has 8 significant bits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution(channels=32, *, kernel=5, padding=2) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(1, channels, kernel, padding=padding)


def ours(x, conv, dtype=torch.float32, gradient=None):
    """Returns the output; with a gradient for the output, also the gradients of weight and bias."""
    with torch.no_grad():
        pooled, chosen = conv_pool_relu(x, conv.weight, conv.bias, conv.padding[0], dtype)
    if gradient is None:
        return pooled
    return pooled, *conv_pool_relu_backward(gradient, chosen, x, conv.kernel_size[0], conv.padding[0])


def by_torch(x, conv):
    """Does the same in double precision, one operation at a time."""
    weight, bias = conv.weight.double(), conv.bias.double()
    return F.max_pool2d(F.conv2d(x.double(), weight, bias, padding=conv.padding), 2).relu()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("size", [(80, 80), (9, 7), (6, 11)], ids=str)
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [32, 96])
def test_values_and_gradients_are_those_of_torch_in_double_precision(channels, padding, size, dtype):
    x, conv = random(3, 1, *size), convolution(channels, padding=padding)
    assert usable(x, conv.weight, dtype)
    expected = by_torch(x, conv)
    weights = random(*expected.shape, seed=1).to(dtype)
    pooled, *gradients = ours(x, conv, dtype, gradient=weights)
    assert pooled.dtype == dtype and pooled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooled.double(), expected, rtol=TOLERANCE[dtype], atol=1e-6)
    for result, slow in zip(
        gradients, torch.autograd.grad(expected, [conv.weight, conv.bias], weights.double()), strict=True
    ):
        assert slow.norm() > 0 and (result - slow).norm() < 1e-5 * slow.norm()


@needs_compiler
def test_bf16_is_rounded_to_nearest_and_ties_to_even():
    conv, x = convolution(), torch.zeros(1, 1, 6, 6)
    with torch.no_grad():
        conv.weight.zero_()
        # The steps of bf16 at 1 are 2**-7, so some of these lie halfway between two.
        conv.bias.copy_(1 + torch.arange(32) * 2.0**-9)
    assert torch.equal(ours(x, conv, torch.bfloat16)[0, :, 1, 1], conv.bias.to(torch.bfloat16))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_numbers_that_are_not_finite_appear_where_torch_shows_them(value, dtype):
    x, conv = random(2, 1, 12, 12), convolution()
    x[1, 0, 5, 6] = value
    pooled, expected = ours(x, conv, dtype), by_torch(x, conv)
    assert torch.equal(pooled.isnan(), expected.isnan()) and torch.equal(pooled.isinf(), expected.isinf())
    assert not pooled.isfinite().all()


@needs_compiler
def test_a_closed_relu_has_no_gradient():
    x, conv = random(2, 1, 12, 12), convolution()
    with torch.no_grad():
        conv.bias.fill_(-100.0)
    pooled, *gradients = ours(x, conv, gradient=random(2, 32, 6, 6))
    assert all(result.count_nonzero() == 0 for result in (pooled, *gradients))


@needs_compiler
def test_two_threads_give_the_same_results_as_one():
    x, conv, threads = random(5, 1, 20, 20), convolution(), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(ours(x, conv, gradient=random(5, 32, 10, 10)))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("x", "conv"),
    [
        (random(2, 1, 12, 12).double(), convolution().double()),
        (random(2, 1, 12, 12), convolution(20)),
        (random(2, 1, 12, 12), convolution(kernel=3)),
        (random(2, 32, 12, 12), nn.Conv2d(32, 32, 5)),
        (random(2, 1, 12, 12).to("meta"), convolution().to("meta")),
    ],
    ids=["double precision", "20 channels", "another kernel", "colours", "another device"],
)
def test_inputs_that_the_compiled_code_cannot_take_are_not_usable(x, conv):
    assert not usable(x, conv.weight, x.dtype)


@needs_compiler
def test_frames_in_another_memory_layout_give_the_same_results():
    x, conv, gradient = random(2, 1, 10, 14).transpose(2, 3), convolution(), random(2, 32, 7, 5)
    assert not x.is_contiguous()
    pairs = zip(ours(x, conv, gradient=gradient), ours(x.contiguous(), conv, gradient=gradient), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@needs_compiler
def test_no_frames_give_no_maps():
    assert ours(random(0, 1, 80, 80), convolution()).shape == (0, 32, 40, 40)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_features_of_a_network_are_the_same_with_and_without_it(dtype, monkeypatch):
    torch.manual_seed(0)
    network = ConvLSTM(6)
    network.compute_dtype = dtype
    frames = torch.randint(256, (4, 1, 80, 80), dtype=torch.uint8)

    def results():
        """Returns features and the gradients of the convolutions."""
        features = network.features(frames)
        gradients = torch.autograd.grad(features.sum(), list(network.convolutions.parameters()))
        return [features, *gradients]

    ours = results()
    monkeypatch.setattr(module, "usable", lambda *_: False)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    for fast, slow in zip(ours, results(), strict=True):
        assert slow.norm() > 0 and (fast - slow).norm() < tolerance * slow.norm()
