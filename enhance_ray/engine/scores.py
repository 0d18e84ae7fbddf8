"""What a recording's record says of its quality, before and after: cheap enough for every one of a petabyte.

A small net (`models.opinion`) estimates what listeners would say, and hears six seconds of every half minute:
those where the output is loudest, from both sides. Everything else would cost more than the models do.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from enhance_ray import metrics
from enhance_ray.engine.analysis import Piece
from enhance_ray.models import opinion
from enhance_ray.settings.options import MODEL_RATE

WINDOW = 6 * MODEL_RATE
"""Samples that are heard at once."""
EVERY = 28 * MODEL_RATE
"""Least distance between two windows, in samples: segments of 30 s, less overlap, are heard once each."""
_GRAIN = MODEL_RATE // 10  # to which the loudest window is found


class Scores:
    """Collects the scores of one recording."""

    def __init__(self) -> None:
        self._next = 0
        self._heard: list[Tensor] = []

    def hear(self, piece: Piece, output: Float[Tensor, "channel time"]) -> None:
        """Take the next piece of the recording, and what becomes of it in the output."""
        if piece.segment.start < self._next:
            return
        self._next = piece.segment.start + EVERY
        length = output.shape[-1]
        both = torch.stack([piece.rows[:, :length], output]).mean(dim=1)
        start = _loudest(both[1])
        self._heard.append(opinion.load()(both[:, start : start + WINDOW]))

    def result(self) -> dict[str, float]:
        """Means, by name of the metric with `_in` or `_out` behind it; empty if there was nothing to hear."""
        if not self._heard:
            return {}
        before, after = torch.stack(self._heard).mean(dim=0).tolist()
        sides = (("_in", before), ("_out", after))
        return {
            f"{name}{side}": round(value, 3)
            for side, values in sides
            for name, value in zip(metrics.OPINIONS, values, strict=True)
        }


def _loudest(waveform: Float[Tensor, " time"]) -> int:
    """Where the `WINDOW` with the most energy begins; 0 in what is no longer than that."""
    spare = len(waveform) - WINDOW
    if spare <= 0:
        return 0
    grains = len(waveform) // _GRAIN
    energy = waveform[: grains * _GRAIN].view(grains, _GRAIN).square().sum(dim=1)
    windows = energy.unfold(0, WINDOW // _GRAIN, 1).sum(dim=1)
    return min(int(windows.argmax()) * _GRAIN, spare)
