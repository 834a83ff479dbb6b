"""Settings of the layers: defaults, refusals by setting and by flag, JSON, and an import without torch."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

import neurocoder
from agents.flags import flag
from agents.stored_settings import read_settings
from neurocoder import OUTPUT_LAYERS
from neurocoder.settings import SETTINGS, LayerSettings
from tests.commands import ROOT
from tests.unit.neurocoder.changed_settings import ALL_CHANGED

NAN, INFINITE = float("nan"), float("inf")
WIDTHS_AND_COUNTS = (
    "neurocoder.slots", "neurocoder.key_dim", "neurocoder.heads", "hypernet.hidden", "film.hidden",
    "moe.experts", "moe.active", "moe.hidden", "nsm.slots", "nsm.key_dim",
)  # fmt: skip
WEIGHTS = ("neurocoder.orthogonality_weight", "moe.balance_weight", "nsm.key_loss_weight")
CHOICES = (
    "neurocoder.gate_from", "neurocoder.keys", "neurocoder.variant", "hypernet.scale", "nsm.variant"
)  # fmt: skip
OUT_OF_RANGE = [
    *((setting, value) for setting in WIDTHS_AND_COUNTS for value in (0, -1)),
    *((setting, value) for setting in WEIGHTS for value in (-0.1, NAN, INFINITE)),
    *((setting, "code") for setting in CHOICES),
    ("neurocoder.steps", -1),
    ("neurocoder.least_used", -1),
    ("neurocoder.least_used", 80),
    *(("neurocoder.beta", value) for value in (0.0, -1.0, NAN, INFINITE)),
    *(("neurocoder.gain", value) for value in (0.0, -1.0, NAN, INFINITE)),
    ("moe.active", 51),
]
every_wrong_setting = pytest.mark.parametrize(
    ("setting", "value"), OUT_OF_RANGE, ids=[f"{setting}={value}" for setting, value in OUT_OF_RANGE]
)


def changed(setting: str, value: object) -> LayerSettings:
    """The default settings with one of them changed."""
    group, name = setting.split(".")
    return replace(LayerSettings(), **{group: replace(getattr(LayerSettings(), group), **{name: value})})


def assert_names(refusal: pytest.ExceptionInfo, name: str, value: object) -> None:
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith(
        f"{name} {value!r} is not known" if isinstance(value, str) else f"{name} is {value};"
    )


@every_wrong_setting
def test_a_layer_refuses_a_setting_out_of_range_by_its_name_and_value(setting, value):
    group, name = setting.split(".")
    with pytest.raises(ValueError) as refusal:
        OUTPUT_LAYERS[group](4, 4, **{name: value})
    assert_names(refusal, name, value)


@every_wrong_setting
def test_settings_refuse_a_setting_out_of_range_by_its_flag_and_value(setting, value):
    with pytest.raises(ValueError) as refusal:
        changed(setting, value).check_layers(flag)
    assert_names(refusal, "--" + setting.replace("_", "-"), value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("neurocoder.steps", 0),
        ("neurocoder.least_used", 79),
        ("neurocoder.beta", None),
        ("neurocoder.orthogonality_weight", 0.0),
        ("hypernet.hidden", None),
        ("hypernet.hidden", 1),
        ("film.hidden", None),
        ("moe.active", 50),
        ("moe.experts", 5),
        ("moe.balance_weight", 0.0),
        ("nsm.slots", 1),
        ("nsm.key_loss_weight", 0.0),
    ],
)
def test_a_setting_at_the_edge_of_its_range_is_accepted(setting, value):
    changed(setting, value).check_layers()


@pytest.mark.parametrize("group", SETTINGS)
@pytest.mark.parametrize("sizes", [(0, 4), (4, -1)], ids=["in_features", "out_features"])
def test_every_layer_refuses_a_size_below_one_by_its_name(group, sizes):
    with pytest.raises(ValueError, match=r"^(in_features is 0|out_features is -1); it must be at least 1$"):
        OUTPUT_LAYERS[group](*sizes)


def test_a_controller_without_inputs_is_refused():
    with pytest.raises(ValueError, match=r"^controller_features is 0; it must be at least 1$"):
        neurocoder.NeurocoderLinear(4, 4, controller_features=0)


@pytest.mark.parametrize("group", SETTINGS)
def test_every_layer_refuses_an_unknown_setting_with_a_type_error(group):
    with pytest.raises(TypeError, match="invented"):
        OUTPUT_LAYERS[group](4, 4, invented=1)


@pytest.mark.parametrize("group", SETTINGS)
def test_the_defaults_of_a_layer_are_those_of_its_settings(group):
    states = []
    for settings in ({}, asdict(SETTINGS[group]())):
        torch.manual_seed(0)
        layer = OUTPUT_LAYERS[group](6, 4, **settings)
        states.append(dict(layer.state_dict()) | {"y": layer(torch.randn(3, 6))})
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [LayerSettings(), ALL_CHANGED], ids=["defaults", "all changed"])
def test_settings_come_back_the_same_through_json(settings):
    assert read_settings(LayerSettings, json.loads(json.dumps(asdict(settings)))) == settings


def test_the_changed_settings_change_every_field():
    defaults, altered = asdict(LayerSettings()), asdict(ALL_CHANGED)
    same = [(group, name) for group in defaults for name in defaults[group]
            if defaults[group][name] == altered[group][name]]  # fmt: skip
    assert same == []


@pytest.mark.parametrize("group", [*SETTINGS, None])
def test_a_stored_setting_that_this_version_does_not_know_is_refused(group):
    stored = asdict(LayerSettings())
    (stored if group is None else stored[group])["invented"] = 1
    with pytest.raises(ValueError, match="invented"):
        read_settings(LayerSettings, stored)


# Without torch


@pytest.mark.parametrize(
    "program", ["import neurocoder", "from neurocoder.settings import LayerSettings; LayerSettings().check_layers()"]
)  # fmt: skip
def test_the_package_and_its_settings_are_imported_without_torch(program):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {program}; print('torch' in sys.modules)"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_every_public_name_of_the_package_can_be_imported():
    assert all(callable(getattr(neurocoder, name)) or name == "OUTPUT_LAYERS" for name in neurocoder.__all__)
    with pytest.raises(AttributeError, match="invented"):
        _ = neurocoder.invented
