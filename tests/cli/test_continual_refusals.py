"""What `python -m launch.continual` refuses in one line."""

import json

import pytest

from agents.continual.presets import preset
from launch.continual import main
from tests import commands
from tests.commands import NO_NETWORK, in_this_process


def start(*arguments: object, **options):
    return commands.start("continual", *arguments, **options)


def refusal(*arguments: object) -> str:
    return commands.refusal("continual", *arguments)


@pytest.mark.parametrize("typed", ["--epochs 3", "split-mnist --together 2"])
def test_a_setting_given_with_resume_is_refused_by_name(typed, tmp_path):
    words = [word for word in typed.split() if not word.isdigit()]
    status, output, errors = in_this_process(main, *typed.split(), "--resume", tmp_path)
    assert (status, output) == (2, "")
    assert errors == f"error: --resume: the runs keep their own settings; leave out {' '.join(words)}\n"


# mistakes


def test_a_setting_of_a_layer_that_no_run_has_is_refused(tmp_path):
    status, _, errors = in_this_process(
        main, "split-mnist", "--layer", "mlp", "--nsm.slots", 3, "--run-dir", tmp_path / "runs"
    )
    line = "error: --nsm.slots: nsm is not among the layers of these runs (mlp)\n"
    assert (status, errors) == (2, line) and not list(tmp_path.iterdir())


def test_data_that_are_missing_and_cannot_be_downloaded_are_named_and_no_run_is_made(tmp_path):
    process = start("split-mnist", "--data-dir", "data", folder=tmp_path, **NO_NETWORK)
    output, errors = process.communicate(timeout=60)
    *tried, line = errors.splitlines()
    assert process.returncode == 2 and output == ""
    assert all(other.startswith("downloading https://") for other in tried)
    assert line.startswith("error: mnist: cannot be downloaded from https://") and "--data-dir" in line
    assert f"not found in {tmp_path / 'data' / 'mnist'}, " in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"supervised": {"task": "mnist"}}, "it has no 'continual'"),
        ({"continual": {"benchmark": "split-mnist"}}, "missing required field `scenario`"),
        ({"continual": {"seeds": [1], "invented": 1}}, "invented is no setting that this version knows"),
        ([], "list indices must be integers"),
        (
            {"continual": preset("split-mnist", scenario="task", method="adam", layer="mlp").to_dict() | {"layer": "x"}},
            "--layer 'x' is not known",
        ),
    ],
    ids=["supervised", "half", "unknown", "list", "layer"],
)  # fmt: skip
def test_a_folder_with_runs_of_another_kind_is_not_resumed_and_left_as_it_is(settings, reason, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    line = refusal("--resume", tmp_path)
    assert f"--resume {tmp_path}: run/config.json cannot be used" in line and reason in line
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.json"]
