"""The statistics of scores: interquartile mean, and stratified bootstrap interval.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS
2021, and its library rliable. Scores of different games must be on one scale before they are pooled
(`envs.atari_scores.human_normalised_score`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def interquartile_mean(scores: ArrayLike) -> float:
    """Returns the mean of the middle half of `scores`, of any shape.

    The lowest and the highest quarter are left out. A quarter is rounded down to whole scores, as in
    scipy.stats.trim_mean(scores, 0.25, axis=None). So nothing is left out of fewer than four.

    Raises:
        ValueError: there is no score, or one is NaN.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if ordered.size == 0:
        raise ValueError("interquartile mean of no scores")
    # A NaN is sorted last, where it would be left out in silence.
    if np.isnan(ordered[-1]):
        raise ValueError("interquartile mean of scores that contain NaN")
    quarter = ordered.size // 4
    return float(ordered[quarter : ordered.size - quarter].mean())


def stratified_bootstrap_interval(
    strata: Sequence[Sequence[float]],
    *,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Returns the percentile bootstrap interval (low, high) of a statistic of all strata's pooled scores.

    None if a stratum has a single score, because one score says nothing about its spread.

    Each resample draws, with replacement and within each stratum, as many scores as that stratum holds.
    Longer strata weigh more. The interval measures the spread within strata. Over episodes of one run, it
    does not say how another training run would score. Over the results of several runs, it does.

    Args:
        strata: the episode scores of each policy, run or game.
        statistic: takes all N scores, (N,) float64.
        confidence: the share of the resamples within the interval.
        resamples: the number of resamples.
        seed: decides what is drawn.

    Raises:
        ValueError: there is no stratum, a stratum is empty, or `confidence` or `resamples` is out of range.
    """
    lengths = np.array([len(stratum) for stratum in strata], dtype=np.int64)
    if lengths.size == 0 or not lengths.all():
        raise ValueError(f"need at least one score in every stratum, got lengths {lengths.tolist()}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if lengths.min() == 1:
        return None

    scores = np.concatenate([np.asarray(stratum, dtype=np.float64) for stratum in strata])  # (N,)
    # Where the stratum of each score begins and ends: (N,).
    end = np.repeat(lengths.cumsum(), lengths)
    start = end - np.repeat(lengths, lengths)
    generator = np.random.default_rng(seed)
    estimates = [statistic(scores[generator.integers(start, end)]) for _ in range(resamples)]
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
