"""Nodes that leave and join, and a job that is stopped."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.runs.checkpoints import list_checkpoints, load_newest
from tests.commands import ROOT, finished, start, wait_for


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


@pytest.mark.slow
def test_training_continues_when_a_node_leaves_and_uses_the_cores_of_a_node_that_joins():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    leaving = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    config = A3CConfig(env="Pong", head="mlp", workers="auto", envs_per_worker=2, rollout_steps=5)
    try:
        with start_training(config, address=cluster.address) as run:

            def advance_until(condition: Callable[[], object]) -> None:
                def advanced() -> object:
                    run.advance()
                    return condition()

                wait_for(advanced)

            def count_workers() -> int:
                """Counts the workers that have pushed, by their random states."""
                return len(run.snapshot().random_states)

            advance_until(lambda: count_workers() == 3)
            assert len(ray.nodes()) == 3 and run.drain().workers == 3
            cluster.remove_node(leaving)
            assert sum(node["Alive"] for node in ray.nodes()) == 2
            advance_until(lambda: run.drain().faults["restarts"] >= 1)
            updates = run.snapshot().updates
            # The two other workers continue, although there is no place for the third.
            advance_until(lambda: run.snapshot().updates > updates + 20)
            cluster.add_node(num_cpus=2)
            advance_until(lambda: count_workers() == 4)
            assert run.drain().workers == 4
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def cluster_with_token() -> Iterator[tuple[str, str]]:
    """The address of a cluster that `ray start` has started, and its token."""
    token, (port,) = "2" * 64, free_ports(1)
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        head = subprocess.Popen(
            [programs / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=1",
             "--include-dashboard=false", f"--temp-dir={folder}"],
            env=os.environ | {"RAY_AUTH_TOKEN": token}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            wait_for((Path(folder) / "ray_current_cluster").exists)
            yield (Path(folder) / "ray_current_cluster").read_text(), token
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            head.wait(timeout=60)


@pytest.mark.slow
def test_a_cluster_wants_its_token(cluster_with_token, tmp_path):
    address, token = cluster_with_token

    def refused(place: str, **environment: str) -> str:
        process = start(
            "train", "--workers", 1, "--address", place, "--run-dir", tmp_path / "run", **environment
        )
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and errors.count("\n") == 1 and not (tmp_path / "run").exists(), errors
        return errors

    # The environment of all tests has another token.
    for place in (address, "auto"):
        assert "wants its token" in refused(place) and "RAY_AUTH_TOKEN_PATH" in refused(place)
    assert "wants its token" in refused(address, RAY_AUTH_MODE="disabled")
    assert "wants its token" in refused(address, RAY_AUTH_TOKEN_PATH="/nonexistent")
    output = finished(
        start(
            "train", "--head", "mlp", "--workers", 1, "--envs-per-worker", 2, "--address", "auto", "--total-steps",
            100, "--evaluate-episodes", 0, "--run-dir", tmp_path / "run", RAY_AUTH_TOKEN=token,
        )
    )  # fmt: skip
    assert output.splitlines()[-1].startswith("resume")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sweep", "supervised"])
def test_an_address_that_answers_but_is_no_cluster_is_an_error_within_30_seconds(command, tmp_path):
    """A server that accepts connections and says nothing."""
    task = ("polynomials", "--seeds", 2) if command == "supervised" else ()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        process = start(command, *task, "--address", address, "--run-dir", tmp_path / "run")
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and errors.count("\n") == 1, output + errors
        assert errors.startswith(f"error: no Ray cluster at --address {address}")
        assert time.monotonic() - began < 30
        # A signal need not wait for that.
        process = start(command, *task, "--address", address, "--run-dir", tmp_path / "other")
        time.sleep(5)
        os.killpg(process.pid, signal.SIGTERM)
        output, errors = process.communicate(timeout=25)
        assert process.returncode == 143 and errors == "", output + errors
        assert "stopped" in output.splitlines()[-1]


@pytest.mark.slow
def test_ray_job_stop_ends_a_run_with_a_last_checkpoint(tmp_path):
    pytest.importorskip("aiohttp_cors", reason='ray job needs pip install "ray[default]"')
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "RAY_JOB_STOP_WAIT_TIME_S": "15"}
    folder = tmp_path / "run"
    port, dashboard, agent = free_ports(3)

    def run_ray(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [programs / "ray", *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180)

    head = subprocess.Popen(
        [
            programs / "ray", "start", "--head", "--block", f"--port={port}", "--include-dashboard=true",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", "--num-cpus=2",
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        address = ("--address", f"http://127.0.0.1:{dashboard}")
        submit = (
            "job", "submit", *address, "--no-wait", "--submission-id", "pong", "--working-dir", ".", "--",
            "python", "-m", "launch.train", "--address", "auto", "--workers", 1, "--envs-per-worker", 2,
            "--checkpoint-every", 100, "--run-dir", folder,
        )  # fmt: skip
        # The head takes a while to be ready.
        wait_for(lambda: run_ray(*submit).returncode == 0)
        wait_for(lambda: folder.exists() and list_checkpoints(folder / "checkpoints"))
        driver = next(
            process for process in psutil.process_iter(["cmdline"])
            if "launch.train" in (process.info["cmdline"] or ()) and str(folder) in process.info["cmdline"]
        )  # fmt: skip
        before = list_checkpoints(folder / "checkpoints")[0]
        stopped = time.monotonic()
        assert run_ray("job", "stop", "pong", *address).returncode == 0
        wait_for(lambda: not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE, seconds=20)
        assert time.monotonic() - stopped < 15, "the run was killed before it could stop"
        newest = load_newest(folder / "checkpoints", warn=pytest.fail)
        assert newest.path >= before
        assert (
            "stopped; continue with python -m launch.train --resume"
            in run_ray("job", "logs", "pong", *address).stdout
        )
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)
