"""Pooling and ReLU in one pass against torch's two operations."""

import pytest
import torch
import torch.nn.functional as F

from neurocoder.kernels import compiled
from neurocoder.kernels import pool_relu as module
from neurocoder.kernels.pool_relu import pool_relu, pool_relu_backward, usable


def maps(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    # Rounding makes many numbers equal.
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(2).round()
    return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch) -> str:
    """Switches compiled code on or off."""
    if request.param == "torch":
        monkeypatch.setattr(module, "usable", lambda x: False)
    elif compiled.library(module.SOURCE) is None:
        pytest.skip("no C++ compiler, or NEUROCODER_FUSED=0")
    return request.param


def assert_same_as_torch(x):
    (ours, chosen), theirs = pool_relu(x.detach()), F.max_pool2d(x, 2).relu()
    assert torch.equal(ours.nan_to_num(5.5), theirs.nan_to_num(5.5))
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    result = pool_relu_backward(weights, chosen, x.shape[2:])
    (expected,) = torch.autograd.grad(theirs, x, weights)
    assert torch.equal(result, expected) and expected.count_nonzero() > 0
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 5), (7, 6), (2, 2), (180, 182)])
@pytest.mark.parametrize("channels", [1, 5, 32])
def test_values_and_gradients_are_exactly_those_of_torch(channels, size, dtype, way):
    x = maps(3, channels, *size, dtype=dtype)
    if way == "compiled":
        assert usable(x) == (dtype != torch.float64)
    assert_same_as_torch(x)


def test_infinities_and_zeros_of_both_signs_are_treated_as_by_torch(way):
    draw = torch.Generator().manual_seed(0)
    values = torch.tensor([float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0])
    x = values[torch.randint(6, (4, 8, 8, 8), generator=draw)]
    assert_same_as_torch(x.contiguous(memory_format=torch.channels_last).requires_grad_())


def test_not_a_number_stays_not_a_number(way):
    x = torch.zeros(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 2] = torch.nan
    assert pool_relu(x)[0].isnan().nonzero().tolist() == [[0, 3, 0, 1]]


def test_two_threads_give_the_same_results_as_one():
    x, threads = maps(5, 32, 10, 9, dtype=torch.float32), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert_same_as_torch(x)
    finally:
        torch.set_num_threads(threads)


def test_maps_in_torchs_default_layout_and_empty_maps_give_the_same_results():
    x = torch.randn(2, 3, 6, 6)
    assert not usable(x)
    torch.testing.assert_close(pool_relu(x)[0], F.max_pool2d(x, 2).relu())
    assert pool_relu(maps(2, 3, 6, 6, dtype=torch.float32)[:0])[0].shape == (0, 3, 3, 3)


def test_maps_with_more_pixels_than_16_bits_can_number_are_refused():
    with pytest.raises(AssertionError):
        pool_relu(maps(1, 1, 182, 182, dtype=torch.float32))
