"""Limiters: of true peaks, for a recording that can be read twice, and of samples, for one that streams.

Each millisecond has a true peak. Where that would pass the limit, the gain has to be lower; it falls towards
there at 1 dB a millisecond and comes back at 0.06, along lines in dB, so that no step is heard. What stays
below the limit by itself, and is that far from what does not, keeps every bit.
"""

from __future__ import annotations

from array import array

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]

STEP = 44
"""Samples that share a true peak: a millisecond at 44.1 kHz."""
ATTACK, RELEASE = 1.0, 0.06
"""dB for each step by which the gain falls before a peak, and rises behind it."""

_PHASES = 4
_TAPS = 24  # on both sides together; what passes beside them is below -60 dB
_QUIET = 1e-6


def _interpolators() -> FloatArray:
    """Rows of a filter bank: the values at 1/4, 2/4 and 3/4 between the two samples in its middle."""
    at = np.arange(1, _PHASES)[:, None] / _PHASES
    distance = np.arange(_TAPS) - (_TAPS // 2 - 1) - at
    window = np.i0(6.0 * np.sqrt(np.maximum(0.0, 1 - (2 * distance / _TAPS) ** 2))) / np.i0(6.0)
    rows = np.sinc(distance) * window
    normal: FloatArray = (rows / rows.sum(1, keepdims=True)).astype(np.float32)
    return normal


_BANK = _interpolators()


class TruePeaks:
    """The true peak of each step of a stream, as ITU-R BS.1770-5, annex 2, has it: 4 times oversampled."""

    def __init__(self, channels: int) -> None:
        """Begin a stream."""
        self._before = np.zeros((channels, _TAPS - 1), np.float32)
        self._waiting = np.zeros(0, np.float32)
        self._steps = array("f")
        self._skipped = _TAPS // 2  # outputs that lie before the first sample

    def push(self, block: Float[Tensor, "channel time"]) -> None:
        """Take the next ``block``."""
        self._take(block.numpy())

    def finish(self) -> FloatArray:
        """(step,) linear true peaks, of all that came. No more can be pushed."""
        self._take(np.zeros((len(self._before), _TAPS // 2), np.float32))
        if len(self._waiting):
            self._steps.append(float(self._waiting.max()))
        return np.frombuffer(self._steps, np.float32).copy()

    def _take(self, samples: FloatArray) -> None:
        for start in range(0, samples.shape[1], 1000 * STEP):  # a second stays in the cache
            joined = np.concatenate([self._before, samples[:, start : start + 1000 * STEP]], axis=1)
            self._before = joined[:, -(_TAPS - 1) :]
            # The peak of a sample is its own or, if higher, that of the curve up to the next one.
            between = [np.correlate(channel, row, "valid") for channel in joined for row in _BANK]
            own = joined[:, _TAPS // 2 - 1 : joined.shape[1] - _TAPS // 2]
            peaks = np.abs(np.concatenate([own, between])).max(0)
            skipped = min(self._skipped, len(peaks))
            self._skipped -= skipped
            peaks = np.concatenate([self._waiting, peaks[skipped:]])
            whole = len(peaks) // STEP * STEP
            self._steps.extend(peaks[:whole].reshape(-1, STEP).max(1).tolist())
            self._waiting = peaks[whole:]


class Limiter:
    """The gain of each sample of a stream whose true peaks are known."""

    def __init__(self, peaks: FloatArray, gain: float, limit: float) -> None:
        """Find the gain.

        Args:
            peaks: (step,) of the stream, linear.
            gain: that all of it is to have where nothing forbids, in dB.
            limit: highest true peak of what comes out, in dBFS.
        """
        over = np.minimum(0, limit - gain - 20 * np.log10(np.maximum(peaks.astype(float), _QUIET)))
        lowered = _approached(_released(over))
        self.reduction = max(0.0, float(-lowered.min())) if len(lowered) else 0.0
        """By how many dB the gain is lowered at most."""
        padded = np.pad(lowered, 1, mode="edge") if len(lowered) else np.zeros(2)
        borders = np.minimum(padded[:-1], padded[1:])
        self._gains = 10 ** ((borders + gain) / 20)

    def gains(self, start: int, stop: int) -> FloatArray:
        """(time,) linear gains of the samples from ``start`` to ``stop``."""
        if not self.reduction:
            return np.full(stop - start, self._gains[0], np.float32)
        first, last = start // STEP, -(-stop // STEP) + 1
        known = self._gains[first:last]
        at = np.arange(start, stop) / STEP - first
        return np.interp(at, np.arange(len(known)), known).astype(np.float32)


class Ceiling:
    """Keeps the samples of a stream within full scale, for formats that clip; it is 60 ms behind."""

    _AHEAD = 60
    """Steps: peaks up to so many dB above full scale are approached at the limiter's pace."""

    def __init__(self, channels: int) -> None:
        """Begin a stream."""
        self._waiting = np.zeros((channels, 0), np.float32)
        self._risen = self._border = 0.0  # dB, where the last step ended
        self.reduction = 0.0
        """By how many dB the gain was lowered at most, so far."""

    def push(self, block: Float[Tensor, "channel time"]) -> Float[Tensor, "channel time_out"]:
        """Take the next ``block``; what is ready."""
        self._waiting = np.concatenate([self._waiting, block.numpy()], axis=1)
        return self._take(max(0, self._waiting.shape[1] // STEP - self._AHEAD))

    def finish(self) -> Float[Tensor, "channel time_out"]:
        """The rest."""
        return self._take(-(-self._waiting.shape[1] // STEP))

    def _take(self, steps: int) -> Tensor:
        samples, length = self._waiting, min(steps * STEP, self._waiting.shape[1])
        self._waiting = samples[:, length:]
        peaks = np.abs(samples).max(0)
        if not length or (peaks.max() <= 1 and self._risen == self._border == 0):
            return torch.from_numpy(samples[:, :length])  # every bit of it
        peaks = np.pad(peaks, (0, -len(peaks) % STEP)).reshape(-1, STEP).max(1)
        over = np.minimum(0, -20 * np.log10(np.maximum(peaks.astype(float), _QUIET)))
        released = np.minimum(_released(over), self._risen + RELEASE * np.arange(1, len(over) + 1))
        lowered = _approached(released)
        borders = np.minimum(lowered, np.append(lowered[1:], 0.0))[:steps]  # each step's right one
        known = 10 ** (np.append(self._border, borders) / 20)
        gains = np.interp(np.arange(length) / STEP, np.arange(steps + 1), known)
        self._risen, self._border = float(released[steps - 1]), float(borders[-1])
        self.reduction = max(self.reduction, -float(borders.min()))
        return torch.from_numpy(samples[:, :length] * gains.astype(np.float32))


def _released(over: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest dB that rise by no more than `RELEASE` a step."""
    slope = RELEASE * np.arange(len(over))
    risen: NDArray[np.float64] = np.minimum.accumulate(over - slope) + slope
    return risen


def _approached(released: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest dB that fall by no more than `ATTACK` a step."""
    slope = ATTACK * np.arange(len(released))
    fallen: NDArray[np.float64] = np.minimum.accumulate(released[::-1] - slope) + slope
    return fallen[::-1]
