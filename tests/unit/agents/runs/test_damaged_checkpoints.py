"""Damaged and malicious checkpoints are refused in one line."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from agents.runs.checkpoints import CheckpointError, load_checkpoint
from tests.unit.agents.runs.checkpoint_folders import FILES, save


def refusal(path: Path) -> str:
    """Returns the one line with which the checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line


def seal(path: Path, **changes: object) -> None:
    """Writes a manifest that is valid for all that is in the folder, like an attacker."""
    manifest = json.loads((path / "MANIFEST.json").read_text())
    for name in manifest["files"]:
        data = (path / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest |= changes
    del manifest["sha256"]
    text = json.dumps(manifest, indent=2) + "\n"
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "MANIFEST.json").write_text(json.dumps(manifest))


# A damaged file is refused by its name.


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, name, left):
    file = save(tmp_path, 5, history=list(range(500))) / name
    data = file.read_bytes()
    # JSON without its last byte, a line end, would still be whole.
    file.write_bytes(data[: min(int(len(data) * left), len(data) - 2)])

    assert f"{name} is truncated" in refusal(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_is_refused(tmp_path, name):
    file = save(tmp_path, 5) / name
    file.write_bytes(b"")

    assert f"{name} is empty" in refusal(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(tmp_path, name):
    file = save(tmp_path, 5) / name
    file.unlink()

    line = refusal(file.parent)

    assert name in line and ("missing" in line or "not a checkpoint folder" in line)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_refused(tmp_path, name):
    file = save(tmp_path, 5, best_score=1.5) / name
    data = file.read_bytes()
    # 11 and 8 share no factor, so every place within a byte is reached.
    for bit in range(0, 8 * len(data), 11):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert name in refusal(file.parent)

    file.write_bytes(data)
    assert load_checkpoint(file.parent).state == {"best_score": 1.5}


def test_a_file_that_grew_is_refused(tmp_path):
    path = save(tmp_path, 5)
    with open(path / "parameters.safetensors", "ab") as file:
        file.write(b"\0")

    assert "parameters.safetensors was altered" in refusal(path)


@pytest.mark.parametrize("name", ["extra.safetensors", "run.sh", ".hidden", "two\nlines"])
def test_an_unknown_file_is_refused(tmp_path, name):
    path = save(tmp_path, 5)
    (path / name).write_bytes(b"x")

    assert f"{name!r} is an unknown file" in refusal(path)


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_is_refused_even_to_the_right_bytes(tmp_path, name):
    file = save(tmp_path, 5) / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")

    assert f"{name!r} is a link" in refusal(file.parent)


def test_a_folder_or_a_pipe_inside_is_refused_without_waiting_for_it(tmp_path):
    path = save(tmp_path, 5)
    (path / "folder.safetensors").mkdir()
    assert "'folder.safetensors' is a link or a folder" in refusal(path)

    (path / "folder.safetensors").rmdir()
    os.mkfifo(path / "pipe.safetensors")
    assert "'pipe.safetensors' is" in refusal(path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_bytes(b"x")])
def test_a_path_without_a_checkpoint_is_refused(tmp_path, make):
    make(tmp_path / "thing")

    assert "not a checkpoint folder" in refusal(tmp_path / "thing")


def test_a_path_that_the_system_cannot_read_is_refused(tmp_path):
    assert refusal(tmp_path / ("x" * 300))


# A malicious file is refused although its manifest is valid.


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", "..", "state.json\n", ""]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    path = save(tmp_path, 5)
    (tmp_path / "evil.safetensors").write_bytes((path / "parameters.safetensors").read_bytes())
    files = json.loads((path / "MANIFEST.json").read_text())["files"]
    seal(path, files=files | {name: files["parameters.safetensors"]})

    assert f"MANIFEST.json lists {name!r}" in refusal(path)


class Payload:
    """Becomes a pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_disguise_is_refused_and_does_not_run(tmp_path, name, writer, sealed):
    target = tmp_path / "created-by-the-payload"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists(), "the payload cannot run, so the test shows nothing"
    target.unlink()
    path = save(tmp_path, 5)
    with open(path / name, "wb") as file:
        writer(Payload(target), file)
    if sealed and name != "MANIFEST.json":
        seal(path)

    assert name in refusal(path)
    assert not target.exists()


def test_a_sealed_file_with_a_huge_header_or_no_header_is_refused(tmp_path):
    path = save(tmp_path, 5)
    for data in (
        (2**63).to_bytes(8, "little") + b"{}",
        (10**8 - 1).to_bytes(8, "little") + b"{}",
        b"",
        b"\0" * 8,
    ):
        (path / "parameters.safetensors").write_bytes(data)
        seal(path)
        assert "parameters.safetensors is not a safetensors file" in refusal(path)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_format_version_is_refused_with_advice(tmp_path, version):
    path = save(tmp_path, 5)
    seal(path, format_version=version)

    assert f"MANIFEST.json has format version {version!r}, this release reads 1; load it with" in refusal(
        path
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": {"state.json": "x"}},
        {"files": {"state.json": {"size": "x", "sha256": ""}}},
        {"files": {"state.json": {"size": 1e999, "sha256": ""}}},
        {"files": {"state.json": {"size": 1}}},
        {"files": {}},
        {"step": None},
    ],
)
def test_a_sealed_manifest_of_another_shape_is_refused(tmp_path, changes):
    path = save(tmp_path, 5)
    seal(path, **changes)

    assert "MANIFEST.json" in refusal(path)


@pytest.mark.parametrize("text", ["[]", "[" * 10**5, '{"a":' * 10**5, '{"format_version": 1}'])
def test_json_that_is_no_manifest_is_refused(tmp_path, text):
    path = save(tmp_path, 5)
    (path / "MANIFEST.json").write_text(text)

    assert "MANIFEST.json" in refusal(path)
