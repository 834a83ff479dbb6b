"""Layers with every kind of parameter, and their squared gradients by one backward pass a sample."""

import torch
from torch import nn

from neurocoder.alternatives.film import FiLMLinear
from neurocoder.alternatives.hypernet import HyperNetLinear
from neurocoder.alternatives.low_rank import LowRankLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear
from neurocoder.layer import NeurocoderLinear

SIZES = dict(slots=6, key_dim=3, heads=2, beta=2.0)
NEUROCODERS = {
    "as in Split MNIST": dict(residual=False, bias=False),
    "generated keys": {},
    "learned keys": dict(keys="learned"),
    "without residual": dict(residual=False),
    "without bias": dict(bias=False),
    "learned keys without residual and bias": dict(keys="learned", residual=False, bias=False),
    "release": dict(variant="release"),
    "release, learned keys": dict(variant="release", keys="learned"),
    "learned temperature": dict(learn_beta=True),
    "fewer slots than keys are wide": dict(slots=2),
    "recurrent": dict(steps=2),
    "recurrent, least-used slots": dict(steps=2, least_used=2, gate_from="signal"),
}
LAYERS = {
    "linear": lambda *widths: nn.Linear(*widths),
    "linear without bias": lambda *widths: nn.Linear(*widths, bias=False),
    "low rank": lambda *widths: LowRankLinear(*widths, rank=2),
    "low rank without bias": lambda *widths: LowRankLinear(*widths, rank=2, bias=False),
    "stored programs": lambda *widths: StoredProgramLinear(*widths, slots=3, key_dim=2),
    "stored programs without bias": lambda *widths: StoredProgramLinear(
        *widths, slots=3, key_dim=2, bias=False
    ),
    "stored programs, release": lambda *widths: StoredProgramLinear(
        *widths, slots=3, key_dim=2, variant="release"
    ),
    "hypernet": lambda *widths: HyperNetLinear(*widths, hidden=3),
    "film": lambda *widths: FiLMLinear(*widths),
} | {
    f"neurocoder, {name}": lambda *widths, settings=settings: NeurocoderLinear(*widths, **SIZES | settings)
    for name, settings in NEUROCODERS.items()
}


def randomised(network: nn.Module) -> nn.Module:
    """Draws all parameters in double precision, so that no zero or one of the initialisation hides a term."""
    for parameter in network.double().parameters():
        nn.init.normal_(parameter, std=0.6)
    return network


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def sum_sample_by_sample(network: nn.Module, losses) -> dict[str, torch.Tensor]:
    """Sums squared gradients over samples. `losses` yields one loss for each sample and makes its graph only then."""
    total = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for loss in losses:
        network.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.square()
    return total


def assert_equal(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            result[name], value, rtol=1e-9, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
        )
