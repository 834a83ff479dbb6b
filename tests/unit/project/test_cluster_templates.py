"""The templates of docs/cluster, against what their readers want."""

import pytest
import yaml

from tests.commands import ROOT

FOLDER = ROOT / "docs" / "cluster"


def test_ray_takes_the_template_for_ray_up():
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((FOLDER / "ray-up.yaml").read_text())
    util.validate_config(util.prepare_config(config))
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert any("RAY_AUTH_MODE=token" in command and "ray start" in command for command in commands)


def test_the_ray_job_has_a_token_and_a_place_for_its_run_on_every_node_that_needs_them():
    spec = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())["spec"]
    cluster = spec["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    (workers,) = (group["template"]["spec"]["containers"][0] for group in cluster["workerGroupSpecs"])
    for container in (head, workers):
        environment = {variable["name"]: variable for variable in container["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in environment["RAY_AUTH_TOKEN"]["valueFrom"]
    (mount,) = head["volumeMounts"]
    assert f"--run-dir {mount['mountPath']}/" in spec["entrypoint"]
