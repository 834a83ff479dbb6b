"""The layer against files of the authors' released one: inputs, parameters, outputs and gradients in float64.

The files are looked for in the folder NEUROCODER_GOLDEN, or beside the checkout in shared/golden.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from neurocoder import NeurocoderLinear

FOLDER = Path(os.environ.get("NEUROCODER_GOLDEN") or Path(__file__).parents[3] / "shared" / "golden")
FILES = sorted(FOLDER.glob("*.npz"))

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no golden files (*.npz) in {FOLDER}; set NEUROCODER_GOLDEN"
)


def released_layer(arrays) -> tuple[NeurocoderLinear, dict[str, torch.Tensor]]:
    """The layer with a golden file's parameters, and those parameters by the file's names."""
    config = json.loads(arrays["config"].tobytes())
    layer = NeurocoderLinear(
        config["d_in"],
        config["d_out"],
        slots=config["P"],
        key_dim=config["K"],
        heads=config["H"],
        steps=config["J"],
        least_used=config["l"],
        residual=config["R"],
        keys=config["keys"],
        bias=False,
        orthogonality_weight=1.0,
        variant="release",
    ).double()
    memory, controller = layer.memory, layer.controller
    named = {f"memory_{a}": getattr(memory, f"M_{a}") for a in "UVS"}
    named |= {f"key_{a}": getattr(memory, f"E_{a}") for a in "UVS"}
    if config["keys"] == "generated":
        for a in "UV":
            generator = getattr(memory, f"key_generator_{a}")
            named |= {
                f"key_generator_{a}_weight": generator.weight,
                f"key_generator_{a}_bias": generator.bias,
            }
    if config["R"]:
        named["residual"] = layer.R
    if config["J"]:
        named |= {
            f"lstm_{p}_l0": getattr(controller, p) for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        named |= {"lstm_h0": controller.h_0, "lstm_c0": controller.c_0}
        if config["l"]:
            named |= {"gate_weight": layer.gate.weight, "gate_bias": layer.gate.bias}
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(torch.from_numpy(arrays[name]).view_as(parameter))
        if not config["J"]:
            parts = ("query_U", "query_V", "query_S", "integration")
            controller.signal.weight.copy_(
                torch.cat([torch.from_numpy(arrays[f"{p}_weight"]) for p in parts])
            )
            controller.signal.bias.copy_(torch.cat([torch.from_numpy(arrays[f"{p}_bias"]) for p in parts]))
    return layer, named


def assert_agrees(value: torch.Tensor, golden: np.ndarray, name: str) -> None:
    golden = torch.from_numpy(golden).view_as(value)
    error = (value - golden).abs().max() / golden.abs().max().clamp_min(1e-30)
    assert error < 1e-8, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_outputs_gradients_and_orthogonality_agree_with_the_released_layer(path):
    arrays = np.load(path)
    layer, named = released_layer(arrays)
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert_agrees(y, arrays["y"], "y")
    assert_agrees(x.grad, arrays["grad_x"], "grad_x")
    checked = 0
    for name, parameter in named.items():
        if f"grad_{name}" in arrays:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert_agrees(gradient, arrays[f"grad_{name}"], f"grad_{name}")
            checked += 1
    if not layer.steps:
        width = layer.heads * layer.key_dim
        gradients = layer.controller.signal.weight.grad[:-1].split(width)
        for a, gradient in zip("UVS", gradients, strict=True):
            assert_agrees(gradient, arrays[f"grad_query_{a}_weight"], f"grad_query_{a}_weight")
            checked += 1
    assert checked == sum(name.startswith("grad_") for name in arrays) - 1  # all but grad_x
    assert_agrees(
        layer.auxiliary_loss().detach(), arrays["orthogonality_with_keys"], "orthogonality_with_keys"
    )


@pytest.mark.parametrize("path", FILES[:1], ids=lambda path: path.stem)
def test_the_paper_variant_differs_from_the_release_so_the_comparison_can_fail(path):
    arrays = np.load(path)
    layer, _ = released_layer(arrays)
    layer.variant = "paper"
    with pytest.raises(AssertionError):
        assert_agrees(layer(torch.from_numpy(arrays["x"])), arrays["y"], "y")
