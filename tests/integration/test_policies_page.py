"""The examples of docs/policies.md run as they are printed."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.actor_critic.config import PolicySettings
from tests.commands import ROOT
from tests.unit.agents.runs.saved_runs import save

PAGE = ROOT / "docs" / "policies.md"
CONFIG = A3CConfig(env="Pong", head="neurocoder")


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The current folder, with an untrained policy in runs/pong. Its games are cut after 200 steps."""
    monkeypatch.chdir(tmp_path)
    game = PolicySettings.game
    monkeypatch.setattr(PolicySettings, "game", lambda config: replace(game(config), max_frames=800))
    server = ParameterServer(CONFIG)
    save(tmp_path / "runs" / "pong" / "checkpoints", server.snapshot(), CONFIG)
    return tmp_path


def test_the_examples_run_from_top_to_bottom(runs, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    assert len([line for line in blocks[0].splitlines() if line.strip() and "import" not in line]) <= 10
    names: dict = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(block, names)
    assert len(names["scores"]) == 8 and all(-21 <= score <= 21 for score in names["scores"])
    assert (runs / "game.mp4").stat().st_size > 10_000
    assert names["opinion"].probabilities.sum() == pytest.approx(1.0)
    assert names["result"].stopped and (runs / "runs" / "sticky" / "config.json").exists()
    assert "starting from the weights of runs/pong" in capsys.readouterr().out


PLAY = """
import sys
from agents import load_policy
from envs import make_game
policy = load_policy("runs/pong")
game = make_game(policy.settings)
frame, info = game.reset(seed=1)
state = policy.initial_state()
for _ in range(3):
    action, state = policy.act(frame, state)
    frame, *_ = game.step(action)
print([name for name in sys.modules if name.split(".")[0] in ("launch", "ray", "tensorboard", "tyro")])
"""


def test_a_policy_is_played_without_a_command_and_without_ray(runs):
    done = subprocess.run(
        [sys.executable, "-c", PLAY],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
