"""Rules of the benchmark of wall-clock time to a score."""

import math
import sys
from pathlib import Path

import pytest

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.runs.checkpoints import save_checkpoint
from tests.benchmarks import time_to_score
from tests.benchmarks.time_to_score import STOP_AFTER, figures, first_to_hold, is_over, main, recent_mean


def chosen(*means: float) -> tuple[tuple[Path, float] | None, int]:
    """Returns the choice of `first_to_hold` among checkpoints 0, 1, ... with these means, and how many play."""
    played = []

    def play(path: Path) -> float:
        played.append(path)
        return means[int(path.name)]

    return first_to_hold(18.0, [Path(str(number)) for number in range(len(means))], play), len(played)


def save(run: Path, step: int, *returns: float) -> Path:
    state = {"recent_returns": list(returns), "env_steps": step}
    return save_checkpoint(run / "checkpoints", step, {}, state)


def test_the_first_of_two_checkpoints_in_a_row_at_the_score_counts_and_later_ones_are_not_played():
    assert chosen(12.0, 18.0, 18.5, 20.0) == ((Path("1"), 18.0), 3)


def test_a_checkpoint_at_the_score_does_not_count_if_the_next_one_has_lost_it():
    assert chosen(18.5, 17.9, 19.0, 20.0) == ((Path("2"), 19.0), 4)


def test_a_run_that_never_holds_the_score_has_no_time():
    assert chosen(17.9, 17.9) == (None, 2)
    assert chosen(18.5, 12.0, 18.5) == (None, 3)


def test_the_last_games_are_those_before_the_checkpoint_and_too_few_have_no_mean(tmp_path):
    checkpoint = save(tmp_path, 7, *[-21.0] * 10, *[15.0, 17.0] * 5)
    assert recent_mean(checkpoint, 10) == 16.0
    assert recent_mean(checkpoint, 21) == -math.inf


def test_a_checkpoint_has_all_games_that_decide_when_to_stop():
    server = ParameterServer(A3CConfig(head="mlp"))
    server.recent_returns.extend([18.0] * 100)
    assert len(server.snapshot().recent_returns) >= STOP_AFTER


def test_a_run_is_over_with_the_checkpoint_after_the_one_that_has_passed_the_score(tmp_path):
    early, past = save(tmp_path, 1, *[17.0] * STOP_AFTER), save(tmp_path, 2, *[18.0] * STOP_AFTER)
    after = save(tmp_path, 3, *[12.0] * STOP_AFTER)
    ends = [is_over([early, past, after][:seen], 18.0) for seen in range(4)]
    assert ends == [False, False, False, True]


@pytest.fixture
def evaluations(monkeypatch) -> list[tuple[str, int, int]]:
    """A list of checkpoint, games and seed of each evaluation, whose mean is 18.5 for seed 1 and 19.25 for another."""
    made = []

    def evaluate(checkpoint: Path, *, episodes: int, seed: int = 1) -> dict:
        made.append((checkpoint.name, episodes, seed))
        mean, interval = (18.5, [18.0, 19.0]) if seed == 1 else (19.25, [18.5, 20.0])
        return {"mean": mean, "mean_ci95": interval}

    monkeypatch.setattr(time_to_score, "evaluate", evaluate)
    return made


def test_the_winner_is_confirmed_by_30_games_of_another_seed(tmp_path, evaluations):
    near, next_one = save(tmp_path, 200, *[11.0] * 20), save(tmp_path, 300, *[5.0] * 20)
    save(tmp_path, 100, *[-20.0] * 20)
    row = figures(tmp_path, near.stat().st_mtime - 50, 18.0)
    # The next checkpoint plays whatever its training games were.
    assert evaluations == [(near.name, 10, 1), (next_one.name, 10, 1), (near.name, 30, 2)]
    assert row["reached"] and row["agent_steps"] == 200 and row["steps_per_second"] == 4
    assert row["mean"] == 18.5
    assert (row["confirmed_mean"], row["confirmed_low"], row["confirmed_high"]) == (19.25, 18.5, 20.0)


def test_no_checkpoint_of_a_run_plays_if_it_was_never_near_the_score(tmp_path, evaluations):
    checkpoint = save(tmp_path, 100, *[3.0] * 20)
    row = figures(tmp_path, checkpoint.stat().st_mtime - 50, 18.0)
    assert evaluations == [] and not row["reached"] and row["mean"] == 3.0 and "confirmed_mean" not in row


def test_a_table_of_an_earlier_version_is_not_continued(tmp_path, monkeypatch, capsys):
    (tmp_path / "times.csv").write_text("head,seed,minutes\nmlp,1,30\n")
    # No run may begin.
    monkeypatch.setattr(time_to_score, "train", None)
    monkeypatch.setattr(sys, "argv", ["time_to_score", "--run-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "name another --run-dir" in capsys.readouterr().err
