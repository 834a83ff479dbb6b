"""Checkpoints are written whole or not at all, and come back bit for bit."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from agents.runs.checkpoints import (
    CheckpointError,
    amend_state,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from tests.commands import ROOT
from tests.unit.agents.runs.checkpoint_folders import FILES, save, steps


def run_python(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What is saved comes back.


def test_every_type_and_shape_comes_back_bit_for_bit(tmp_path):
    types = (
        "float64 float32 float16 bfloat16 complex64 uint8 int8 int16 int32 int64 uint16 uint32 uint64 bool"
    )
    shapes = [(), (0,), (3, 0, 2), (5,), (2, 3)]
    generator = torch.Generator().manual_seed(0)
    saved = {}
    for name in types.split():
        dtype = getattr(torch, name)
        for shape in shapes:
            count = torch.Size(shape).numel() * dtype.itemsize
            bits = torch.randint(
                0, 2 if name == "bool" else 256, (count,), generator=generator, dtype=torch.uint8
            )
            saved[f"{name}{shape}"] = bits.view(dtype).reshape(shape)
    path = save_checkpoint(tmp_path, 7, {"parameters": saved}, {})

    loaded = load_checkpoint(path).tensors["parameters"]

    assert loaded.keys() == saved.keys()
    for name, tensor in saved.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(
            loaded[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)
        ), name


def test_nan_payloads_and_negative_zero_keep_their_bits(tmp_path):
    bits = torch.tensor([0x7FC00001, 0x7F800001, -0x3FFFFF, -0x80000000, 0x7F800000], dtype=torch.int32)
    path = save_checkpoint(tmp_path, 7, {"parameters": {"x": bits.view(torch.float32)}}, {})

    assert torch.equal(load_checkpoint(path).tensors["parameters"]["x"].view(torch.int32), bits)


def test_views_and_shared_and_trainable_tensors_come_back_as_separate_tensors(tmp_path):
    matrix = torch.arange(6.0).reshape(2, 3).requires_grad_()
    path = save_checkpoint(tmp_path, 7, {"parameters": {"a": matrix, "tied": matrix, "turned": matrix.T}}, {})

    loaded = load_checkpoint(path).tensors["parameters"]

    assert all(torch.equal(loaded[name], matrix) for name in ("a", "tied"))
    assert torch.equal(loaded["turned"], matrix.T)
    loaded["a"].zero_()
    assert torch.equal(loaded["tied"], matrix)


def test_step_state_and_all_groups_come_back(tmp_path):
    state = {
        "env_steps": 10**9,
        "config": {"lr": 1e-4, "name": "Überlänge"},
        "best": None,
        "low": -float("inf"),
    }
    groups = {
        "parameters": {"w": torch.ones(2)},
        "optimizer": {},
        "random_states": {"cpu": torch.get_rng_state()},
    }
    path = save_checkpoint(tmp_path / "not" / "yet", 123456, groups, state)

    loaded = load_checkpoint(path)

    assert path == loaded.path == tmp_path / "not" / "yet" / "step-000000123456"
    assert (loaded.step, loaded.state) == (123456, state)
    assert {group: set(named) for group, named in loaded.tensors.items()} == {
        g: set(n) for g, n in groups.items()
    }
    assert torch.equal(loaded.tensors["random_states"]["cpu"], torch.get_rng_state())


def test_the_folder_holds_the_documented_files_and_a_plain_json_manifest(tmp_path):
    path = save(tmp_path, 5)
    manifest = json.loads((path / "MANIFEST.json").read_text())

    assert sorted(os.listdir(path)) == sorted(FILES)
    assert os.listdir(tmp_path) == [path.name]
    assert (manifest["format_version"], manifest["step"]) == (1, 5)
    assert manifest["torch_version"] == torch.__version__
    for name in FILES[:2]:
        data = (path / name).read_bytes()
        assert manifest["files"][name] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_checkpoint_copied_under_another_name_still_knows_its_step(tmp_path):
    copy = save(tmp_path, 5).rename(tmp_path / "the-good-one")

    assert load_checkpoint(copy).step == 5


def test_a_state_that_is_not_json_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, 5, path=tmp_path)
    assert os.listdir(tmp_path) == []


# The newest good checkpoint is loaded.


def test_checkpoints_are_listed_newest_first_and_nothing_else_is(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step)
    for name in (
        ".step-000000000300.tmp-1",
        "step-300",
        "step-000000000300x",
        "step-000000000300.tmp",
        "best",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000000000400").write_text("a file")
    (tmp_path / "step-000000000500").symlink_to(tmp_path / "step-000000000100")

    assert steps(tmp_path) == [100, 20, 9]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_damaged_checkpoints_are_skipped_with_a_warning_of_one_line_each(tmp_path):
    paths = [save(tmp_path, step) for step in (1, 2, 3)]
    (paths[2] / "state.json").write_bytes(b"")
    (paths[1] / "parameters.safetensors").unlink()
    warnings: list[str] = []

    loaded = load_newest(tmp_path, warn=warnings.append)

    assert loaded.step == 1
    assert [str(paths[2]) in warnings[0], "state.json is empty" in warnings[0]] == [True, True]
    assert [str(paths[1]) in warnings[1], "parameters.safetensors is missing" in warnings[1]] == [True, True]
    assert len(warnings) == 2 and not any("\n" in line for line in warnings)


def test_a_folder_without_a_good_checkpoint_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match="none in it") as caught:
        load_newest(tmp_path / "empty", warn=pytest.fail)
    assert str(caught.value).startswith(f"{tmp_path / 'empty'}: ")

    (save(tmp_path, 1) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 1 in it can be used"):
        load_newest(tmp_path, warn=lambda line: None)


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 5, attempt=1)
    path = save(tmp_path, 5, attempt=2)

    assert load_checkpoint(path).state == {"attempt": 2}
    assert os.listdir(tmp_path) == [path.name]


def test_a_replacement_cut_off_between_its_two_renames_loses_nothing(tmp_path):
    path = save(tmp_path, 5, attempt=1)
    path.rename(tmp_path / f"{path.name}.replaced")
    assert load_newest(tmp_path, warn=pytest.fail).state == {"attempt": 1}

    save(tmp_path, 5, attempt=2)

    assert load_newest(tmp_path, warn=pytest.fail).state == {"attempt": 2}
    assert os.listdir(tmp_path) == [path.name]


def test_a_replacement_cut_off_before_it_removes_the_old_checkpoint_still_loads_the_new_one(tmp_path):
    path = save(tmp_path, 5, attempt=1)
    path.rename(tmp_path / f"{path.name}.replaced")
    save(tmp_path / "other", 5, attempt=2).rename(path)

    assert load_newest(tmp_path, warn=pytest.fail).state == {"attempt": 2}


# The disk and the process may fail at any moment.


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_wherever_the_disk_fails_while_a_step_is_saved_again_the_old_or_the_new_checkpoint_is_whole(
    tmp_path, monkeypatch, call
):
    works = getattr(os, call)
    failures = 0
    for failing in range(1, 9):
        folder = tmp_path / str(failing)
        save(folder, 5, attempt=1)
        calls = iter(range(1, 99))

        def fail(*arguments, calls=calls, failing=failing):
            if next(calls) == failing:
                raise OSError(errno.EIO, "the disk failed")
            return works(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            try:
                save(folder, 5, attempt=2)
            except OSError:
                failures += 1
        assert load_newest(folder, warn=pytest.fail).state["attempt"] in (1, 2)
        assert not any(folder.glob(".*"))
    # fsync is called for three files and two folders. rename is called to move aside, in place and away.
    assert failures == {"fsync": 5, "rename": 3}[call]


FILL_THE_DISK = """
import errno, resource, signal, sys, torch
from pathlib import Path
from agents.runs.checkpoints import save_checkpoint
folder = Path(sys.argv[1])
save_checkpoint(folder, 1, {"parameters": {"weight": torch.ones(10)}}, {"attempt": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
# Another step and the same step again.
for step in (2, 1):
    try:
        save_checkpoint(folder, step, {"parameters": {"weight": torch.ones(100_000)}}, {"attempt": 2})
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_a_full_disk_is_an_error_that_leaves_the_earlier_checkpoint_and_no_litter(tmp_path):
    assert run_python(FILL_THE_DISK, tmp_path).split() == ["EFBIG", "EFBIG"]

    assert os.listdir(tmp_path) == ["step-000000000001"]
    assert load_newest(tmp_path, warn=pytest.fail).state == {"attempt": 1}


SAVE_AND_BE_KILLED = """
import os, signal, sys, time, torch
from itertools import count
from pathlib import Path
from agents.runs.checkpoints import amend_state, list_checkpoints, load_checkpoint, prune_checkpoints, save_checkpoint
from tests.commands import ROOT
torch.set_num_threads(1)
folder = Path(sys.argv[1])

def save_forever(start):
    for step in count(start):
        weight = torch.full((200_000,), float(step))
        # The second attempt replaces the first.
        for attempt in range(2):
            path = save_checkpoint(folder, step, {"parameters": {"weight": weight}}, {"step": step})
        prune_checkpoints(folder, keep=2, score=lambda state: (-abs(state["step"] - 3),))
        amend_state(path, amended=True)

killed_amid_a_save = 0
start = 0
for number in range(8):
    child = os.fork()
    if child == 0:
        save_forever(start)
    while not any(path.name >= f"step-{start:012d}" for path in list_checkpoints(folder)):
        time.sleep(0.005)
    time.sleep(0.017 * number)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    killed_amid_a_save += any(folder.glob(".step-*"))
    for path in list_checkpoints(folder):
        checkpoint = load_checkpoint(path)
        assert (checkpoint.tensors["parameters"]["weight"] == checkpoint.step).all()
        start = max(start, checkpoint.step + 1)
prune_checkpoints(folder, keep=2, score=lambda state: None)
print(killed_amid_a_save, len(os.listdir(folder)))
"""


def test_killing_the_process_at_any_moment_leaves_only_whole_checkpoints(tmp_path):
    killed_amid_a_save, folders_left = map(int, run_python(SAVE_AND_BE_KILLED, tmp_path).split())

    assert killed_amid_a_save > 0, "no kill has hit a save, so the test shows nothing"
    assert folders_left == 2


def test_an_amended_checkpoint_has_the_new_entries_and_all_others_as_before(tmp_path):
    path = save(tmp_path, 5, score=1.0, note="first")
    before = load_checkpoint(path)

    amend_state(path, score=2.0, evaluation={"mean_return": 3.5})

    after = load_checkpoint(path)
    assert after.state == before.state | {"score": 2.0, "evaluation": {"mean_return": 3.5}}
    assert after.step == 5 and torch.equal(after.tensors["parameters"]["weight"], torch.arange(64.0) + 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000005"]


def test_a_checkpoint_that_is_damaged_or_gone_is_not_amended(tmp_path):
    path = save(tmp_path, 5)
    (path / "state.json").write_text("{}")
    for wrong in (path, tmp_path / "step-000000000006"):
        with pytest.raises(CheckpointError):
            amend_state(wrong, score=2.0)
    assert (path / "state.json").read_text() == "{}"
