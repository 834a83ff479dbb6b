"""The compiled attention against the same layer in torch, in double precision."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurocoder import NeurocoderLinear
from neurocoder.kernels import compiled, fused_attention
from tests.commands import ROOT

pytestmark = pytest.mark.skipif(
    fused_attention.library() is None, reason="no C++ compiler, or NEUROCODER_FUSED=0"
)


def layer_of(seed: int = 0, **changes) -> NeurocoderLinear:
    """Makes a layer whose parameters are large enough for peaked attention."""
    torch.manual_seed(seed)
    layer = NeurocoderLinear(
        7, 4, **dict(slots=9, key_dim=3, heads=2, steps=3, least_used=2, beta=6.0) | changes
    )
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return layer


def gradients(layer, x, weights):
    """Returns the output and the gradients of input and parameters, converted to double precision."""
    x = x.detach().requires_grad_()
    y = layer(x)
    wanted = [x, *layer.parameters()]
    results = torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True)
    return [y.detach().double(), *(torch.zeros(()) if g is None else g.double() for g in results)]


def assert_same_as_torch(layer, x):
    reference, weights = copy.deepcopy(layer).double(), torch.randn(len(x), layer.out_features)
    assert fused_attention.usable(x) and not fused_attention.usable(x.double())
    exact = gradients(reference, x.double(), weights.double())
    fused = gradients(layer, x, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_attention, "usable", lambda *tensors: False)
        single = gradients(layer, x, weights)
    size = torch.cat([tensor.flatten() for tensor in exact]).norm()
    for a, b, c in zip(fused, single, exact, strict=True):
        # Where queries are nearly parallel to keys, single precision loses most digits, in torch too.
        assert (a - c).norm() <= 10 * (b - c).norm() + 1e-4 * c.norm() + 1e-5 * size


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 20),
    slots=st.integers(2, 20),
    key_dim=st.sampled_from((1, 2, 3, 4, 5, 7, 10)),
    heads=st.integers(1, 4),
    steps=st.integers(0, 4),
    least_used=st.integers(0, 3),
    gate_from=st.sampled_from(("input", "signal")),
    keys=st.sampled_from(("generated", "learned")),
    residual=st.booleans(),
    learn_beta=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch_for_every_setting(seed, batch, slots, least_used, **changes):
    layer = layer_of(seed, slots=slots, least_used=min(least_used, slots - 1), **changes)
    assert_same_as_torch(layer, torch.randn(batch, 7))


@pytest.mark.parametrize("batch", [1, 7, 8, 9, 64, 100])
def test_inputs_do_not_affect_each_other_for_any_batch_size(batch):
    layer = layer_of()
    x = torch.randn(batch, 7)
    torch.testing.assert_close(layer(x), torch.cat([layer(row) for row in x.split(1)]), rtol=1e-5, atol=1e-5)


def test_no_inputs_give_no_outputs_and_gradients_of_zero():
    layer = layer_of()
    y = layer(torch.empty(0, 7))
    y.sum().backward()
    assert y.shape == (0, 4) and float(layer.memory.M_U.grad.abs().sum()) == 0


def test_two_threads_give_the_same_results_as_one():
    layer, x, weights = layer_of(), torch.randn(100, 7), torch.randn(100, 4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gradients(layer, x, weights)
        torch.set_num_threads(2)
        for single, shared in zip(alone, gradients(layer, x, weights), strict=True):
            # Two threads sum in another order.
            assert (single - shared).norm() <= 1e-4 * single.norm() + 1e-6 * len(x)
    finally:
        torch.set_num_threads(threads)


def test_very_peaked_attention_neither_overflows_nor_loses_its_slot():
    layer = layer_of(beta=1e4)
    y = layer(100 * torch.randn(50, 7))
    assert y.isfinite().all()
    assert_same_as_torch(layer_of(beta=50.0), torch.randn(50, 7))


@pytest.mark.parametrize("where", ["x", "memory.M_U", "memory.E_S", "memory.M_S", "controller.weight_hh"])
def test_not_a_number_stays_visible(where):
    layer, x = layer_of(), torch.randn(5, 7)
    with torch.no_grad():
        (x if where == "x" else layer.get_parameter(where)).view(-1)[0] = float("nan")
    assert layer(x).isnan().any()


def test_torch_computes_the_same_within_transforms_and_autocast():
    layer, x = layer_of(), torch.randn(6, 7)
    expected = layer(x)
    torch.testing.assert_close(
        torch.func.vmap(layer)(x.unsqueeze(1)).squeeze(1), expected, rtol=1e-4, atol=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), expected, rtol=0.3, atol=0.3)


@pytest.mark.parametrize(
    "changes",
    [{"NEUROCODER_FUSED": "0"}, {"PATH": "/nonexistent"}, {"XDG_CACHE_HOME": "/proc/nonexistent"}],
    ids=["switched off", "no compiler", "no cache folder"],
)
def test_without_compiled_code_the_layer_computes_the_same_in_torch(changes, tmp_path):
    program = (
        "import torch; from neurocoder import NeurocoderLinear; from neurocoder.kernels import fused_attention; "
        "torch.manual_seed(0); "
        "layer = NeurocoderLinear(7, 4, slots=9, key_dim=3, heads=2, steps=3, least_used=2); "
        "print(fused_attention.library() is None, layer(torch.ones(2, 7)).sum().item())"
    )
    sums = []
    for extra in ({}, changes):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | extra,
            capture_output=True,
            text=True,
            check=True,
        )
        absent, total = done.stdout.split()
        assert absent == str(bool(extra)) and done.stderr == ""
        sums.append(float(total))
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


def test_a_user_without_a_home_folder_gets_the_layer_in_torch(monkeypatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compiled.library.__wrapped__(fused_attention.SOURCE) is None


def test_a_fresh_cache_folder_is_filled_with_one_library(tmp_path):
    program = "from neurocoder.kernels import fused_attention; print(fused_attention.library() is not None)"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    root = ROOT
    started = [
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in started] == ["True", "True"]
    (library,) = (tmp_path / "neurocoder").iterdir()
    assert library.suffix == ".so"
