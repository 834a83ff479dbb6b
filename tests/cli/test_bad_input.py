"""A person's mistake gets one line on stderr and exit status 2, before anything heavy is imported or written."""

import subprocess
import sys

import pytest

MISTAKES = {
    "unknown game": (["launch.train", "--env", "Seaqest"], "near names: Seaquest"),
    "random frame skip": (["launch.train", "--env", "Seaquest-v4"], "ALE/<Game>-v5"),
    "unknown head": (["launch.train", "--head", "neurocodr"], "did you mean neurocoder?"),
    "negative workers": (["launch.train", "--workers", "-1"], "--workers is -1; it must be 0 or more"),
    "no games": (["launch.train", "--envs-per-worker", "0"], "--envs-per-worker is 0"),
    "no steps": (["launch.train", "--total-steps", "0"], "--total-steps is 0"),
    "zero learning rate": (
        ["launch.train", "--learning-rate", "0"],
        "--learning-rate is 0.0; it must be above 0",
    ),
    "NaN learning rate": (["launch.train", "--learning-rate", "nan"], "--learning-rate is nan"),
    "gamma above 1": (["launch.train", "--gamma", "1.5"], "--gamma is 1.5; it must be from 0 to 1"),
    "too many least-used slots": (
        ["launch.train", "--neurocoder.slots", "4", "--neurocoder.least-used", "4"],
        "--neurocoder.least-used is 4",
    ),
    "deterministic workers": (["launch.train", "--deterministic"], "--deterministic needs --workers 0"),
    "no checkpoints kept": (["launch.train", "--keep", "0"], "--keep is 0"),
    "resume of no run": (["launch.train", "--resume", "nowhere"], "nowhere: not the folder of a run"),
    "address without a port": (["launch.train", "--address", "somewhere"], "must be auto or host:port"),
    "no cluster there": (["launch.train", "--address", "127.0.0.1:1"], "127.0.0.1:1: nobody answers there"),
    "two folders": (["launch.train", "--resume", "a", "--run-dir", "b"], "a: not the folder of a run"),
    "evaluate without a run": (["launch.evaluate"], "no run given"),
    "evaluate of no run": (["launch.evaluate", "nowhere"], "nowhere is neither a run folder"),
    "no episodes": (["launch.evaluate", "nowhere", "--episodes", "0"], "--episodes is 0"),
    "sticky above 1": (["launch.evaluate", "nowhere", "--sticky", "2"], "--sticky is 2.0"),
    "video of two runs": (["launch.evaluate", "a", "b", "--video", "v.mp4"], "--video shows one policy"),
    "video of another kind": (["launch.evaluate", "a", "--video", "v.gif"], "must end in .mp4"),
}


def run(arguments, folder, *options):
    return subprocess.run(
        [sys.executable, *options, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(autouse=True)
def project_on_the_path(monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))


@pytest.mark.parametrize("arguments, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_in_one_line_with_status_2_and_leaves_nothing_behind(
    arguments, message, tmp_path
):
    result = run(arguments, tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["launch.train", "--env", "Seaqest"], ["launch.evaluate", "nowhere"]], ids=" ".join
)
def test_a_mistake_is_found_before_torch_or_ray_is_imported(arguments, tmp_path):
    result = run(arguments, tmp_path, "-X", "importtime")
    imported = {
        line.split("|")[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    assert {"numpy", "tyro"} <= imported  # the list is a list of imports
    assert not imported & {"torch", "ray", "tensorboard", "cv2", "matplotlib"}


def test_a_gpu_asked_for_where_there_is_none_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run(["launch.train", "--gpus-per-worker", "0.5"], tmp_path)
    assert result.returncode == 2 and "PyTorch sees none here" in result.stderr
    assert not list(tmp_path.iterdir())
