"""Band-limited resampling with a Kaiser-windowed sinc, of whole waveforms and of streams.

With rates in the ratio o : n in lowest terms, output sample m lies at input time m o / n and is

    y[m] = sum_i x[i] k(i / o - m / n)      k(s) = (base / o) sinc(base s) w(base s / 64)
    base = 0.9476 min(o, n)                 w = Kaiser window with beta = 14.77, zero beyond 64 lobes

(J. O. Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample). The weights repeat
after n outputs and o inputs: one *period*. They are kept as matrices of some hundred consecutive
phases by the inputs that these see, and a run of periods is one product with each. So odd rates
cost no more memory than usual ones: 44,056 Hz has 11,025 phases that each see 138 of 11,150 inputs.

The reference resamples with these numbers through `torchaudio.functional.resample`; equal to 2e-6.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LOBES = 64
"""Zero crossings of the sinc on each side."""
ROLLOFF = 0.9475937167399596
"""Cutoff as a share of the lower of the two Nyquist frequencies."""
BETA = 14.769656459379492
"""Kaiser window's shape: about 140 dB of stop-band attenuation."""

_PHASES_PER_MATRIX = 147  # divides the phases of every usual rate: 8, 16, 24, 32, 48, 96, 192 kHz
_PHASES_IN_SINGLE_PRECISION = 1000
_OUTPUTS_PER_RUN = 16384


def resample(
    waveform: Float[Tensor, "*channel time"], rate_in: int, rate_out: int
) -> Float[Tensor, "*channel resampled"]:
    """Resample ``waveform`` from ``rate_in`` to ``rate_out`` Hz: ceil(time rate_out / rate_in) samples.

    Beyond its ends the waveform counts as zero. The result is that of `StreamingResampler`, bit by bit.
    """
    if rate_in == rate_out:
        return waveform
    rows = torch.atleast_2d(waveform).flatten(0, -2)
    stream = StreamingResampler(rate_in, rate_out, channels=len(rows))
    resampled = torch.cat([stream.push(rows), stream.finish()], dim=-1)
    return resampled.reshape(*waveform.shape[:-1], resampled.shape[-1])


class StreamingResampler:
    """`resample` for a waveform that arrives in blocks.

    It computes in runs of a fixed number of periods that start at fixed positions of the recording, so
    that neither the sizes of the blocks nor their borders can be seen in the result, not even in
    its last bit. It holds back less than half a second.
    """

    def __init__(self, rate_in: int, rate_out: int, *, channels: int = 1) -> None:
        self._same_rate = rate_in == rate_out
        divisor = math.gcd(rate_in, rate_out)
        self._filter = _polyphase_filter(rate_in // divisor, rate_out // divisor)
        self._step, self._phases = self._filter.step, self._filter.phases
        self._periods = max(1, _OUTPUTS_PER_RUN // self._phases)
        self._inputs_per_run = self._periods * self._step + self._filter.width + self._filter.reach
        self._pending = torch.zeros(channels, self._filter.width)
        self._received = 0
        self._returned = 0

    def push(self, block: Float[Tensor, "channel time"]) -> Float[Tensor, "channel resampled"]:
        """Take the next ``block`` and return the samples that are now certain, possibly none."""
        self._received += block.shape[-1]
        if self._same_rate:
            return block
        return self._advance(block)

    def finish(self) -> Float[Tensor, "channel resampled"]:
        """Return what is left after the last block. The stream cannot be used any more."""
        if self._same_rate:
            return self._pending[:, :0]
        missing = -(-self._received * self._phases // self._step) - self._returned
        runs = -(-missing // (self._periods * self._phases))
        samples = (runs - 1) * self._periods * self._step + self._inputs_per_run if runs else 0
        silence = self._pending.new_zeros(len(self._pending), max(0, samples - self._pending.shape[-1]))
        return self._advance(silence)[:, :missing]

    def _advance(self, block: Tensor) -> Tensor:
        inputs = torch.cat([self._pending, block], dim=-1)
        runs = []
        start = 0
        while start + self._inputs_per_run <= inputs.shape[-1]:
            runs.append(self._run(inputs[:, start : start + self._inputs_per_run]))
            start += self._periods * self._step
        self._pending = inputs[:, start:].clone()
        if not runs:
            return inputs[:, :0]
        self._returned += len(runs) * runs[0].shape[-1]
        return torch.cat(runs, dim=-1)

    def _run(self, inputs: Float[Tensor, "channel input"]) -> Float[Tensor, "channel output"]:
        """One run of periods: (channel, period, tap) windows times (tap, phase) weights, for each matrix."""
        columns = []
        for first, weights in self._filter.matrices:
            windows = inputs[:, first + self._filter.width :].unfold(-1, len(weights), self._step)
            columns.append(windows[:, : self._periods] @ weights)
        return torch.cat(columns, dim=-1).flatten(1)


class _PolyphaseFilter(NamedTuple):
    step: int
    """Inputs in a period."""
    phases: int
    """Outputs in a period."""
    width: int
    """Inputs that an output sees on each side of its own time."""
    reach: int
    """Inputs beyond the end of its period that the last output sees."""
    matrices: list[tuple[int, Float[Tensor, "tap phase"]]]
    """For each group of consecutive phases: first input, counted from the period's start, and weights."""


@functools.lru_cache(maxsize=8)
def _polyphase_filter(step: int, phases: int) -> _PolyphaseFilter:
    width = math.ceil(LOBES * step / (min(step, phases) * ROLLOFF))
    matrices = []
    for start in range(0, phases, _PHASES_PER_MATRIX):
        stop = min(start + _PHASES_PER_MATRIX, phases)
        first = start * step // phases - width
        last = -(-(stop - 1) * step // phases) + width
        matrices.append((first, _weights(range(first, last + 1), range(start, stop), step, phases)))
    if phases > _PHASES_PER_MATRIX // 2:
        return _PolyphaseFilter(step, phases, width, last + 1 - step, matrices)
    # Two phases (from 22,050 Hz) make a product too thin to be fast: take many periods as one.
    repeats = _PHASES_PER_MATRIX // phases
    repeated = _repeat_along_diagonal(matrices[0][1], repeats, step)
    return _PolyphaseFilter(repeats * step, repeats * phases, width, last + 1 - step, [(first, repeated)])


def _repeat_along_diagonal(
    weights: Float[Tensor, "tap phase"], repeats: int, step: int
) -> Float[Tensor, "taps phases"]:
    taps, phases = weights.shape
    repeated = torch.zeros((repeats - 1) * step + taps, repeats * phases)
    for i in range(repeats):
        repeated[i * step : i * step + taps, i * phases : (i + 1) * phases] = weights
    return repeated


def _weights(taps: range, phase: range, step: int, phases: int) -> Float[Tensor, "tap phase"]:
    """k(tap / step - phase / phases), as in the head of this file."""
    # The reference computes the weights in float32, which moves its output by up to 3e-5. That is kept
    # where it was measured; with thousands of phases the same rounding would be heard (1e-3).
    dtype = torch.float32 if phases <= _PHASES_IN_SINGLE_PRECISION else torch.float64
    base = min(step, phases) * ROLLOFF
    input_time = torch.tensor(taps, dtype=dtype)[:, None] / step
    output_time = torch.tensor(phase, dtype=dtype) / phases
    lobe = ((-output_time + input_time) * base).clamp_(-LOBES, LOBES)
    beta = torch.tensor(BETA, dtype=dtype)
    window = torch.i0(beta * torch.sqrt(1 - (lobe / LOBES) ** 2)) / torch.i0(beta)
    angle = lobe * math.pi
    sinc = torch.where(angle == 0, torch.ones_like(angle), angle.sin() / angle)
    return (sinc * (window * (base / step))).float()
