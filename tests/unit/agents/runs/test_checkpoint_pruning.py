"""The removal of old checkpoints, which spares the newest and the best."""

import os
import subprocess
import sys

import pytest

from agents.runs.checkpoints import (
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    prune_checkpoints,
)
from tests.unit.agents.runs.checkpoint_folders import save, steps


def by_score(state: dict) -> tuple[float] | None:
    return (state["score"],) if "score" in state else None


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step, score in enumerate([3.0, 9.0, 5.0, float("nan"), 1.0, 2.0]):
        save(tmp_path, step, score=score)
    # The newest has no score.
    save(tmp_path, 6)

    prune_checkpoints(tmp_path, keep=2, score=by_score)

    assert steps(tmp_path) == [6, 5, 1]
    assert best_checkpoint(tmp_path, by_score) == tmp_path / "step-000000000001"
    assert all(load_checkpoint(path) for path in list_checkpoints(tmp_path))


def test_pruning_removes_nothing_if_there_are_fewer_checkpoints_than_it_keeps(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)

    prune_checkpoints(tmp_path, keep=3, score=by_score)

    assert steps(tmp_path) == [2, 1]


def test_the_best_of_equals_is_the_newest_and_without_scores_there_is_none(tmp_path):
    for step in (1, 2):
        save(tmp_path, step, score=4.0)

    assert best_checkpoint(tmp_path, by_score) == tmp_path / "step-000000000002"
    assert best_checkpoint(tmp_path, lambda state: None) is None
    assert best_checkpoint(tmp_path / "nowhere", by_score) is None


def test_equal_first_numbers_of_scores_are_decided_by_the_second(tmp_path):
    scores = {1: (True, 3.0), 2: (False, 9.0), 3: (True, 4.0), 4: (True, float("nan"))}
    for step in scores:
        save(tmp_path, step, number=step)
    assert best_checkpoint(tmp_path, lambda state: scores[state["number"]]) == tmp_path / "step-000000000003"


def test_a_spared_checkpoint_stays_however_old_and_bad(tmp_path):
    for step in range(6):
        save(tmp_path, step, score=float(step))
    prune_checkpoints(tmp_path, keep=2, score=by_score, spare=tmp_path / "step-000000000001")
    assert steps(tmp_path) == [5, 4, 1]


@pytest.mark.parametrize("damage", [b"", b"\xff{", b"[]"])
def test_a_damaged_checkpoint_neither_stops_pruning_nor_displaces_a_good_one(tmp_path, damage):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, score=-float(step))
    for step in (2, 4):
        (tmp_path / f"step-{step:012d}" / "state.json").write_bytes(damage)

    prune_checkpoints(tmp_path, keep=1, score=by_score)

    assert steps(tmp_path) == [4, 3, 1]
    assert load_newest(tmp_path, warn=lambda line: None).step == 3


def test_pruning_removes_what_dead_processes_left_but_not_what_live_ones_write(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as finished:
        finished.wait()
    dead = tmp_path / f".step-000000000009.tmp-{finished.pid}"
    dead_and_ours = tmp_path / f".step-000000000009.replaced.tmp-{os.getpid()}"
    live = tmp_path / f".step-000000000009.tmp-{os.getppid()}"
    for path in (dead, dead_and_ours, live, tmp_path / ".stepping-stones"):
        path.mkdir()
        (path / "state.json").write_text("{}")

    prune_checkpoints(tmp_path, keep=1, score=by_score)

    assert sorted(os.listdir(tmp_path)) == sorted([live.name, ".stepping-stones"])
