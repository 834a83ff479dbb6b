"""Run folders: how they are made, opened and locked, and what describes the software."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.runs.folder import RunFolder, RunFolderError, git_commit, new_folder, software_versions
from tests.commands import ROOT


def refusal(make, path: Path) -> str:
    """Returns the one line with which `make` refuses the path."""
    with pytest.raises(RunFolderError) as caught:
        make(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line


HOLD = """
import subprocess, sys, time
from pathlib import Path
from agents.runs.folder import RunFolder
from tests.commands import ROOT
folder = RunFolder.create(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


@contextmanager
def another_process_that_holds(path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Starts a process that holds a run folder.

    Yields the process, and the id of a program that the process started and that outlives it.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process, child
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_new_run_folder_is_made_with_its_parents_and_can_be_opened_again(tmp_path):
    path = tmp_path / "runs" / "first"
    with RunFolder.create(path) as folder:
        assert (folder.path, folder.checkpoints) == (path, path / "checkpoints")
        assert folder.checkpoints.is_dir()

    with RunFolder.open(path) as folder:
        assert folder.checkpoints == path / "checkpoints"


def test_a_folder_that_holds_a_run_is_not_made_again_and_stays_unlocked(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        (folder.checkpoints / f"step-{7:012}").mkdir()

    line = refusal(RunFolder.create, tmp_path / "run")

    assert "holds a run already; continue it with --resume or name another --run-dir" in line
    RunFolder.open(tmp_path / "run").close()


def test_a_folder_whose_run_ended_before_its_first_checkpoint_may_be_used_again(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        # A checkpoint was cut off while it was written.
        (folder.checkpoints / f".step-{7:012}.tmp").mkdir()
    with RunFolder.create(tmp_path / "run") as folder:
        assert folder.checkpoints.is_dir()


def test_an_existing_folder_without_a_run_may_become_one(tmp_path):
    RunFolder.create(tmp_path).close()

    assert (tmp_path / "checkpoints").is_dir()


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_path_without_a_run_is_not_opened_and_not_touched(tmp_path, make):
    make(tmp_path / "thing")
    before = sorted(tmp_path.rglob("*"))

    assert "not a run folder" in refusal(RunFolder.open, tmp_path / "thing")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_path_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")

    assert "cannot make a run folder" in refusal(RunFolder.create, tmp_path / "file")
    assert "cannot make a run folder" in refusal(RunFolder.create, tmp_path / "file" / "run")


def test_a_second_process_is_refused_while_the_first_lives_and_accepted_after_it_was_killed(tmp_path):
    path = tmp_path / "run"
    with another_process_that_holds(path) as (process, child):
        for make in (RunFolder.open, RunFolder.create):
            assert f"in use by a live run (pid {process.pid} on " in refusal(make, path)

        process.kill()
        assert process.wait() == -signal.SIGKILL

        # The program that the process started still lives and does not hold the lock.
        os.kill(child, 0)
        RunFolder.open(path).close()


def test_the_same_process_cannot_take_a_folder_twice_until_it_closes_it(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    assert f"pid {os.getpid()}" in refusal(RunFolder.open, tmp_path / "run")

    folder.close()
    folder.close()

    RunFolder.open(tmp_path / "run").close()


def test_an_error_inside_the_with_block_frees_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder.create(tmp_path / "run"):
        raise ZeroDivisionError

    RunFolder.open(tmp_path / "run").close()


def test_new_folders_are_one_folder_deep_dated_and_distinct(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: {"%Y%m%d-%H%M%S": "20260131-142501"}[form])
    names = [new_folder("ALE/Pong-v5", "neurocoder", root=tmp_path).name for _ in range(3)]
    first = "ALE-Pong-v5-neurocoder-20260131-142501"
    assert names == [first, f"{first}-2", f"{first}-3"]
    assert new_folder("../../etc", "mlp", root=tmp_path).parent == tmp_path
    monkeypatch.chdir(tmp_path)
    assert new_folder("Pong", "mlp") == Path("runs/Pong-mlp-20260131-142501")


def test_starts_at_the_same_moment_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20260131-142501")
    with ThreadPoolExecutor(16) as threads:
        folders = list(threads.map(lambda _: new_folder("Pong", root=tmp_path), range(64)))
    assert len(set(folders)) == 64 and all(folder.is_dir() for folder in folders)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file/Pong-.*: cannot make a run folder"):
        new_folder("Pong", root=tmp_path / "file")


@pytest.mark.parametrize("content", [b'{"name": "a web page"}', b"[1, 2]", b"not JSON", b"\xff"])
def test_a_config_that_is_not_of_a_run_is_not_replaced(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert "holds a config.json that is not of a run" in refusal(RunFolder.create, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == content
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_ended_before_its_first_checkpoint_can_start_again(tmp_path):
    (tmp_path / "config.json").write_text('{"a3c": {}, "run": {}}')
    RunFolder.create(tmp_path).close()


def test_software_versions_are_those_installed():
    import ray
    import torch

    versions = software_versions()

    assert list(versions) == ["python", "torch", "ray", "gymnasium", "ale-py", "commit"]
    assert (versions["torch"], versions["ray"]) == (torch.__version__, ray.__version__)
    assert versions["python"] == sys.version.split()[0]


def test_the_commit_is_that_of_the_checkout_and_is_marked_when_files_have_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None

    git(tmp_path, "init")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag does not replace the hash")
    commit = git(tmp_path, "rev-parse", "--short", "HEAD")
    assert git_commit(tmp_path) == commit

    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_another_repository_says_nothing_about_this_code(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("1")
    git(tmp_path, "add", "inner")
    git(tmp_path, "commit", "-m", "first")
    assert git_commit(tmp_path / "inner") is None
    before = software_versions()
    monkeypatch.chdir(tmp_path)
    assert software_versions() == before


def test_a_missing_git_and_missing_packages_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])

    versions = software_versions()

    assert versions.pop("python")
    assert set(versions.values()) == {None}


def test_neither_torch_nor_ray_is_imported_before_a_path_can_be_refused():
    program = (
        "import sys, agents.runs.folder; print([m for m in ('torch', 'ray', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
