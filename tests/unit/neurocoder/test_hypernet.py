"""The layer against W_t = S(x) * W written out, one input at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neurocoder.alternatives.hypernet import HyperNetLinear
from tests.unit.neurocoder.largest_allocation import LargestAllocation


def random_layer(*, hidden=5, in_features=4, out_features=3, seed=0):
    """A float64 layer in which no parameter is zero or small."""
    layer = HyperNetLinear(in_features, out_features, scale="elements", hidden=hidden).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def random_input(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(layer, x):
    """x (B, d_in) -> (B, d_out), through all scaled weights (B, d_out, d_in)."""
    scaled = []
    for row in x:
        hidden = [
            max(w @ row + b, row.new_zeros(())) for w, b in zip(*layer.hidden.parameters(), strict=True)
        ]
        scale = layer.scale.weight @ torch.stack(hidden) + layer.scale.bias
        scaled.append(scale.reshape(layer.weight.shape) * layer.weight)
    return (torch.stack(scaled) @ x.unsqueeze(-1)).squeeze(-1) + layer.bias


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    in_features=st.integers(1, 5),
    out_features=st.integers(1, 5),
    hidden=st.integers(1, 6),
    batch=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_agree_with_weights_scaled_one_input_at_a_time(
    in_features, out_features, hidden, batch, seed
):
    layer = random_layer(hidden=hidden, in_features=in_features, out_features=out_features, seed=seed)
    x = random_input(batch, in_features).requires_grad_()
    weights = random_input(batch, out_features, seed=2)
    y, y_slow = layer(x), reference(layer, x)
    torch.testing.assert_close(y, y_slow, rtol=1e-10, atol=1e-11)
    wanted = [x, *layer.parameters()]
    gradients, gradients_slow = (
        torch.autograd.grad((out * weights).sum(), wanted, allow_unused=True, materialize_grads=True)
        for out in (y, y_slow)
    )
    for fast, slow in zip(gradients, gradients_slow, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)


def test_scales_start_near_one_so_the_layer_starts_near_the_plain_one():
    torch.manual_seed(0)
    layer = HyperNetLinear(512, 9, scale="elements")
    x = torch.randn(200, 512)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    distance = (layer(x) - plain).norm() / plain.norm()
    assert 0 < distance < 0.1


def test_the_scaled_weights_themselves_start_as_those_of_a_linear_layer():
    torch.manual_seed(0)
    layer = HyperNetLinear(512, 9, scale="elements")
    torch.manual_seed(0)
    plain = nn.Linear(512, 9)
    assert torch.equal(layer.weight, plain.weight) and torch.equal(layer.bias, plain.bias)


@pytest.mark.parametrize("leading", [(), (0,), (1,), (6,), (2, 0), (2, 3), (3, 1, 2)], ids=str)
def test_leading_dimensions_are_free(leading):
    layer = random_layer()
    rows = random_input(math.prod(leading), 4)
    y = layer(rows.reshape(*leading, 4))
    one_by_one = [layer(row[None]) for row in rows]
    expected = torch.cat(one_by_one) if one_by_one else torch.empty(0, 3, dtype=torch.float64)
    torch.testing.assert_close(y, expected.reshape(*leading, 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", ["layer", "reference"])
def test_the_layer_never_holds_all_scaled_weights_as_the_reference_does(function):
    batch, in_features, out_features = 20, 30, 10
    layer = random_layer(hidden=4, in_features=in_features, out_features=out_features)
    x = random_input(batch, in_features).requires_grad_()
    with LargestAllocation() as forward:
        y = layer(x) if function == "layer" else reference(layer, x)
    with LargestAllocation() as backward:
        y.sum().backward()
    for largest in (forward.elements, backward.elements):
        assert largest > 0
        assert (largest < batch * in_features * out_features) == (function == "layer")


@pytest.mark.parametrize("hidden", [None, 5])
def test_row_scales_agree_with_weights_scaled_one_input_at_a_time(hidden):
    layer = HyperNetLinear(4, 3, scale="rows", hidden=hidden).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = random_input(6, 4).requires_grad_()
    slow = []
    for row in x:
        scale = layer.scale(row if hidden is None else layer.hidden(row).clamp(min=0))
        slow.append((layer.weight @ torch.diag(scale)) @ row + layer.bias)
    y, y_slow = layer(x), torch.stack(slow)
    torch.testing.assert_close(y, y_slow)
    wanted = [x, *layer.parameters()]
    gradients, gradients_slow = (torch.autograd.grad(out.square().sum(), wanted) for out in (y, y_slow))
    torch.testing.assert_close(gradients, gradients_slow)
