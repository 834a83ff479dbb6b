"""Pooling and ReLU in one against torch's two, and what is kept for the gradient."""

import pytest
import torch
import torch.nn.functional as F

from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.pool_relu import pool_relu


def maps(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(2).round()  # many are equal
    return x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 2), (180, 182)])
def test_values_and_gradients_are_exactly_those_of_torch(size, dtype):
    x = maps(3, 5, *size, dtype=dtype)
    ours, theirs = pool_relu(x), F.max_pool2d(x, 2).relu()
    assert torch.equal(ours, theirs)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for result, expected in zip(
        torch.autograd.grad((ours * weights).sum(), x),
        torch.autograd.grad((theirs * weights).sum(), x),
        strict=True,
    ):
        assert torch.equal(result, expected) and expected.count_nonzero() > 0
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_maps_too_large_for_its_numbers_are_refused():
    with pytest.raises(AssertionError):
        pool_relu(maps(1, 1, 182, 182, dtype=torch.float32))


def test_a_frame_keeps_a_third_of_what_torch_would_keep_for_its_gradient(monkeypatch):
    def kept(network: ConvLSTM) -> int:
        """Bytes, weights not counted; what several operations keep is counted once."""
        storages = {}
        weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network.features(torch.zeros(1, 1, 80, 80, dtype=torch.uint8))
        return sum(storage.nbytes() for storage in storages.values())

    network = ConvLSTM(6)
    ours = kept(network)
    monkeypatch.setattr("neurocoder.networks.conv_lstm.pool_relu", lambda x: F.max_pool2d(x, 2).relu())
    assert 0 < ours < kept(network) / 3
