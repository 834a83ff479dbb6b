"""Checkpoints that survive a crash at any moment and are never trusted when read back.

    checkpoints/
      step-000000123456/
        parameters.safetensors   one file per group of tensors; the caller names the groups
        optimizer.safetensors
        state.json               plain JSON: counters, configuration, ...
        MANIFEST.json            format version, step, torch version, size and SHA-256 of every file above,
                                 and the SHA-256 of the manifest itself

A folder is written under a temporary name and renamed once all of it is on the disk, so a folder with a
checkpoint's name is whole. It is checked all the same: disks decay, copies stop half way, people load what
others send them. Nothing is pickled, so nothing that is read can run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:  # torch takes seconds to import and only saving and loading need it
    import torch

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"

_CHECKPOINT_NAME = re.compile(r"step-[0-9]{12}(\.replaced)?")
_TEMPORARY_NAME = re.compile(r"\.step-[0-9]{12}(\.replaced)?\.tmp-([0-9]{1,9})")
_FILE_NAME = re.compile(r"state\.json|[A-Za-z0-9_]+\.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; one line that names the folder, the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    """Group name -> tensor name -> tensor, on the CPU."""
    state: dict[str, Any]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it. Raises OSError."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder, which syncing files does not promise. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    """Remove a checkpoint, if there; renamed first, so that half of one never passes for a checkpoint."""
    if path.exists():
        trash = _temporary(path)
        shutil.rmtree(trash, ignore_errors=True)
        os.rename(path, trash)
        shutil.rmtree(trash, ignore_errors=True)


def _move_into_place(temporary: Path, final: Path) -> None:
    # A folder cannot replace a folder in one step. The old one steps aside under a name that still counts as
    # a checkpoint, so that at every moment one of the two can be found.
    aside = final.with_name(f"{final.name}.replaced")
    if final.exists():
        _discard(aside)
        os.rename(final, aside)
    os.rename(temporary, final)
    sync_folder(final.parent)
    _discard(aside)


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]
) -> Path:
    """Write `folder/step-<step>/`, all or nothing, and return it; a folder of the same step is replaced.

    `tensors` holds named tensors by group, on any device. Raises OSError when the disk refuses (full,
    read-only): what was written so far is removed and every earlier checkpoint stays whole.
    """
    import torch
    from safetensors.torch import save

    assert 0 <= step < 10**12, step
    files = {}
    for group, named in tensors.items():
        # Clones, because safetensors refuses views and tensors that share memory, such as tied weights.
        copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in named.items()}
        files[f"{group}.safetensors"] = save(copies)
    return _write(folder, step, files | {STATE: _json_bytes(state)}, torch_version=str(torch.__version__))


def amend_state(path: Path, **changes: Any) -> None:
    """Write a checkpoint again with entries added to its state, or replaced, as whole at every moment as `save_checkpoint`.

    Raises CheckpointError when the checkpoint is gone or damaged, OSError when the disk refuses.
    """
    step, files = _verified_files(path)
    torch_version = _parse_json(path, MANIFEST, (path / MANIFEST).read_bytes())["torch_version"]
    files[STATE] = _json_bytes(_parse_json(path, STATE, files[STATE]) | changes)
    _write(path.parent, step, files, torch_version=torch_version)


def _write(folder: Path, step: int, files: dict[str, bytes], *, torch_version: str) -> Path:
    """Write these files and their manifest as the checkpoint of a step."""
    assert all(_FILE_NAME.fullmatch(name) for name in files), list(files)
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "torch_version": torch_version,
        "files": {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()},
    }
    files = files | {MANIFEST: _json_bytes(manifest | {"sha256": _sha256(_json_bytes(manifest))})}

    final = folder / f"step-{step:012d}"
    temporary = _temporary(final)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a dead process that had our process id
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():  # the manifest is the last
            write_durably(temporary / name, data)
        sync_folder(temporary)
        _move_into_place(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _parse_json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "truncated or altered, it is not JSON" if data else "empty"
        raise CheckpointError(f"{path}: {name} is {reason}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: {name} is not a JSON object")
    return parsed


def _read_manifest(path: Path) -> tuple[int, dict[str, tuple[int, str]]]:
    """The step, and name -> (size in bytes, SHA-256 in hex) of every file the folder must have."""
    manifest = _parse_json(path, MANIFEST, (path / MANIFEST).read_bytes())
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        reason = f"{MANIFEST} has format version {version!r}, this release reads {FORMAT_VERSION}"
        raise CheckpointError(f"{path}: {reason}; load it with the release that wrote it")
    claimed = manifest.pop("sha256", None)
    try:
        actual = _sha256(_json_bytes(manifest))
        step = int(manifest["step"])
        listed = {name: (int(file["size"]), str(file["sha256"])) for name, file in manifest["files"].items()}
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {MANIFEST} is not a manifest ({_one_line(error)})") from error
    if claimed != actual:
        raise CheckpointError(f"{path}: {MANIFEST} was altered, its SHA-256 is not its own")
    for name in listed:
        if not _FILE_NAME.fullmatch(name):
            raise CheckpointError(f"{path}: {MANIFEST} lists {name!r}, not a name that is allowed")
    if STATE not in listed:
        raise CheckpointError(f"{path}: {MANIFEST} does not list {STATE}")
    return step, listed


def _verified_files(path: Path) -> tuple[int, dict[str, bytes]]:
    """The step and the bytes of every file but the manifest, all as the manifest says."""
    try:
        if not (path / MANIFEST).exists():
            raise CheckpointError(f"{path}: not a checkpoint folder, it has no {MANIFEST}")
        with os.scandir(path) as entries:
            plain = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
        for name, is_plain in plain.items():
            if not is_plain:
                raise CheckpointError(f"{path}: {name!r} is a link or a folder, not a plain file")
        step, listed = _read_manifest(path)
        for name in sorted(plain.keys() - listed.keys() - {MANIFEST}):
            raise CheckpointError(f"{path}: {name!r} is an unknown file, not in {MANIFEST}")
        for name in sorted(listed.keys() - plain.keys()):
            raise CheckpointError(f"{path}: {name} is missing")
        files = {name: (path / name).read_bytes() for name in listed}
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({_one_line(error)})") from error
    for name, (size, sha256) in listed.items():
        data = files[name]
        if len(data) < size:
            reason = f"truncated, {len(data)} of {size} bytes are left" if data else "empty"
            raise CheckpointError(f"{path}: {name} is {reason}")
        if _sha256(data) != sha256:
            raise CheckpointError(f"{path}: {name} was altered, its SHA-256 is not that in {MANIFEST}")
    return step, files


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder; every byte is checked against the manifest before any of it is parsed.

    Raises CheckpointError when the folder is no checkpoint, is damaged, or has another format version.
    """
    from safetensors.torch import load

    step, files = _verified_files(path)
    state = _parse_json(path, STATE, files.pop(STATE))
    tensors = {}
    for name, data in files.items():
        try:
            tensors[name.removesuffix(".safetensors")] = load(data)
        # A matching SHA-256 says that these are the sender's bytes, not that they are tensors.
        except (SafetensorError, AssertionError, KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: {name} is not a safetensors file ({_one_line(error)})") from error
    return Checkpoint(path, step, tensors, state)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the highest step first; [] when there is no such folder."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name)]
    found = [path for path in found if path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: (path.stem, path.suffix == ""), reverse=True)


def load_newest(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint that is whole; `warn` gets one line for each damaged one that is passed over.

    Raises CheckpointError when none is whole.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            warn(f"skipped a checkpoint that cannot be used: {error}")
    found = f"none of the {len(paths)} in it can be used" if paths else "there is none in it"
    raise CheckpointError(f"{folder}: no checkpoint to load, {found}; name another folder or start a new run")


def _whole_states(folder: Path) -> dict[Path, dict[str, Any]]:
    """The state of every checkpoint that is whole, the highest step first."""
    states = {}
    for path in list_checkpoints(folder):
        try:
            states[path] = _parse_json(path, STATE, _verified_files(path)[1][STATE])
        except CheckpointError:
            continue  # `load_newest` tells whoever wants to load it
    return states


Score = Callable[[dict[str, Any]], tuple[float, ...] | None]
"""Takes a checkpoint's state: numbers, of which the first that differs decides, or None for a checkpoint without a score."""


def _best(states: dict[Path, dict[str, Any]], score: Score) -> Path | None:
    scores = {path: score(state) for path, state in states.items()}
    valid = {path: value for path, value in scores.items() if value and not any(map(math.isnan, value))}
    return max(valid, key=valid.__getitem__, default=None)


def best_checkpoint(folder: Path, score: Score) -> Path | None:
    """The whole checkpoint with the highest score, the newest of equals; None when none has a score."""
    return _best(_whole_states(folder), score)


def _another_lives(pid: int) -> bool:
    """Whether a process other than this one has this id."""
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives and is somebody else's
    return pid != os.getpid()


def prune_checkpoints(folder: Path, *, keep: int, score: Score, spare: Path | None = None) -> None:
    """Remove all but the `keep` newest checkpoints, the best one and `spare`, and what dead processes left unfinished.

    Damaged checkpoints do not count towards `keep`: after a fallback to an older one, the damaged newer one
    would push out what is saved next. Call it from the thread that saves.
    """
    assert keep >= 1, keep
    states = _whole_states(folder)
    best, whole, paths = _best(states, score), list(states), list_checkpoints(folder)
    older = paths[paths.index(whole[keep - 1]) + 1 :] if len(whole) >= keep else []
    for path in older:
        if path not in (best, spare):
            _discard(path)
    for path in folder.glob(".step-*"):
        match = _TEMPORARY_NAME.fullmatch(path.name)
        if match and not _another_lives(int(match[2])):
            shutil.rmtree(path, ignore_errors=True)
