"""The benchmark of wall clock to a score: what it counts."""

import math
from pathlib import Path

from agents.runs.checkpoints import save_checkpoint
from tests.benchmarks.time_to_score import first_to_reach, recent_mean


def test_the_first_checkpoint_at_the_score_counts_and_later_ones_are_not_played():
    means = {Path("a"): 12.0, Path("b"): 18.0, Path("c"): 20.0}
    played = []

    def play(path: Path) -> float:
        played.append(path)
        return means[path]

    assert first_to_reach(18.0, list(means), play) == (Path("b"), 18.0)
    assert played == [Path("a"), Path("b")]


def test_a_run_that_never_reaches_the_score_has_no_time():
    assert first_to_reach(18.0, [Path("a")], lambda _: 17.9) is None


def test_the_last_games_are_those_before_the_checkpoint_and_too_few_have_no_mean(tmp_path):
    checkpoint = save_checkpoint(tmp_path, 7, {}, {"recent_returns": [-21.0] * 10 + [15.0, 17.0] * 5})
    assert recent_mean(checkpoint, 10) == 16.0
    assert recent_mean(checkpoint, 21) == -math.inf
