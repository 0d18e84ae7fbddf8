"""How far a net agrees with DNSMOS on clips that it did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import scipy
import torch
from jaxtyping import Float32

from enhance_ray.models.opinion import OpinionNet
from enhance_ray.training.mos.clips import SCALES
from enhance_ray.training.mos.collection import Rated

Ratings = Float32[np.ndarray, "clip scale=3"]


def evaluate(net: OpinionNet, rated: Rated) -> str:
    """Markdown: how far ``net`` agrees with DNSMOS, by kind of clip, and on gains over the input.

    Of files the mean over windows is compared. Of a single clip there is no correlation.
    """
    with torch.inference_mode():
        judged = torch.cat([net.judge(part.float()) for part in rated.features.split(64)])
    estimates = judged.reshape(len(rated.ratings), -1, len(SCALES)).mean(dim=1).numpy()
    ratings = rated.ratings.numpy()
    known = ("input", "denoised", "enhanced")
    rows = {"all": (estimates, ratings)}
    for kind in known:
        chosen = rated.kinds == kind
        rows[kind] = (estimates[chosen], ratings[chosen])
    spoiled = ~np.isin(rated.kinds, known)
    rows["spoiled"] = (estimates[spoiled], ratings[spoiled])
    first = np.searchsorted(rated.groups, rated.groups)
    for kind in known[1:]:
        after = np.flatnonzero(rated.kinds == kind)
        before = first[after]
        rows[f"{kind} - input"] = (estimates[after] - estimates[before], ratings[after] - ratings[before])
    return _table(rows)


def _table(rows: Mapping[str, tuple[Ratings, Ratings]]) -> str:
    """Markdown: Pearson's r, Spearman's rho, RMSE and bias of estimates of ratings, by scale."""
    lines = [
        "| sounds | count | scale | Pearson ↑ | Spearman ↑ | RMSE ↓ | bias |",
        "|---|---:|---|" + "---:|" * 4,
    ]
    for title, (estimates, ratings) in rows.items():
        for scale, estimate, rating in zip(SCALES, estimates.T, ratings.T, strict=True):
            numbers = ("-" if math.isnan(number) else f"{number:.3f}" for number in _agree(estimate, rating))
            lines.append(f"| {' | '.join([title, str(len(rating)), scale.upper(), *numbers])} |")
    return "\n".join(lines)


def _agree(estimate: Float32[np.ndarray, " clip"], rating: Float32[np.ndarray, " clip"]) -> list[float]:
    if len(rating) == 0:
        return [math.nan] * 4
    error = estimate - rating
    correlations = [math.nan, math.nan]
    if len(rating) > 1:
        tests = (scipy.stats.pearsonr, scipy.stats.spearmanr)
        correlations = [float(test(estimate, rating).statistic) for test in tests]
    return [*correlations, float(np.sqrt(np.square(error).mean())), float(error.mean())]
