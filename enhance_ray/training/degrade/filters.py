"""Equalizers and band filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import scipy
from jaxtyping import Float32

from enhance_ray.settings.ranges import Probability, Range, WholeRange, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform, draw_whole


def equalize(waveform: Waveform, sample_rate: int, *, frequency: float, q: float, gain_db: float) -> Waveform:
    """A peaking equalizer: ``gain_db`` at ``frequency`` (Hz), a band of ``frequency / q`` around it.

    R. Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients, "peakingEQ".
    """
    amplitude = 10 ** (gain_db / 40)
    omega = 2 * math.pi * frequency / sample_rate
    alpha = math.sin(omega) / (2 * q)
    numerator = [1 + alpha * amplitude, -2 * math.cos(omega), 1 - alpha * amplitude]
    denominator = [1 + alpha / amplitude, -2 * math.cos(omega), 1 - alpha / amplitude]
    # In double: poles near the unit circle lose accuracy in single precision.
    equalized = scipy.signal.lfilter(numerator, denominator, waveform.astype(np.float64))
    return np.asarray(equalized, np.float32)


def filter_band(
    waveform: Waveform, sample_rate: int, *, low: float = 0.0, high: float, taps: int
) -> Waveform:
    """Keep ``low`` to ``high`` Hz by a windowed sinc; ``low`` 0 is a low-pass.

    Linear phase, and its delay is taken off. The window is Kaiser's for 120 dB, sox's default: few
    taps then mean wide edges (7 kHz between pass and stop with 50 taps at 44.1 kHz).

    Args:
        waveform: the sound.
        sample_rate: Hz.
        low: lower -6 dB point in Hz.
        high: upper -6 dB point in Hz, below half the sample rate.
        taps: length of the filter; an even one is made odd, so that its delay is whole.
    """
    taps |= 1
    window = ("kaiser", scipy.signal.kaiser_beta(120))
    if low > 0:
        kernel = scipy.signal.firwin(
            taps, [low, high], window=window, pass_zero=False, scale=False, fs=sample_rate
        )
    else:
        kernel = scipy.signal.firwin(taps, high, window=window, fs=sample_rate)
    return np.asarray(scipy.signal.oaconvolve(waveform, kernel.astype(np.float32), mode="same"), np.float32)


def recursive_filter(
    numerator: Sequence[float],
    denominator: Sequence[float],
    waveforms: Float32[np.ndarray, "time ..."],
) -> Float32[np.ndarray, "time ..."]:
    """`scipy.signal.lfilter` over the first axis in single precision."""
    filtered = scipy.signal.lfilter(
        np.array(numerator, np.float32), np.array(denominator, np.float32), waveforms, axis=0
    )
    return np.ascontiguousarray(filtered, np.float32)


@settings
class Equalizer(Effect):
    """One band lifted or lowered: `equalize`."""

    probability: Probability = 0.5
    frequency: Annotated[Range, Within(10, 20_000)] = (100.0, 4000.0)
    """Hz."""
    q: Annotated[WholeRange, Within(1, 100)] = (1, 5)
    gain_db: Annotated[WholeRange, Within(-60, 60)] = (-30, 30)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return equalize(
            waveform,
            sample_rate,
            frequency=rng.uniform(*self.frequency),
            q=draw_whole(rng, self.q),
            gain_db=draw_whole(rng, self.gain_db),
        )


@settings
class BandFilter(Effect):
    """A low-pass or a band-pass, one as often as the other: `filter_band`."""

    probability: Probability = 0.5
    taps: Annotated[WholeRange, Within(3, 10_000)] = (50, 200)
    lowpass: Annotated[Range, Within(10, 20_000)] = (2000.0, 16_000.0)
    """Upper edge of the low-pass in Hz."""
    bandpass_low: Annotated[WholeRange, Within(1, 10_000)] = (100, 1000)
    """Lower edge of the band-pass in Hz."""
    bandpass_width: Annotated[WholeRange, Within(10, 10_000)] = (2000, 4000)
    """From its lower to its upper edge, in Hz."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        taps = draw_whole(rng, self.taps)
        if rng.random() < 0.5:
            return filter_band(waveform, sample_rate, high=rng.uniform(*self.lowpass), taps=taps)
        low = draw_whole(rng, self.bandpass_low)
        high = low + draw_whole(rng, self.bandpass_width)
        return filter_band(waveform, sample_rate, low=low, high=high, taps=taps)
