"""A new layer is one file with one class, one settings class, and one field in `LayerSettings`."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT

LAYER = '''"""A layer whose outputs have learnt factors."""

from typing import Any

import torch
from torch import Tensor, nn

from neurocoder.settings import ScaledSettings


class ScaledLinear(nn.Module):
    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, **settings: Any):
        super().__init__()
        s = ScaledSettings(**settings)
        s.check()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.factors = nn.Parameter(torch.full((out_features,), s.initial))

    def forward(self, x: Tensor) -> Tensor:
        return self.factors * self.linear(x)
'''
SETTINGS = '''@dataclass(frozen=True)
class ScaledSettings(Settings):
    """Settings of the layer with learnt factors."""

    initial: float = 2.0
    """Initial value of the factors."""

    def check(self, named: Named = str) -> None:
        check_positive(named("initial"), self.initial)

    @classmethod
    def layer(cls) -> type[nn.Module]:
        from neurocoder.alternatives.scaled import ScaledLinear

        return ScaledLinear


'''
FIELD = '''    scaled: ScaledSettings = field(default_factory=ScaledSettings)
    """Settings of the layer with learnt factors."""
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the packages with the new layer in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("neurocoder", "agents", "envs", "launch"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "neurocoder" / "alternatives" / "scaled.py").write_text(LAYER)
    settings = folder / "neurocoder" / "settings.py"
    before, registry = settings.read_text().split("@dataclass(frozen=True)\nclass LayerSettings:\n")
    fields, methods = registry.split("\n    def ", maxsplit=1)
    settings.write_text(
        f"{before}{SETTINGS}@dataclass(frozen=True)\nclass LayerSettings:\n{fields}{FIELD}\n    def {methods}"
    )
    return folder


def run(folder, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_new_layer_is_made_from_its_settings_by_name(checkout):
    program = """
import torch
from neurocoder import OUTPUT_LAYERS
from neurocoder.output_layers import configured_layer
from neurocoder.settings import LayerSettings, ScaledSettings

layer = configured_layer("scaled", LayerSettings(scaled=ScaledSettings(initial=3.0)), bias=False)(4, 2)
x = torch.randn(5, 4)
assert type(layer) is OUTPUT_LAYERS["scaled"]
torch.testing.assert_close(layer(x), 3 * x @ layer.linear.weight.T)
print(layer.linear.bias)
"""
    done = run(checkout, "-c", program)
    assert (done.stdout, done.stderr) == ("None\n", "")


SHORT_RUN = (
    "--workers", 0, "--total-steps", 20, "--envs-per-worker", 1, "--rollout-steps", 5,
    "--evaluate-every", 0, "--evaluate-episodes", 0,
)  # fmt: skip


def test_an_agent_is_trained_with_a_new_layer_as_its_head(checkout):
    settings = ("--head", "scaled", "--scaled.initial", 1.5)
    done = run(checkout, "-m", "launch.train", *settings, *SHORT_RUN, "--run-dir", checkout / "run")
    assert done.returncode == 0, done.stderr
    assert list((checkout / "run" / "checkpoints").glob("step-*20"))
    assert '"initial": 1.5' in (checkout / "run" / "config.json").read_text()


def test_a_new_layers_settings_are_checked_by_their_flags(checkout):
    done = run(checkout, "-m", "launch.train", "--head", "scaled", "--scaled.initial", 0, *SHORT_RUN)
    assert done.returncode == 2
    assert done.stderr == "error: --scaled.initial is 0.0; it must be a finite number above 0\n"
