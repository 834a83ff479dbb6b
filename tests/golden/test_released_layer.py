"""Files of the authors' released layer against this layer and against the method written out.

A file holds inputs, parameters, outputs and gradients in float64. The folder is NEUROCODER_GOLDEN, or shared/golden
next to the checkout. tests/unit/neurocoder/test_released_variant.py needs no files: it compares the layer with the
method written out, which the files prove here.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from neurocoder import NeurocoderLinear
from tests.unit.neurocoder.layer_by_hand import Settings, orthogonality, reference

FOLDER = Path(os.environ.get("NEUROCODER_GOLDEN") or Path(__file__).parents[3] / "shared" / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
QUERIES = tuple(f"query_{a}" for a in "UVS")

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no golden files (*.npz) in {FOLDER}; set NEUROCODER_GOLDEN"
)
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def released_settings(arrays) -> Settings:
    config = json.loads(arrays["config"].tobytes())
    return Settings(
        in_features=config["d_in"],
        out_features=config["d_out"],
        slots=config["P"],
        key_dim=config["K"],
        heads=config["H"],
        steps=config["J"],
        least_used=config["l"],
        residual=config["R"],
        keys=config["keys"],
        beta=None,
        bias=False,
        variant="release",
    )


def by_our_names(parameters: dict[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Maps a file's parameters to those of `NeurocoderLinear`, differentiably."""
    named = {f"memory.M_{a}": parameters[f"memory_{a}"] for a in "UVS"}
    named |= {f"memory.E_{a}": parameters[f"key_{a}"] for a in "UVS"}
    if settings.keys == "generated":
        for a in "UV":
            for part in ("weight", "bias"):
                named[f"memory.key_generator_{a}.{part}"] = parameters[f"key_generator_{a}_{part}"]
    if settings.residual:
        named["R"] = parameters["residual"]
    if settings.steps:
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            named[f"controller.{name}"] = parameters[f"lstm_{name}_l0"]
        for name in ("h", "c"):
            named[f"controller.{name}_0"] = parameters[f"lstm_{name}0"].flatten()
        if settings.least_used:
            named |= {f"gate.{part}": parameters[f"gate_{part}"] for part in ("weight", "bias")}
    else:
        for part in ("weight", "bias"):
            maps = [parameters[f"{name}_{part}"] for name in (*QUERIES, "integration")]
            named[f"controller.signal.{part}"] = torch.cat(maps)
    return named


def by_layer(named: dict[str, Tensor], settings: Settings, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns y and the orthogonality loss."""
    layer = NeurocoderLinear(**asdict(settings), orthogonality_weight=1.0).double()
    layer.load_state_dict(named)
    return functional_call(layer, named, x), layer.auxiliary_loss()


def by_hand(named: dict[str, Tensor], settings: Settings, x: Tensor) -> tuple[Tensor, Tensor]:
    return reference(named, settings, x)[0], orthogonality(named, settings)


def assert_agrees(value: Tensor, golden: np.ndarray, name: str) -> None:
    expected = torch.from_numpy(golden).view_as(value)
    error = (value - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error < 1e-8, f"{name}: relative error {error:.1e}"


@every_file
@pytest.mark.parametrize("compute", [by_layer, by_hand], ids=["layer", "written out"])
def test_outputs_gradients_and_orthogonality_agree_with_the_released_layer(compute, path):
    arrays = np.load(path)
    settings = released_settings(arrays)
    names = [name.removeprefix("grad_") for name in arrays if name.startswith("grad_")]
    assert {"x", "memory_U", "memory_V", "memory_S"} < set(names)
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays if name != "config"}
    wanted = [tensors[name].requires_grad_() for name in names]
    y, loss = compute(by_our_names(tensors, settings), settings, tensors["x"])
    assert_agrees(y, arrays["y"], "y")
    gradients = torch.autograd.grad(y.square().sum(), wanted, allow_unused=True, materialize_grads=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert_agrees(gradient, arrays[f"grad_{name}"], f"grad_{name}")
    assert_agrees(loss.detach(), arrays["orthogonality_with_keys"], "orthogonality_with_keys")


@pytest.mark.parametrize("path", FILES[:1], ids=lambda path: path.stem)
def test_the_paper_variant_differs_from_the_release_so_the_comparison_can_fail(path):
    arrays = np.load(path)
    settings = released_settings(arrays)
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays if name != "config"}
    layer = NeurocoderLinear(**asdict(settings)).double()
    layer.load_state_dict(by_our_names(tensors, settings))
    layer.variant = "paper"
    with pytest.raises(AssertionError):
        assert_agrees(layer(tensors["x"]), arrays["y"], "y")
