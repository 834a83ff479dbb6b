"""The fixed random projection: its values and scale, and that its matrix is saved but never trained."""

import pytest
import torch
from torch import nn

from neurocoder.random_projection import RandomProjection


@pytest.mark.parametrize("leading", [(), (0,), (3,), (2, 3)], ids=str)
def test_the_output_is_a_product_with_g_over_any_leading_axes(leading):
    projection = RandomProjection(5, 2)
    x = torch.randn(*leading, 5)
    expected = torch.stack([(x * column).sum(dim=-1) for column in projection.G.T], dim=-1)
    torch.testing.assert_close(projection(x), expected)


def test_outputs_are_as_large_as_inputs():
    torch.manual_seed(0)
    projection = RandomProjection(784, 200)
    assert projection.G.shape == (784, 200)
    assert projection.G.mean().abs() < 1e-3
    assert projection.G.std().item() == pytest.approx(784**-0.5, rel=0.02)
    assert projection(torch.randn(500, 784)).std().item() == pytest.approx(1, rel=0.05)


def test_the_matrix_is_saved_but_not_trained():
    projection, other = RandomProjection(5, 2), RandomProjection(5, 2)
    assert not list(projection.parameters())
    assert not projection(torch.randn(3, 5)).requires_grad
    assert not torch.equal(projection.G, other.G)
    other.load_state_dict(projection.state_dict())
    assert torch.equal(projection.G, other.G)


def test_training_a_network_leaves_its_projection_as_it_was():
    network = nn.Sequential(RandomProjection(5, 3), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(4, 5)).square().sum().backward()
    optimizer.step()
    after = network.state_dict()
    assert torch.equal(after["0.G"], before["0.G"])
    assert not torch.equal(after["1.weight"], before["1.weight"])


@pytest.mark.parametrize(("sizes", "message"), [((0, 2), "in_features is 0"), ((2, 0), "out_features is 0")])
def test_a_size_below_one_is_refused_by_name(sizes, message):
    with pytest.raises(ValueError, match=message):
        RandomProjection(*sizes)
