"""The low-rank control against the Neurocoder layer whose rank and scale it takes."""

import pytest
import torch
from torch.func import jacrev

from neurocoder import NeurocoderLinear
from neurocoder.alternatives.low_rank import low_rank_control

# Settings of a Neurocoder layer, and the rank of its program.
CONTROLLED = {
    "linear controller": (dict(slots=80, key_dim=3, heads=15, beta=10.0), 15),
    "recurrent controller": (dict(slots=30, key_dim=5, heads=3, steps=5, least_used=5, gate_from="signal", beta=None), 15),
    "one head of five steps": (dict(slots=5, key_dim=2, heads=1, steps=5, least_used=2, beta=10.0), 5),
    "as released": (dict(slots=20, key_dim=3, heads=2, variant="release", beta=None, residual=False), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_low_rank_control_has_the_rank_of_the_neurocoders_program(name):
    settings, rank = CONTROLLED[name]
    torch.manual_seed(0)
    control = low_rank_control(40, 30, **settings)
    assert torch.linalg.matrix_rank(control.U @ control.V) == rank


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_low_rank_control_starts_at_the_output_scale_of_the_neurocoders_program(name):
    settings, _ = CONTROLLED[name]
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    ratios = []
    for seed in range(20):
        torch.manual_seed(seed)
        program = NeurocoderLinear(200, 150, **settings | {"residual": False, "bias": False})
        torch.manual_seed(seed)
        # The same seed: the control measures the scale on this very program.
        control = low_rank_control(200, 150, **settings)
        with torch.no_grad():
            ratios.append(control(x).norm() / program(x).norm())
    assert torch.stack(ratios).mean() == pytest.approx(1, abs=0.05)


def test_the_low_rank_control_has_the_same_weights_for_all_inputs_unlike_the_neurocoder():
    settings, _ = CONTROLLED["linear controller"]
    torch.manual_seed(0)
    control = low_rank_control(6, 4, **settings)
    neurocoder = NeurocoderLinear(6, 4, **settings)
    inputs = torch.randn(2, 6)
    weights = (control.U @ control.V).T
    for x in inputs:
        torch.testing.assert_close(jacrev(control)(x), weights)
    assert not torch.allclose(*map(jacrev(neurocoder), inputs), rtol=0.01)
