"""The bench of learning: its plan, its rows from real runs, and its table against sums by hand."""

import csv
import sys

import numpy as np
import pytest

from envs.atari_scores import REFERENCE_SCORES
from tests.benchmarks import learning
from tests.commands import curves

SMALL = ("--workers", "0", "--envs-per-worker", "2", "--rollout-steps", "5", "--evaluate-games", "1")


def row(variant, game, score, normalised, seed=1):
    return dict(
        variant=variant,
        game=game,
        head="mlp",
        seed=seed,
        steps="100",
        score=score,
        human_normalised=normalised,
    )


def test_the_table_has_means_by_game_and_the_interquartile_mean_over_all_runs():
    rows = [
        row("base", game, score, normalised, seed)
        for game, scores in (("Pong", ((-20, 0.1), (-10, 0.3))), ("Breakout", ((2, 0.0), (8, 0.4))))
        for seed, (score, normalised) in enumerate(scores, start=1)
    ]
    (line,) = learning.table(rows)
    assert line["Pong"] == "-15.0 ± 7.1" and line["Breakout"] == "5.0 ± 4.2"
    # Of four scores the lowest and the highest are left out.
    assert line["IQM"] == "0.200" and line["n"] == 4
    low, high = map(float, line["interval"].split(" to "))
    assert 0.05 <= low < 0.2 < high <= 0.35
    (single,) = learning.table([row("base", "Pong", -20, 0.1)])
    assert single["Pong"] == "-20.0" and "interval" not in single


def test_published_scores_appear_for_known_games_only():
    assert learning.published(["Pong", "Boxing"])[1] == {
        "variant": "PPO2 (published)", "head": "", "steps": 500_000, "Pong": "-17.3",
    }  # fmt: skip


@pytest.mark.slow
def test_runs_are_trained_judged_and_not_repeated(tmp_path, monkeypatch, capsys):
    arguments = ["learning", "--games", "Breakout", "--heads", "mlp", "--seeds", "1", "--steps", "1000"]
    variants = ["--variant", "base:", "--variant", "small rate:--learning-rate 1e-5"]
    monkeypatch.setattr(
        sys,
        "argv",
        [*arguments, "--run-dir", str(tmp_path), *variants, "--", *SMALL, "--evaluate-episodes", "1"],
    )
    learning.main()
    first = (tmp_path / "runs.csv").read_text()
    rows = list(csv.DictReader(first.splitlines()))
    assert [each["variant"] for each in rows] == ["base", "small rate"]
    assert rows[1]["settings"].endswith("--evaluate-episodes 1 --learning-rate 1e-5")
    for each, variant in zip(rows, ("base", "small-rate"), strict=True):
        games = curves(tmp_path / variant / "Breakout-mlp-1-1000").Scalars("charts/episodic_return")
        score = np.mean([game.value for game in games])
        assert int(each["games"]) == len(games) > 0 and float(each["score"]) == pytest.approx(score, abs=1e-3)
        random, human = REFERENCE_SCORES["breakout"]
        expected = (float(each["score"]) - random) / (human - random)
        assert float(each["human_normalised"]) == pytest.approx(expected, abs=1e-4)
        assert float(each["evaluation"]) >= 0
    learning.main()
    assert (tmp_path / "runs.csv").read_text() == first
    assert capsys.readouterr().out.count("small rate") == 3  # the line of the run, and two tables
