"""The loudness of an output, which is known at its end."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from enhance_ray.dsp.levels import Meter
from enhance_ray.dsp.limiter import Limiter, TruePeaks
from enhance_ray.settings.options import MODEL_RATE

MOST_REDUCTION = 12.0
"""dB that a limiter may take from what is loud for longer than a click is: more is heard."""
_CLICKS = 0.005  # share of the time that may be louder

_SPOOLED_IN_MEMORY = 64 * 2**20  # bytes
_MARGIN = 0.05  # dB below the limit: the curve between the samples is an estimate, and the gain moves
_NEAR = 0.05  # LU
_TRIES = 5
_TOLERANCE = 0.5  # LU, beyond which the user is told (EBU Tech 3341 allows a meter 0.1)


class LoudnessSpool:
    """Holds an output back, beyond 64 MB in a temporary file, until its loudness is known.

    The alternative would be to run the model twice. Peaks that would pass the limit are limited; what that
    takes from the loudness is made up for.
    """

    def __init__(self, target: float, peak_limit: float) -> None:
        """Begin an output.

        Args:
            target: integrated loudness, in LUFS.
            peak_limit: highest true peak, in dBTP.
        """
        self._target = target
        self._limit = peak_limit
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOLED_IN_MEMORY)  # noqa: SIM115 - closed by drain
        self._meter: Meter | None = None
        self._peaks: TruePeaks | None = None
        self._lengths: list[tuple[int, int]] = []
        self.warning: str | None = None
        self.reduction = 0.0
        """By how many dB peaks were lowered at most; known when it is drained."""

    def add(self, block: Tensor) -> None:
        self._meter = self._meter or Meter(MODEL_RATE, len(block))
        self._meter.push(block)
        self._peaks = self._peaks or TruePeaks(len(block))
        self._peaks.push(block)
        self._file.write(block.contiguous().numpy().tobytes())
        self._lengths.append((block.shape[0], block.shape[1]))

    def drain(self) -> Iterator[Tensor]:
        limiter = self._limiter()
        self.reduction = limiter.reduction
        with self._file:
            yield from self._through(limiter)

    def _through(self, limiter: Limiter) -> Iterator[Tensor]:
        self._file.seek(0)
        position = 0
        for channels, length in self._lengths:
            samples = np.frombuffer(self._file.read(4 * channels * length), dtype=np.float32)
            gains = limiter.gains(position, position + length)
            yield torch.from_numpy(samples.reshape(channels, length) * gains)
            position += length

    def _limiter(self) -> Limiter:
        """With the gain that leads to the target, or as near as the limit allows."""
        if self._meter is None or self._peaks is None or self._meter.loudness == -math.inf:
            self.warning = "it is too short or too quiet to have a loudness; its level was left as it is"
            return Limiter(np.zeros(0, np.float32), 0.0, 0.0)
        peaks = self._peaks.finish()
        limit = self._limit - _MARGIN
        highest = limit + MOST_REDUCTION - 20 * math.log10(max(float(np.quantile(peaks, 1 - _CLICKS)), 1e-6))
        gain = min(self._target - self._meter.loudness, highest)
        reached = self._meter.loudness + gain
        for _ in range(_TRIES):
            limiter = Limiter(peaks, gain, limit)
            if limiter.reduction:
                meter = Meter(MODEL_RATE, self._lengths[0][0])
                for block in self._through(limiter):
                    meter.push(block)
                reached = meter.loudness
            if abs(self._target - reached) < _NEAR or gain == highest:
                break
            gain = min(gain + self._target - reached, highest)
        if abs(self._target - reached) > _TOLERANCE:
            self.warning = (
                f"its loudness is {reached:.1f} LUFS, not {self._target:.1f}: a limiter would have to take "
                f"more than {MOST_REDUCTION:.0f} dB to keep it below {self._limit:g} dBTP"
            )
        return limiter
