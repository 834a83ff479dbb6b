"""The room of a Ray cluster, computed from its nodes."""

import os
import subprocess
import sys

import pytest
import ray

from agents.errors import TrainingError
from agents.ray_cluster import available_cores, check_room
from tests.commands import ROOT


def test_a_user_without_an_account_has_a_home_for_ray():
    code = (
        "import pwd; pwd.getpwuid = lambda uid: {}[uid]\nimport agents, pathlib; print(pathlib.Path.home())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    program = [sys.executable, "-c", code]
    assert subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True).stdout == "/\n"


def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict:
    resources = {"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {})
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "room"),
    [
        ([node(8)], 1, 0, 8),
        ([node(8), node(8), node(8), node(8)], 16, 0, 0),
        ([node(3), node(3)], 2, 0, 2),
        ([node(16, 2)], 1, 0.6, 2),
        ([node(16, 1)], 1, 0.1, 10),
        ([node(16, 1), node(4)], 1, 0.25, 4),
        ([node(2), node(2, alive=False)], 1, 0, 2),
    ],
)
def test_there_is_room_for_as_many_actors_as_fit_into_single_nodes(nodes, cpus, gpus, room, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_room(room, "workers", cpus=cpus, gpus=gpus)
    with pytest.raises(TrainingError, match=f"the Ray cluster has room for {room};"):
        check_room(room + 1, "workers", cpus=cpus, gpus=gpus)


def test_the_error_names_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [node(16, 2)])
    with pytest.raises(TrainingError, match=r"^3 workers of 2 CPUs and 0\.6 GPU each are asked for"):
        check_room(3, "workers", cpus=2, gpus=0.6)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 3), ("250000 100000", 2), ("900000 100000", 3), ("50000 100000", 1), ("?", 3), (None, 3)],
)
def test_the_cores_are_those_that_the_process_may_use(quota, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 4, 7})
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cores(tmp_path / "cpu.max") == cores
