"""Singular values and first steps of layers that are computed by hand."""

import numpy as np
import torch

from tests.benchmarks.steepness import first_step, singular_values


def test_singular_values_of_a_linear_layer_are_those_of_its_centred_weights():
    layer = torch.nn.Linear(20, 4)
    weight = layer.weight.detach().numpy()
    expected = np.linalg.svd(weight - weight.mean(axis=0), compute_uv=False)[:3]
    np.testing.assert_allclose(singular_values(layer, torch.randn(5, 20)), expected, rtol=1e-5)


def test_a_layer_that_depends_on_its_input_has_the_singular_values_of_its_derivative():
    class Square(torch.nn.Module):
        def forward(self, inputs):
            return torch.stack((inputs.square().sum(dim=1), torch.zeros(len(inputs))), dim=1)

    # The derivative's rows are (6, 8), of length 10, and 0. Each is half of that from their mean.
    inputs = torch.tensor([[3.0, 4.0]])
    np.testing.assert_allclose(singular_values(Square(), inputs), [10 / np.sqrt(2)], rtol=1e-6)


def test_the_first_step_moves_a_larger_input_further():
    divergences = []
    for scale in (0.1, 1.0):
        torch.manual_seed(0)
        layer = torch.nn.Linear(50, 6)
        divergences.append(first_step(layer, scale * torch.randn(80, 50)))
    assert 0 < divergences[0] < divergences[1] / 10
