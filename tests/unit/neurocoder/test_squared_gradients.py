"""Sums of squared gradients of a layer against one backward pass a sample."""

import pytest
import torch

import neurocoder.squared_gradients as module
from neurocoder.layer import NeurocoderLinear
from neurocoder.squared_gradients import one_by_one, squared_gradients
from tests.unit.neurocoder.squares_by_hand import (
    LAYERS,
    SIZES,
    assert_equal,
    draw,
    randomised,
    sum_sample_by_sample,
)


@pytest.mark.parametrize("name", LAYERS)
def test_squared_gradients_of_a_layer_equal_one_backward_a_sample(name):
    torch.manual_seed(0)
    layer, x, delta = randomised(LAYERS[name](7, 4)), draw(12, 7), draw(12, 4)
    losses = ((layer(x[b : b + 1]) * delta[b]).sum() for b in range(12))
    assert_equal(squared_gradients(layer, delta, x), sum_sample_by_sample(layer, losses))


@pytest.mark.parametrize("settings", [dict(), dict(steps=2)], ids=str)
def test_squared_gradients_of_a_neurocoder_whose_controller_has_a_separate_input(settings):
    torch.manual_seed(0)
    layer = randomised(NeurocoderLinear(7, 4, controller_features=5, **SIZES, **settings))
    x, z, delta = draw(12, 7), draw(12, 5), draw(12, 4)
    losses = ((layer(x[b : b + 1], z[b : b + 1]) * delta[b]).sum() for b in range(12))
    assert_equal(squared_gradients(layer, delta, x, z), sum_sample_by_sample(layer, losses))


@pytest.mark.parametrize("rows", [1, 7, 12])
def test_one_by_one_does_not_depend_on_its_chunks(rows, monkeypatch):
    torch.manual_seed(0)
    layer, x, delta = randomised(LAYERS["neurocoder, generated keys"](7, 4)), draw(12, 7), draw(12, 4)
    monkeypatch.setattr(module, "CHUNK_SIZE", rows * sum(p.numel() for p in layer.parameters()))
    assert_equal(one_by_one(layer, delta, x), squared_gradients(layer, delta, x))
