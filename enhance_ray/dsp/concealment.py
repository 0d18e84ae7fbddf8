"""What a network lost of a recording, made anew from what stands around it.

Where packets were lost, a recorder wrote silence or the last packet once more. Neither occurs in sound by
itself: zeros between sounds that are loud up to the edges of the gap, and samples that are those of 10 to
60 ms before, times a constant. Both are taken out, and what was there is estimated as the continuation of
both sides: of all waves that agree with the samples around them, the one that a linear prediction fitted to
that surrounding predicts best (Janssen, Veldhuis and Vries 1986, "Adaptive interpolation of discrete-time
signals that can be modeled as autoregressive processes", IEEE Trans. ASSP 34(2)). Within a gap without a
break, its equations are those of a Toeplitz matrix, and are solved in milliseconds.

What was coded after it was lost has neither, and is left alone.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LEAST_SECONDS, _MOST_SECONDS = 0.008, 0.1
"""Of a gap: what is shorter may be silence between the steps of a quiet recording; what is longer cannot be
told from its sides any more."""
_EDGE_SECONDS = 0.0025
"""On either side of a gap, in which the sound may have been faded."""

_SIDE_SECONDS, _SURROUNDING_SECONDS = 0.005, 0.1
_ABRUPT = 0.2
"""Least level of a gap's sides, relative to their surroundings: speech that fades by itself falls below."""
_LEAST_LEVEL = 3e-4
"""Root mean square of a gap's sides: ten steps of 16 bits."""
_ALIKE_SECONDS, _FEWEST_ALIKE = 1e-4, 2
"""By how much the lengths of gaps may differ, but for whole packets, and how many there are to be."""

_PACKET_SECONDS = (0.01, 0.02, 0.03, 0.04, 0.06)
"""Lengths of packets of speech codecs; all are multiples of the first."""
_COPY_WINDOW_SECONDS = 0.01
"""For which a copy has to last."""
_COPY_RESIDUAL = 1e-5
"""Power of what a copy does not explain, relative to it; rounding to 16 bits leaves less than that."""

_CONTEXT_SECONDS = 0.093
_ORDER_SECONDS = 0.0227
"""Of the prediction: it has to reach over the longest period of a voice."""
_MOST_ORDER = 1000
_ITERATIONS = 2
"""Of fitting the prediction, and the gap to it. More of them gain nothing."""

Samples = Float[np.ndarray, " _"]


def conceal(waveform: Float[Tensor, "channel time"], sample_rate: int) -> Float[Tensor, "channel time"]:
    """Fill the gaps that lost packets left; where none were, the same samples.

    Args:
        waveform: as it was recorded: not resampled, filtered or coded since packets were lost.
        sample_rate: of it, in Hz.
    """
    concealed = waveform
    for index, channel in enumerate(waveform):
        gaps = gaps_of(channel, sample_rate)
        if gaps:
            concealed = waveform.clone() if concealed is waveform else concealed
            concealed[index] = torch.from_numpy(_filled(channel.double().numpy(), gaps, sample_rate))
    return concealed


def gaps_of(channel: Float[Tensor, " time"], sample_rate: int) -> list[tuple[int, int]]:
    """First and last sample (exclusive) of each gap, with the edges where the sound may have been faded."""
    samples = channel.double().numpy()
    lost = _silenced(samples, sample_rate) | _repeated(samples, sample_rate)
    edge = round(_EDGE_SECONDS * sample_rate)
    gaps: list[tuple[int, int]] = []
    for first, last in _runs(lost):
        start, stop = max(0, first - edge), min(samples.size, last + edge)
        if gaps and start <= gaps[-1][1]:
            start = gaps.pop()[0]
        gaps.append((start, stop))
    most = round(_MOST_SECONDS * sample_rate) + 2 * edge
    # Something has to stand on both sides.
    return [
        (start, stop) for start, stop in gaps if start > 0 and stop < samples.size and stop - start <= most
    ]


def _silenced(samples: Samples, sample_rate: int) -> Bool[np.ndarray, " _"]:
    """Where zeros stand between sounds that neither end nor begin by themselves."""
    least, most = _LEAST_SECONDS * sample_rate, _MOST_SECONDS * sample_rate
    edge, side, around = (
        round(seconds * sample_rate) for seconds in (_EDGE_SECONDS, _SIDE_SECONDS, _SURROUNDING_SECONDS)
    )

    def is_abrupt(neighbours: Samples) -> bool:
        """Of the ``neighbours`` of a gap, the nearest first."""
        level, before = (_rms(neighbours[edge : edge + length]) for length in (side, around))
        return level >= max(_LEAST_LEVEL, _ABRUPT * before)

    silent = [(first, last) for first, last in _runs(samples == 0) if least <= last - first <= most]
    abrupt = [is_abrupt(samples[:first][::-1]) and is_abrupt(samples[last:]) for first, last in silent]
    # Packets have one length: what is as long as a gap that is sure is one, too, where speech was fading.
    beyond_packets = [(last - first) / sample_rate % _PACKET_SECONDS[0] for first, last in silent]
    sure = [rest for rest, is_sure in zip(beyond_packets, abrupt, strict=True) if is_sure]
    lost = np.zeros(samples.size, bool)
    for (first, last), rest, is_sure in zip(silent, beyond_packets, abrupt, strict=True):
        alike = sum(abs(rest - other) < _ALIKE_SECONDS for other in sure)
        lost[first:last] = is_sure or alike >= _FEWEST_ALIKE
    return lost


def _repeated(samples: Samples, sample_rate: int) -> Bool[np.ndarray, " _"]:
    """Where a packet was put once more, be it more quietly."""
    lost = np.zeros(samples.size, bool)
    window = round(_COPY_WINDOW_SECONDS * sample_rate)
    for seconds in _PACKET_SECONDS:
        lag = round(seconds * sample_rate)
        if samples.size < lag + window:
            break
        now, before = samples[lag:], samples[:-lag]
        product, power, power_before = (
            _sliding_sum(values, window) for values in (now * before, now**2, before**2)
        )
        explained = np.square(np.maximum(product, 0)) / np.maximum(power_before, 1e-20)
        # A copy is no louder than what it is of.
        may_be = (power > window * _LEAST_LEVEL**2) & (power_before > 0.9 * power)
        starts = np.flatnonzero(may_be & (power - explained < _COPY_RESIDUAL * power))
        covered = np.zeros(now.size + 1, np.int64)
        covered[starts] += 1
        covered[starts + window] -= 1
        lost[lag:] |= covered[:-1].cumsum() > 0
    return lost


def _filled(samples: Samples, gaps: list[tuple[int, int]], sample_rate: int) -> Samples:
    context = round(_CONTEXT_SECONDS * sample_rate)
    order = min(_MOST_ORDER, round(_ORDER_SECONDS * sample_rate))
    filled = samples.copy()
    for (start, stop), (following, _) in zip(gaps, [*gaps[1:], (samples.size, 0)], strict=True):
        # What was filled before counts as context, what is still open does not.
        low, high = max(0, start - context), min(following, stop + context)
        filled[start:stop] = _predicted(filled[low:high], start - low, stop - low, order)
    return filled


def _predicted(surrounding: Samples, start: int, stop: int, order: int) -> Samples:
    """The samples from ``start`` to ``stop`` that the rest of ``surrounding`` predicts best."""
    from scipy.linalg import solve_toeplitz
    from scipy.signal import fftconvolve

    wave = surrounding.copy()
    wave[start:stop] = 0
    known = wave.copy()
    order = min(order, wave.size // 3)
    for _ in range(_ITERATIONS):
        correlation = _autocorrelation(wave, order)
        correlation[0] = correlation[0] * (1 + 1e-7) + 1e-12  # so that the matrix is not singular
        predictor = np.append(1, solve_toeplitz(correlation[:-1], -correlation[1:]))
        # The power of the prediction's error is a quadratic form; its derivative by the gap is zero.
        weights = _autocorrelation(predictor, order)
        column = np.zeros(stop - start)
        column[: order + 1] = weights[: column.size]
        column[0] *= 1 + 1e-9
        given = fftconvolve(known, np.append(weights[:0:-1], weights))[order : order + wave.size]
        wave[start:stop] = solve_toeplitz(column, -given[start:stop])
    return wave[start:stop]


def _autocorrelation(values: Samples, most: int) -> Float[np.ndarray, " lag"]:
    """For lags from 0 to ``most``."""
    spectrum = np.fft.rfft(values, 2 * values.size)
    correlation: Samples = np.fft.irfft(np.square(np.abs(spectrum)), 2 * values.size)[: most + 1]
    return correlation


def _sliding_sum(values: Samples, window: int) -> Samples:
    total = np.append(0, values.cumsum())
    sums: Samples = total[window:] - total[:-window]
    return sums


def _rms(values: Samples) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def _runs(marked: Bool[np.ndarray, " _"]) -> list[tuple[int, int]]:
    edges = np.diff(np.pad(marked.astype(np.int8), 1))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))
