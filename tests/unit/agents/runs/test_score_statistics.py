"""Statistics of scores against scipy, rliable and slow loops."""

import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_interquartile_mean_equals_scipys_trimmed_mean(scores):
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25), rel=1e-9, abs=1e-6)


def test_interquartile_mean_flattens_a_matrix():
    scores = np.random.default_rng(0).normal(size=(5, 7))
    assert interquartile_mean(scores) == pytest.approx(trim_mean(scores, 0.25, axis=None))


def test_interquartile_mean_ignores_one_outlier_among_eight():
    assert (
        interquartile_mean([0, 1, 2, 3, 4, 5, 6, 7]) == interquartile_mean([0, 1, 2, 3, 4, 5, 6, 1e9]) == 3.5
    )


@pytest.mark.parametrize("scores", [[], [1.0, float("nan"), 2.0, 3.0]])
def test_interquartile_mean_refuses_scores_that_have_none(scores):
    with pytest.raises(ValueError, match="interquartile mean of"):
        interquartile_mean(scores)


def slow_interval(strata, statistic, resamples, seed):
    """Computes the definition, one score at a time."""
    rng = random.Random(seed)
    estimates = sorted(
        statistic([rng.choice(stratum) for stratum in strata for _ in stratum]) for _ in range(resamples)
    )
    return estimates[round(0.025 * (resamples - 1))], estimates[round(0.975 * (resamples - 1))]


@pytest.mark.parametrize("statistic", [interquartile_mean, np.mean])
def test_interval_agrees_with_a_slow_obvious_loop(statistic):
    rng = np.random.default_rng(1)
    strata = [rng.normal(centre, 1.0, size=length).tolist() for centre, length in ((0, 5), (3, 12), (8, 8))]
    low, high = stratified_bootstrap_interval(strata, statistic=statistic, resamples=3000)
    slow_low, slow_high = slow_interval(strata, statistic, resamples=3000, seed=2)
    # Two bootstraps have other random numbers, so their ends differ by a few percent of the width.
    assert low == pytest.approx(slow_low, abs=0.06 * (high - low))
    assert high == pytest.approx(slow_high, abs=0.06 * (high - low))


def test_interval_agrees_with_rliable():
    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    # (runs, games). A stratum is a game.
    runs = np.random.default_rng(3).gamma(2.0, size=(10, 6))
    _, theirs = library.get_interval_estimates(
        {"agent": runs},
        lambda scores: np.array([metrics.aggregate_iqm(scores)]),
        reps=2000,
        random_state=np.random.RandomState(0),
    )
    low, high = stratified_bootstrap_interval(runs.T.tolist())
    assert [low, high] == pytest.approx(theirs["agent"][:, 0], abs=0.06 * (high - low))


def test_interval_covers_the_truth_as_often_as_it_promises():
    rng = np.random.default_rng(4)
    experiments = 100
    covered = 0
    for _ in range(experiments):
        # The mean of both strata is 0.
        strata = rng.normal(loc=[[-1.0], [1.0]], size=(2, 20))
        low, high = stratified_bootstrap_interval(strata, statistic=np.mean, confidence=0.9, resamples=150)
        covered += low <= 0.0 <= high
    # The bounds are 0.9 plus or minus 2.5 binomial sigmas.
    assert 0.82 <= covered / experiments <= 0.97


def test_scores_are_never_drawn_from_another_stratum():
    strata = [[0.0, 0.0, 0.0], [9.0, 9.0]]
    assert stratified_bootstrap_interval(strata, statistic=fmean) == pytest.approx((3.6, 3.6))


@pytest.mark.parametrize("strata", [[[9.0]], [[0.0, 1.0], [9.0]]])
def test_a_single_score_has_no_interval(strata):
    assert stratified_bootstrap_interval(strata) is None


def test_higher_confidence_gives_a_wider_interval():
    scores = [np.random.default_rng(5).normal(size=30).tolist()]
    low_99, high_99 = stratified_bootstrap_interval(scores, confidence=0.99)
    low_50, high_50 = stratified_bootstrap_interval(scores, confidence=0.5)
    assert low_99 < low_50 < interquartile_mean(scores) < high_50 < high_99


def test_the_seed_decides_the_interval():
    scores = [np.random.default_rng(6).normal(size=30).tolist()]
    first, again, other = (
        stratified_bootstrap_interval(scores, seed=seed, resamples=50) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("strata", [[], [[]], [[1.0], []]])
def test_interval_refuses_an_empty_stratum(strata):
    with pytest.raises(ValueError, match="at least one score in every stratum"):
        stratified_bootstrap_interval(strata)


@pytest.mark.parametrize("setting", [{"confidence": 95}, {"confidence": 0.0}, {"resamples": 0}])
def test_interval_refuses_settings_out_of_range_and_names_them(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        stratified_bootstrap_interval([[1.0, 2.0]], **setting)
