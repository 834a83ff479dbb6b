"""Checkpoints that survive a crash at any moment and are never trusted when read back.

    checkpoints/
      step-000000123456/
        parameters.safetensors   one file for each group of tensors; the caller names the groups
        optimizer.safetensors
        state.json               plain JSON: counters, configuration, ...
        MANIFEST.json            format version, step, torch version, size and SHA-256 of every file above,
                                 and the SHA-256 of the manifest itself

A folder is written under a temporary name and renamed once all of it is on the disk. So a folder with a
checkpoint's name is whole. It is checked all the same: disks decay, copies stop half way, and people load
what others send them. Nothing is pickled, so nothing that is read can run.
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

from agents.files import json_bytes, sync_folder, temporary_path, write_durably
from agents.finite import first_not_finite

# torch takes seconds to import, and only saving and loading need it.
if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"

_CHECKPOINT_NAME = re.compile(r"step-[0-9]{12}(\.replaced)?")
_TEMPORARY_NAME = re.compile(r"\.step-[0-9]{12}(\.replaced)?\.tmp-([0-9]{1,9})")
_FILE_NAME = re.compile(r"state\.json|[A-Za-z0-9_]+\.safetensors")


class CheckpointError(ValueError):
    """A checkpoint cannot be used. The message is one line that names the folder, the file and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds."""

    path: Path
    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    """Tensors on the CPU, by the name of their group and their own name."""
    state: dict[str, Any]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _discard(path: Path) -> None:
    """Removes a checkpoint if it exists, renamed first, so that half of one never passes for a checkpoint."""
    if path.exists():
        trash = temporary_path(path)
        shutil.rmtree(trash, ignore_errors=True)
        os.rename(path, trash)
        shutil.rmtree(trash, ignore_errors=True)


def _move_into_place(temporary: Path, final: Path) -> None:
    # A folder cannot replace a folder in one step. The old one gets a name that still counts as a checkpoint.
    # So one of the two can be found at every moment.
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
    """Writes the folder `step-<step>` whole or not at all, and returns its path.

    A folder of the same step is replaced.

    Args:
        tensors: named tensors by group, on any device.
        state: plain values that JSON can hold.

    Raises:
        OSError: the disk is full or read-only. What was written is removed; every earlier checkpoint stays
            whole.
    """
    import torch
    from safetensors.torch import save

    assert 0 <= step < 10**12, step
    files = {}
    for group, named in tensors.items():
        # safetensors refuses views and tensors that share memory, such as tied weights. So it gets clones.
        copies = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in named.items()}
        files[f"{group}.safetensors"] = save(copies)
    return _write(folder, step, files | {STATE: json_bytes(state)}, torch_version=str(torch.__version__))


def amend_state(path: Path, **changes: Any) -> None:
    """Adds entries to the state of a checkpoint, or replaces them. The checkpoint is whole at every moment.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        OSError: the disk is full or read-only.
    """
    step, files = _verified_files(path)
    torch_version = _parse_json(path, MANIFEST, (path / MANIFEST).read_bytes())["torch_version"]
    files[STATE] = json_bytes(_parse_json(path, STATE, files[STATE]) | changes)
    _write(path.parent, step, files, torch_version=torch_version)


def _write(folder: Path, step: int, files: dict[str, bytes], *, torch_version: str) -> Path:
    """Writes these files and their manifest as the checkpoint of a step."""
    assert all(_FILE_NAME.fullmatch(name) for name in files), list(files)
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "torch_version": torch_version,
        "files": {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()},
    }
    files = files | {MANIFEST: json_bytes(manifest | {"sha256": _sha256(json_bytes(manifest))})}

    final = folder / f"step-{step:012d}"
    temporary = temporary_path(final)
    # A dead process that had our process id may have left one.
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        # The manifest is the last.
        for name, data in files.items():
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
    """Returns the step, and the size in bytes and the SHA-256 of every file the folder must have, by name."""
    manifest = _parse_json(path, MANIFEST, (path / MANIFEST).read_bytes())
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        reason = f"{MANIFEST} has format version {version!r}, this release reads {FORMAT_VERSION}"
        raise CheckpointError(f"{path}: {reason}; load it with the release that wrote it")
    claimed = manifest.pop("sha256", None)
    try:
        actual = _sha256(json_bytes(manifest))
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
    """Returns the step, and the bytes of every file but the manifest. All are as the manifest says."""
    try:
        if not (path / MANIFEST).exists():
            raise CheckpointError(f"{path}: not a checkpoint folder, it has no {MANIFEST}")
        with os.scandir(path) as entries:
            plain = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
        for name, is_plain in plain.items():
            if not is_plain:
                raise CheckpointError(f"{path}: {name!r} is a link or a folder, not a plain file")
        step, listed = _read_manifest(path)
        if unknown := plain.keys() - listed.keys() - {MANIFEST}:
            raise CheckpointError(f"{path}: {min(unknown)!r} is an unknown file, not in {MANIFEST}")
        if missing := listed.keys() - plain.keys():
            raise CheckpointError(f"{path}: {min(missing)} is missing")
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
    """Reads a checkpoint folder. Every byte is checked against the manifest before it is parsed.

    Raises:
        CheckpointError: the folder is no checkpoint, is damaged, or has another format version.
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


def check_finite(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if a tensor is not finite: nothing can be learnt or played from there."""
    if (name := first_not_finite(*checkpoint.tensors.values())) is not None:
        raise CheckpointError(f"{checkpoint.path}: its run has diverged, {name} is not finite")


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in `folder`, the highest step first; [] if there is no such folder."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name)]
    paths = [path for path in paths if path.is_dir() and not path.is_symlink()]
    return sorted(paths, key=lambda path: (path.stem, path.suffix == ""), reverse=True)


def load_newest(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint:
    """Reads the newest checkpoint that is whole and finite.

    Args:
        warn: is called with one line about each checkpoint that is skipped.

    Raises:
        CheckpointError: no checkpoint can be used.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            checkpoint = load_checkpoint(path)
            check_finite(checkpoint)
            return checkpoint
        except CheckpointError as error:
            warn(f"skipped a checkpoint that cannot be used: {error}")
    reason = f"none of the {len(paths)} in it can be used" if paths else "there is none in it"
    raise CheckpointError(
        f"{folder}: no checkpoint to load, {reason}; name another folder or start a new run"
    )


def _whole_states(folder: Path) -> dict[Path, dict[str, Any]]:
    """Returns the state of every checkpoint that is whole, the highest step first."""
    states = {}
    for path in list_checkpoints(folder):
        try:
            states[path] = _parse_json(path, STATE, _verified_files(path)[1][STATE])
        except CheckpointError:
            # `load_newest` reports the damage to a caller who wants to load the checkpoint.
            continue
    return states


Score = Callable[[dict[str, Any]], tuple[float, ...] | None]
"""Takes a checkpoint's state, and returns its score, or None if it has none. Scores compare number by number."""


def _best(states: dict[Path, dict[str, Any]], score: Score) -> Path | None:
    scores = {path: score(state) for path, state in states.items()}
    valid = {path: value for path, value in scores.items() if value and not any(map(math.isnan, value))}
    return max(valid, key=valid.__getitem__, default=None)


def best_checkpoint(folder: Path, score: Score) -> Path | None:
    """Returns the whole checkpoint with the highest score, the newest of equals; None if no checkpoint has a score."""
    return _best(_whole_states(folder), score)


def _another_lives(pid: int) -> bool:
    """Returns whether a process other than this one has this id."""
    try:
        # Signal 0 only asks.
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # The process lives and belongs to another user.
        pass
    return pid != os.getpid()


def prune_checkpoints(folder: Path, *, keep: int, score: Score, spare: Path | None = None) -> None:
    """Removes all checkpoints but the `keep` newest, the best one and `spare`.

    What dead processes left unfinished is removed, too.
    Damaged checkpoints do not count towards `keep`. Otherwise, after a fallback to an older one, the
    damaged newer one would displace what is saved next. Only the thread that saves may call this.
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
