"""A mistake is refused with one line on stderr and exit status 2, before anything heavy is imported or written."""

import json
from pathlib import Path

import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.rllib.config import RLlibConfig
from tests.commands import NOT_A_FOLDER, refusal, start

LONG = "x" * 300
MISTAKES = {
    "train": {
        "unknown flag": (["--total-stepss", "5"], "options: --total-stepss, 5 (did you mean --total-steps?)"),
        "half a step": (["--total-steps", "1.5"], "--total-steps: '1.5' is not a whole number"),
        "a word for a number": (["--gamma", "high"], "--gamma: could not convert string to float: 'high'"),
        "neither number nor auto": (["--workers", "all"], "--workers: 'all' is not INT or {auto}"),
        "no value": (["--env"], "missing value for argument '--env'"),
        "unknown optimiser": (["--optimizer", "sgd"], "invalid choice 'sgd' for argument '--optimizer'"),
        "unknown game": (["--env", "Seaqest"], "near names: Seaquest"),
        "another wrapper's name": (["--env", "PongDeterministic-v4"], "near names: Pong"),
        "another wrapper's name in full": (["--env", "MsPacmanDeterministic-v0"], "near names: MsPacman"),
        "random frame skip": (["--env", "Seaquest-v4"], "ALE/<Game>-v5"),
        "unknown head": (["--head", "neurocodr"], "did you mean neurocoder?"),
        "unknown preset": (["--preset", "two-core"], "--preset 'two-core' .* (did you mean two-cores?)"),
        "negative workers": (["--workers", "-1"], "--workers is -1; it must be 0 or more"),
        "no games": (["--envs-per-worker", "0"], "--envs-per-worker is 0"),
        "no steps": (["--total-steps", "0"], "--total-steps is 0"),
        "zero learning rate": (
            ["--learning-rate", "0"],
            "--learning-rate is 0.0; it must be a finite number above 0",
        ),
        "NaN learning rate": (["--learning-rate", "nan"], "--learning-rate is nan"),
        "gamma above 1": (["--gamma", "1.5"], "--gamma is 1.5; it must be from 0 to 1"),
        "too many least-used slots": (
            ["--neurocoder.slots", "4", "--neurocoder.least-used", "4"],
            "--neurocoder.least-used is 4",
        ),
        "deterministic workers": (["--deterministic"], "--deterministic needs --workers 0"),
        "no checkpoints to keep": (["--keep", "0"], "--keep is 0"),
        "negative steps between evaluations": (
            ["--evaluate-every", "-1"],
            "--evaluate-every is -1; it must be 0 or more",
        ),
        "evaluations without games": (
            ["--evaluate-games", "0"],
            "--evaluate-games is 0; it must be at least 1",
        ),
        "negative games at the end": (["--evaluate-episodes", "-1"], "--evaluate-episodes is -1"),
        "weights of no run": (["--from", "nowhere"], "nowhere is neither a run folder"),
        "resume of no run": (["--resume", "nowhere"], "nowhere: not the folder of a run"),
        "address without a port": (["--address", "somewhere"], "must be auto or host:port"),
        "no cluster there": (["--address", "127.0.0.1:1"], "127.0.0.1:1: nobody answers there"),
        "two folders": (["--resume", "a", "--run-dir", "b"], "a: not the folder of a run"),
    },
    "evaluate": {
        "unknown flag": (["nowhere", "--episode", "1"], "--episode, 1 (did you mean --episodes?)"),
        "no run": ([], "no run given"),
        "neither run nor checkpoint": (["nowhere"], "nowhere is neither a run folder"),
        "no episodes": (["nowhere", "--episodes", "0"], "--episodes is 0"),
        "sticky above 1": (["nowhere", "--sticky", "2"], "--sticky is 2.0"),
        "video of two runs": (["a", "b", "--video", "v.mp4"], "--video shows one policy"),
        "best of no run": (["nowhere", "--best"], "nowhere is neither a run folder"),
        "results into a folder": (["a", "--json", "."], ".: is a folder; name a file"),
        "table into a folder": (["a", "--csv", "."], ".: is a folder; name a file"),
        "table into a missing folder": (
            ["a", "--csv", "b/scores.csv"],
            "b/scores.csv: its folder does not exist; make it or name another file",
        ),
        "results where nobody may write": (
            ["a", "--json", "/sys/scores.json"],
            "/sys/scores.json: cannot be written .* name another file",
        ),
        "table where nobody may write": (
            ["a", "--csv", "/sys/scores.csv"],
            "/sys/scores.csv: cannot be written",
        ),
        "video where nobody may write": (
            ["a", "--video", "/sys/game.mp4"],
            "/sys/game.mp4: cannot be written",
        ),
        "all and the best": (["a", "--all", "--best"], "--all and --best cannot both be given"),
        "video of all": (["a", "--all", "--video", "v.mp4"], "--video shows one policy, but --all is given"),
        "all of no run": (["nowhere", "--all"], "nowhere is neither a run folder"),
        "video of another kind": (["a", "--video", "v.gif"], "must end in .mp4"),
    },
    "plot": {
        "no run": (["--out", "a"], "no run given"),
        "neither run nor folder of runs": (
            ["nowhere", "--out", "a"],
            "there is nothing to draw: nowhere is not the folder of a run or of runs",
        ),
        "no games in the mean": (["nowhere", "--out", "a", "--window", "0"], "--window is 0"),
        "picture into a missing folder": (["nowhere", "--out", "b/a"], "b/a.csv: its folder does not exist"),
        "picture where nobody may write": (["nowhere", "--out", "/sys/a"], "/sys/a.csv: cannot be written"),
        "no file to write": (["a"], "missing from python -m launch.plot: --out PATH"),
        "a word for a number": (["a", "--out", "b", "--window", "x"], "--window: 'x' is not a whole number"),
    },
    "sweep": {
        "unknown flag": (["--rollout-step", "5"], "--rollout-step, 5 (did you mean --rollout-steps?)"),
        "half a seed": (["--seeds", "2.5"], "--seeds: '2.5' is not a whole number"),
        "unknown game": (["--env", "Pongg"], "near names: Pong"),
        "unknown head": (["--head", "mpl"], "mlp"),
        "unknown preset": (["--preset", "papr"], "--preset 'papr' .* (did you mean paper?)"),
        "learning rate that is no number": (["--learning-rate", "fast"], "--learning-rate fast"),
        "zero learning rate": (["--learning-rate", "0"], "--learning-rate is 0"),
        "no seeds": (["--seeds", "0"], "--seeds is 0"),
        "the whole cluster for each run": (["--workers", "auto"], "--workers auto takes the whole cluster"),
        "one game twice": (
            ["--env", "Pong,ALE/Pong-v5"],
            "two runs would have the name pong-mlp-lr0.0007-seed1",
        ),
        "one rate twice": (
            ["--learning-rate", "0.001,0.0010000001"],
            "two runs would have the name pong-mlp-lr0.001-seed1",
        ),
        "a seed and seeds": (["--seed", "7"], "--seed 7: a sweep has --seeds from --first-seed on"),
        "settings of resumed runs": (
            ["--resume", "a", "--keep", "5", "--learning-rate", "0.1"],
            "the runs keep their own settings; leave out --keep --learning-rate",
        ),
        "more settings of resumed runs": (["--resume", "a", "--workers", "2"], "leave out --workers"),
        "negative retries": (["--retries", "-1"], "--retries is -1"),
        "settings of a layer that is not used": (
            ["--head", "mlp", "--neurocoder.slots", "5"],
            "--neurocoder.slots: neurocoder is not among the layers of these runs (mlp)",
        ),
        "negative steps between evaluations": (["--evaluate-every", "-1"], "--evaluate-every is -1"),
        "evaluations without games": (["--evaluate-games", "0"], "--evaluate-games is 0"),
        "no games at the end": (
            ["--evaluate-episodes", "0"],
            "--evaluate-episodes is 0; it must be at least 1",
        ),
        "weights of no run": (["--from", "nowhere"], "nowhere is neither a run folder"),
        "weights of another run for resumed ones": (
            ["--resume", "a", "--from", "b", "--evaluate-every", "5"],
            "the runs keep their own settings; leave out --from --evaluate-every",
        ),
    },
    "rllib": {
        "unknown flag": (["--learner", "1"], "--learner, 1 (did you mean --learners?)"),
        "unknown algorithm": (["--algo", "impalla"], "--algo 'impalla' .* (did you mean impala?)"),
        "unknown game": (["--env", "Pongg"], "near names: Pong"),
        "negative steps between evaluations": (["--evaluate-every", "-1"], "--evaluate-every is -1"),
        "evaluations without games": (["--evaluate-games", "0"], "--evaluate-games is 0"),
        "weights of no run": (["--from", "nowhere"], "nowhere is neither a run folder"),
    },
    "supervised": {
        "unknown flag": (
            ["polynomials", "--neurocoder.slot", "3"],
            "--neurocoder.slot, 3 (did you mean --neurocoder.slots?)",
        ),
        "neither number nor None": (["mnist", "--steps", "1.5"], "--steps: '1.5' is not None or INT"),
        "help for an unknown layer": (
            ["mnist", "--layer", "neurocodr", "--help"],
            "--layer 'neurocodr' .* (did you mean neurocoder?)",
        ),
        "no task": ([], "no task given; name one of mnist, cifar10, cifar100, polynomials, algorithms"),
        "unknown task": (["polynomal"], "task 'polynomal' is not known; .* (did you mean polynomials?)"),
        "unknown network": (
            ["cifar10", "--network", "lennet"],
            "--network 'lennet' .* (did you mean lenet?)",
        ),
        "network of another task": (
            ["mnist", "--network", "gru"],
            "--network gru cannot learn mnist; its networks are linear, mlp",
        ),
        "unknown layer": (
            ["mnist", "--layer", "neurocodr"],
            "--layer 'neurocodr' .* (did you mean neurocoder?)",
        ),
        "unknown preset": (
            ["polynomials", "--preset", "multistep"],
            "--preset 'multistep' .* (did you mean multi-step?)",
        ),
        "unknown preset for a plain layer": (
            ["polynomials", "--layer", "mlp", "--preset", "multistep"],
            "--preset 'multistep' is not known",
        ),
        "preset of a task without": (
            ["algorithms", "--preset", "multi-step"],
            "--preset multi-step: algorithms",
        ),
        "usage of a layer without": (
            ["polynomials", "--layer", "mlp", "--no-usage"],
            "--no-usage is for the neurocoder",
        ),
        "usage that is not there": (
            ["polynomials", "--no-usage"],
            "has no usage to leave out .* --preset multi-step",
        ),
        "epochs without a data set": (
            ["polynomials", "--epochs", "3"],
            "--epochs: polynomials draws fresh data",
        ),
        "NaN learning rate": (["polynomials", "--learning-rate", "nan"], "--learning-rate is nan"),
        "no seeds": (["polynomials", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        "seeds too large": (["polynomials", "--first-seed", "4294967296"], "--first-seed is 4294967296"),
        "checkpoints all the time": (
            ["polynomials", "--checkpoint-seconds", "0"],
            "--checkpoint-seconds is 0.0",
        ),
        "a tag that is no word": (
            ["polynomials", "--tag", "a/b"],
            "--tag 'a/b': it becomes part of folders' names",
        ),
        "unknown device": (["polynomials", "--device", "gpu"], "--device 'gpu' is not known"),
        "data folder that is a file": (
            ["mnist", "--data-dir", NOT_A_FOLDER],
            f"{NOT_A_FOLDER}: cannot be used as data folder .* name a folder",
        ),
        "resume of nothing": (["--resume", "nowhere"], "--resume nowhere: not a folder of runs"),
    },
    "continual": {
        "two benchmarks": (["split-mnist", "split-cifar10"], "unrecognized options: split-cifar10"),
        "help for an unknown benchmark": (["split-mnits", "-h"], "(did you mean split-mnist?)"),
        "no benchmark": ([], "no benchmark given; name one of split-mnist, split-cifar10, split-cifar100"),
        "unknown benchmark": (["split-mnits"], "benchmark 'split-mnits' .* (did you mean split-mnist?)"),
        "unknown scenario": (["split-mnist", "--scenario", "tasks"], "--scenario 'tasks' is not known"),
        "unknown preset": (
            ["split-mnist", "--preset", "table6"],
            "--preset 'table6' .* (did you mean table-6?)",
        ),
        "unknown method": (
            ["split-mnist", "--method", "adam,ewcc"],
            "--method 'ewcc' .* (did you mean ewc?)",
        ),
        "unknown layer": (
            ["split-mnist", "--layer", "mlp,lowrnk"],
            "--layer 'lowrnk' .* (did you mean lowrank?)",
        ),
        "negative strength": (
            ["split-mnist", "--method", "ewc", "--strength", "-1"],
            "--strength is -1.0; it must be a finite number, 0 or more",
        ),
        "strength without penalty": (
            ["split-mnist", "--method", "l2,adam", "--strength", "5"],
            "--strength 5.0: adam has no penalty; it is for l2, si, ewc, online-ewc",
        ),
        "no seeds": (["split-mnist", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
        "seeds too large": (["split-mnist", "--first-seed", "4294967296"], "--first-seed is 4294967296"),
        "none together": (["split-mnist", "--together", "0"], "--together is 0; it must be at least 1"),
        "unknown device": (["split-mnist", "--device", "gpu"], "--device 'gpu' is not known"),
        "data folder that is a file": (
            ["split-mnist", "--data-dir", NOT_A_FOLDER],
            f"{NOT_A_FOLDER}: cannot be used as data folder .* name a folder",
        ),
        "resume of nothing": (["--resume", "nowhere"], "--resume nowhere: not a folder of runs"),
    },
}


@pytest.fixture
def empty_folder(tmp_path, monkeypatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        pytest.param(command, *mistake, id=f"{command}: {name}")
        for command, mistakes in MISTAKES.items()
        for name, mistake in mistakes.items()
    ],
)
def test_a_mistake_is_refused_in_one_line_with_status_2_and_leaves_no_file(
    command, arguments, message, empty_folder
):
    line = refusal(command, *arguments)
    position = 0
    for part in message.split(" .* "):
        assert part in line[position:], line
        position = line.index(part, position)
    assert not list(empty_folder.iterdir())


def test_a_data_folder_of_the_environment_that_cannot_be_used_is_refused(empty_folder, monkeypatch):
    monkeypatch.setenv("NEUROCODER_DATA", NOT_A_FOLDER)
    line = refusal("supervised", "cifar10", "--layer", "mlp")
    assert f"{NOT_A_FOLDER}: cannot be used as data folder" in line and "NEUROCODER_DATA" in line
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", ["--run-dir", LONG]),
        ("train", ["--from", LONG]),
        ("train", ["--resume", LONG]),
        ("rllib", ["--run-dir", f"a/{LONG}/b"]),
        ("sweep", ["--run-dir", LONG]),
        ("sweep", ["--resume", LONG]),
        ("evaluate", [LONG]),
        ("plot", [LONG, "--out", "a"]),
        ("supervised", ["mnist", "--data-dir", LONG]),
        ("supervised", ["--resume", LONG]),
        ("continual", ["split-mnist", "--run-dir", LONG]),
    ],
)
def test_a_path_that_the_system_does_not_take_is_refused(command, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert LONG in refusal(command, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--from", "--run-dir"])
@pytest.mark.parametrize(("command", "config"), [("train", A3CConfig()), ("rllib", RLlibConfig())])
def test_a_resumed_run_takes_neither_other_weights_nor_another_folder(command, config, flag, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({config.key: config.to_dict()}))
    line = refusal(command, "--resume", tmp_path, flag, "elsewhere")
    assert f"{flag} and --resume cannot both be given" in line
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"impala": {}}, "it is not of python -m launch.train"),
        ({"a3c": {"neurocoder": 5}}, "Expected `object`, got `int` - at `$.neurocoder`"),
        ({"a3c": A3CConfig().to_dict(), "run": 5}, "Expected `object`, got `int`"),
        ({"a3c": A3CConfig().to_dict(), "run": {"keep": "all"}}, "Expected `int`, got `str` - at `$.keep`"),
    ],
    ids=["another command", "no group of settings", "no table", "no number"],
)
def test_a_run_whose_settings_cannot_be_read_is_not_resumed(settings, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(settings))
    line = refusal("train", "--resume", tmp_path)
    assert f"--resume {tmp_path}: its config.json cannot be used" in line and reason in line
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("command", "arguments", "light"),
    [
        ("train", ["--env", "Seaqest"], "numpy"),
        ("train", ["--from", "nowhere"], "numpy"),
        ("rllib", ["--evaluate-games", "0"], "numpy"),
        ("sweep", ["--evaluate-every", "-1"], "numpy"),
        ("evaluate", ["nowhere"], "numpy"),
        ("evaluate", ["nowhere", "--best"], "numpy"),
        ("supervised", ["mnist", "--layer", "neurocodr"], "agents.supervised.presets"),
        ("continual", ["split-mnist", "--layer", "neurocodr"], "agents.continual.presets"),
    ],
)
def test_a_new_process_refuses_a_mistake_before_it_imports_torch_or_ray(command, arguments, light, tmp_path):
    process = start(command, *arguments, folder=tmp_path, options=("-X", "importtime"))
    output, errors = process.communicate(timeout=60)
    imports = [line for line in errors.splitlines() if line.startswith("import time:")]
    (line,) = set(errors.splitlines()) - set(imports)
    assert (process.returncode, output) == (2, "") and line.startswith("error: "), line
    assert not list(tmp_path.iterdir())
    imported = {line.split("|")[-1].strip() for line in imports}
    # These two light modules show that the list holds imports.
    assert {light, "tyro"} <= imported
    assert not imported & {"torch", "ray", "tensorboard", "cv2", "matplotlib"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_on_a_machine_without_one_is_refused(empty_folder):
    line = refusal("train", "--gpus-per-worker", "0.5")
    # A resumed run may have this setting without the flag, so leaving it out is no advice.
    assert "PyTorch sees none here; give --gpus-per-worker 0 to run on the CPU" in line
    assert not list(empty_folder.iterdir())
