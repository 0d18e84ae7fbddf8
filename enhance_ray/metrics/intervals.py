"""Means of many scores, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int
    """How many values were defined."""


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of ``values`` and its percentile bootstrap interval (Efron 1979); nan values are left out.

    Give it differences of paired scores to ask whether one system is ahead of another on the same inputs.
    """
    defined = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
    if defined.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(defined.size, size=(resamples, defined.size))
    low, high = np.quantile(defined[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(defined.mean()), float(low), float(high), int(defined.size))
