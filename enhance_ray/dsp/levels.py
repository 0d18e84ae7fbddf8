"""Levels: the gain curve under which a model sees a recording, and a meter of peak and loudness.

The models were trained on material at full scale. One gain for each segment would jump at the seams and
follow its loudest click. Here the gain is a function of absolute time alone, so that both sides of a
seam see the same. Every block of 10 ms has a peak p, and

    level  = the 5th largest p within 3 s on both sides, averaged over 1 s on both sides
    curve  = the largest level, p or floor of the two blocks at a border; straight lines between borders

so |waveform / curve| <= 1 everywhere, and a click, which fills less than five blocks, bends the curve
only while it lasts.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float32]

BLOCK = 441
"""Samples of one block of the gain curve: 10 ms at 44.1 kHz."""
FLOOR = 1e-3
"""Smallest gain of the curve, -60 dBFS: what is quieter is left quiet."""

_SPAN = 300  # blocks on each side among which the level is found
_RANK = 5  # it is the 5th largest peak: one that lasts, not a click
_SMOOTHING = 100  # blocks on each side over which it is averaged
_RUN = 64  # samples that `_Sections` filters by one row of a matrix
_RUNS_PER_PRODUCT = 32  # few enough for OpenBLAS to use one thread: its others would wait, spinning, for more


class GainCurve:
    """The gain of each sample of a stream: divide by it before a model, multiply by it after.

    It looks ahead about four seconds. The channels of a recording share one curve: their balance stays.
    """

    def __init__(self, *, live: bool = False) -> None:
        """Begin a stream.

        Args:
            live: look ahead 10 ms alone, and behind as ever, for sound that must not wait.
        """
        ahead = 0 if live else 1
        self._samples = torch.zeros(0)  # of a block that is not yet complete
        self._peaks = np.zeros(0, dtype=np.float32)  # of blocks whose level is not yet known
        self._ranked = _Sliding(
            _SPAN, ahead * _SPAN, 0, lambda peaks: np.partition(peaks, -_RANK)[..., -_RANK]
        )
        self._smoothed = _Sliding(
            _SMOOTHING, ahead * _SMOOTHING, math.nan, lambda levels: np.nanmean(levels, axis=-1)
        )
        self._neighbours = _Sliding(1, 1, 0, np.copy)
        self._missing = 0

    def push(self, block: Float[Tensor, "channel time"]) -> Float[Tensor, " decided"]:
        """Take the next ``block``; return the gains of the next samples that are now decided."""
        self._missing += block.shape[-1]
        loudest = torch.cat([self._samples, block.abs().amax(0)])
        whole = len(loudest) // BLOCK * BLOCK
        self._samples = loudest[whole:].clone()
        peaks = loudest[:whole].view(-1, BLOCK).amax(-1).numpy()
        levels = self._smoothed.push(self._ranked.push(peaks))
        return self._gains(self._neighbours.push(self._controls(peaks, levels)))

    def finish(self) -> Float[Tensor, " rest"]:
        """Return the gains of all samples that are left. The curve cannot be used any more."""
        peaks = self._samples.amax(0, keepdim=True).numpy() if len(self._samples) else self._samples.numpy()
        levels = np.concatenate([self._ranked.push(peaks), self._ranked.finish()])
        levels = np.concatenate([self._smoothed.push(levels), self._smoothed.finish()])
        controls = self._controls(peaks, levels)
        return self._gains(np.concatenate([self._neighbours.push(controls), self._neighbours.finish()]))

    def _controls(self, peaks: FloatArray, levels: FloatArray) -> FloatArray:
        """The curve over blocks whose ``levels`` have become known, queueing those of ``peaks``."""
        self._peaks = np.concatenate([self._peaks, peaks])
        decided, self._peaks = np.split(self._peaks, [len(levels)])
        controls: FloatArray = np.maximum(decided, levels)
        return controls.clip(min=FLOOR)

    def _gains(self, controls: Float32[np.ndarray, "block 3"]) -> Float[Tensor, " decided"]:
        before, here, after = torch.from_numpy(controls).T[..., None]
        left, right = torch.maximum(before, here), torch.maximum(here, after)
        gains = torch.lerp(left, right, torch.arange(BLOCK) / BLOCK).flatten()[: self._missing]
        self._missing -= len(gains)
        return gains


class _Sliding:
    """``reduce`` of the window around each value of a stream; ``beyond`` stands outside of it."""

    def __init__(
        self, behind: int, ahead: int, beyond: float, reduce: Callable[[FloatArray], FloatArray]
    ) -> None:
        self._window = behind + 1 + ahead
        self._held = np.full(behind, beyond, dtype=np.float32)
        self._rest = np.full(ahead, beyond, dtype=np.float32)
        self._reduce = reduce

    def push(self, values: FloatArray) -> FloatArray:
        held = np.concatenate([self._held, values])
        window = self._window
        windows = sliding_window_view(held, window) if len(held) >= window else held[:0].reshape(0, window)
        self._held = held[len(windows) :].copy()
        return self._reduce(windows)

    def finish(self) -> FloatArray:
        return self.push(self._rest)


class Meter:
    """Length, peak and loudness of a stream at any rate.

    Loudness is integrated loudness of ITU-R BS.1770-4 (2015): K-weighted power of 400 ms blocks that
    overlap by 75 %, averaged over those above -70 LUFS and above 10 LU below the average of these.
    It keeps eight bytes for each 100 ms.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._sample_rate = sample_rate
        self._step = round(sample_rate / 10)
        self._weights = np.array(_SURROUND_WEIGHTS.get(channels, [1.0] * channels))
        self._filter = _Sections(_k_weighting(sample_rate), channels)
        self._power = np.zeros(0)  # of the step that is not yet complete
        self._energies = array("d")
        self._peak = 0.0
        self._samples = 0

    def push(self, block: Float[Tensor, "channel time"]) -> None:
        """Take the next ``block``."""
        self._samples += block.shape[-1]
        if block.shape[-1] == 0:
            return
        samples = block.numpy()  # torch would spread such small work over threads, which wait for it spinning
        self._peak = max(self._peak, float(samples.max()), -float(samples.min()))
        for start in range(0, samples.shape[-1], self._sample_rate):  # a second stays in the cache
            weighted = self._filter.push(samples[:, start : start + self._sample_rate])
            power = np.einsum("c,ct,ct->t", self._weights, weighted, weighted)
            power = np.concatenate([self._power, power])
            whole = len(power) // self._step * self._step
            self._energies.extend(power[:whole].reshape(-1, self._step).mean(-1))
            self._power = power[whole:]

    @property
    def seconds(self) -> float:
        """Length of the stream so far."""
        return self._samples / self._sample_rate

    @property
    def peak(self) -> float:
        """Largest sample so far, in dBFS; -inf for silence."""
        return decibels(self._peak)

    @property
    def loudness(self) -> float:
        """Integrated loudness so far, in LUFS; -inf for silence and for less than 400 ms."""
        if len(self._energies) < 4:
            return -math.inf
        powers = sliding_window_view(np.asarray(self._energies), 4).mean(-1)
        audible = powers[powers > _power_of(-70)]
        if len(audible) == 0:
            return -math.inf
        foreground = audible[audible > _power_of(_loudness_of(audible.mean()) - 10)]
        return _loudness_of(foreground.mean())


class _Sections:
    """Recursive filters of second order, one behind the other, over a stream of channels.

    Each of them is the transposed direct form II (Oppenheim and Schafer, "Discrete-Time Signal Processing",
    section 6.3): with coefficients b0 b1 b2 1 a1 a2 and a state (p, q),

        y = b0 x + p        p' = b1 x - a1 y + q        q' = b2 x - a2 y

    That is linear in the samples and the states, so that `_RUN` samples are one matrix product, whose matrix
    is what the recursion makes of unit vectors. It equals `scipy.signal.sosfilt` up to rounding in float64:
    importing scipy.signal takes longer than restoring a few seconds of speech.
    """

    def __init__(self, sections: Float[np.ndarray, "section coefficient=6"], channels: int) -> None:
        order = 2 * len(sections)
        inputs = np.eye(_RUN + order)  # samples, then states
        outputs = np.zeros((_RUN, _RUN + order))
        states = np.zeros((_RUN + 1, order, _RUN + order))
        states[0] = inputs[_RUN:]
        for sample in range(_RUN):
            x = inputs[sample]
            for section, (b0, b1, b2, _, a1, a2) in enumerate(sections):
                row = 2 * section
                p, q = states[sample, row : row + 2]
                y = b0 * x + p
                states[sample + 1, row : row + 2] = b1 * x - a1 * y + q, b2 * x - a2 * y
                x = y
            outputs[sample] = x
        self._outputs, self._states = outputs, states
        self._state = np.zeros((channels, order))

    def push(self, samples: NDArray[np.floating[Any]]) -> Float[np.ndarray, "channel time"]:
        """Filter the next ``samples``, (channel, time)."""
        channels, length = samples.shape
        runs, rest = divmod(length, _RUN)
        group = min(runs + 1, _RUNS_PER_PRODUCT)
        groups = -(-(runs + 1) // group)
        # The samples of each run, zeros where there are none, and the state before it.
        grouped = np.zeros((channels, groups, group, self._outputs.shape[1]))
        inputs = grouped.reshape(channels, groups * group, -1)
        inputs[:, :runs, :_RUN] = samples[:, : runs * _RUN].reshape(channels, runs, _RUN)
        inputs[:, runs, :rest] = samples[:, runs * _RUN :]
        left = (grouped[..., :_RUN] @ self._states[_RUN, :, :_RUN].T).reshape(channels, groups * group, -1)
        states = inputs[..., _RUN:]
        states[:, 0] = self._state
        states[:, 1:] = left[:, :-1]
        # So far each holds what one run leaves. Summing pairs, fours, eights, ... with what is left of the
        # earlier half gives each the sum over all runs before it.
        decay, span = self._states[_RUN, :, _RUN:].T, 1
        while span <= runs:
            states[:, span:] += states[:, :-span] @ decay
            decay, span = decay @ decay, 2 * span
        # The last samples of a run leave what the same number of any samples does.
        self._state = (
            inputs[:, runs, :rest] @ self._states[rest, :, :rest].T
            + states[:, runs] @ self._states[rest, :, _RUN:].T
        )
        return (grouped @ self._outputs.T).reshape(channels, -1)[:, :length]


def decibels(amplitude: float) -> float:
    """20 log10(amplitude); -inf for 0."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


_SURROUND_WEIGHTS = {5: [1, 1, 1, 1.41, 1.41], 6: [1, 1, 1, 0, 1.41, 1.41]}
"""BS.1770-4, table 3, for L R C (LFE) Ls Rs; in any other layout all channels count alike."""


def _loudness_of(power: float) -> float:
    return -0.691 + 10 * math.log10(power)


def _power_of(loudness: float) -> float:
    return float(10 ** ((loudness + 0.691) / 10))


def _k_weighting(sample_rate: int) -> Float[np.ndarray, "section=2 coefficient=6"]:
    """BS.1770-4, tables 1 and 2, as second-order sections.

    The standard gives coefficients for 48 kHz only; the analogue prototypes behind them, which serve for
    any rate, are those of B. De Man, "Evaluation of implementations of the EBU R128 loudness measurement",
    AES 145 (2018).
    """
    gain, frequency, quality = 10 ** (3.999843853973347 / 20), 1681.974450955533, 0.7071752369554196
    k = math.tan(math.pi * frequency / sample_rate)
    bandwidth = gain**0.4996667741545416
    a0 = 1 + k / quality + k * k
    shelf = [
        (gain + bandwidth * k / quality + k * k) / a0,
        2 * (k * k - gain) / a0,
        (gain - bandwidth * k / quality + k * k) / a0,
        1,
        2 * (k * k - 1) / a0,
        (1 - k / quality + k * k) / a0,
    ]
    frequency, quality = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * frequency / sample_rate)
    a0 = 1 + k / quality + k * k
    high_pass = [1, -2, 1, 1, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0]
    return np.array([shelf, high_pass])
