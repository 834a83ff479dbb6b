"""The choice of a run's best checkpoint."""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.actor_critic.config import RECENT_EPISODES
from agents.runs.best import find_checkpoints, score
from agents.runs.checkpoints import Score, best_checkpoint, list_checkpoints, prune_checkpoints
from tests.unit.agents.runs.checkpoint_folders import save

# Games between two checkpoints. A game of Pong is long.
GAMES = 10


def skill(step: int) -> float:
    """Returns the score after a number of checkpoints of a rising and falling run: 19 at the 12th, -10 at the end."""
    return float(np.interp(step, [0, 8, 12, 16, 40], [-21, -15, 19, -10, -10]))


def old_score(state: dict[str, Any]) -> tuple[float] | None:
    """Returns the mean of the last 100 training games, by the rule of an old version."""
    return (float(np.mean(state["all_returns"])),) if state["all_returns"] else None


def best_skill(folder: Path, rule: Score, *, evaluated: bool) -> float:
    """Returns the skill of a run's best checkpoint by a rule.

    At every step the run keeps three checkpoints and the best.
    """
    returns: deque[float] = deque(maxlen=100)
    random = np.random.default_rng(0)
    for step in range(41):
        state: dict[str, Any] = {
            "recent_returns": list(returns)[-RECENT_EPISODES:],
            "all_returns": list(returns),
        }
        if evaluated:
            state["evaluation"] = {"mean_return": skill(step) + random.normal()}
        save(folder, step, **state)
        prune_checkpoints(folder, keep=3, score=rule)
        returns.extend(skill(step) + random.normal(size=GAMES))
    best = best_checkpoint(folder, rule)
    assert best is not None and len(list_checkpoints(folder)) <= 4
    return skill(int(best.name.removeprefix("step-")))


def test_a_run_that_rises_and_falls_keeps_its_peak_and_loses_it_by_the_old_rule(tmp_path):
    assert best_skill(tmp_path / "evaluated", score, evaluated=True) == 19
    assert best_skill(tmp_path / "games", score, evaluated=False) > 0
    assert best_skill(tmp_path / "old", old_score, evaluated=True) < 0


def test_an_evaluated_checkpoint_is_better_than_any_with_training_games_alone(tmp_path):
    save(tmp_path / "checkpoints", 1, recent_returns=[20.0] * 20)
    save(tmp_path / "checkpoints", 2, recent_returns=[-21.0], evaluation={"mean_return": 3.0})
    save(tmp_path / "checkpoints", 3, recent_returns=[], evaluation={"mean_return": 2.0})
    assert [path.name[-1] for path in find_checkpoints(tmp_path, best=True)] == ["2"]
    assert [path.name[-1] for path in find_checkpoints(tmp_path, best=False)] == ["3", "2", "1"]


def test_without_evaluations_the_last_twenty_games_decide():
    assert score({"recent_returns": [100.0] * 80 + [1.0, 3.0] * 10}) == (False, 2.0)
    assert score({"recent_returns": [5.0]}) == (False, 5.0)
    assert score({"recent_returns": []}) is score({}) is None


@pytest.mark.parametrize(
    "evaluation", ["19", 7, [1], {"mean_return": None}, {"mean_return": "x"}, {"mean": 3}]
)
def test_a_state_with_a_malformed_evaluation_has_no_score(evaluation):
    assert score({"evaluation": evaluation, "recent_returns": [1.0]}) is None


@pytest.mark.parametrize("returns", ["19", 7, {"mean": 3}, [None], ["x"], [[1], [2, 3]]])
def test_games_that_are_no_numbers_have_no_score(returns):
    assert score({"recent_returns": returns}) is None


def test_a_folder_without_checkpoints_is_refused_in_one_line(tmp_path):
    for best in (False, True):
        with pytest.raises(ValueError, match="neither a run folder with checkpoints nor a checkpoint folder"):
            find_checkpoints(tmp_path, best=best)
    checkpoint = save(tmp_path / "checkpoints", 1)
    with pytest.raises(ValueError, match="no checkpoint with an evaluation or a finished game yet"):
        find_checkpoints(tmp_path, best=True)
    assert find_checkpoints(checkpoint, best=True) == [checkpoint]
