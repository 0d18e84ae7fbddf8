"""Other sample rates, and recordings at a lower one."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import scipy
from annotated_types import Ge
from jaxtyping import Float32

from enhance_ray.settings.ranges import NotEmpty
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform


def resample_fft(waveform: Waveform, source_rate: int, target_rate: int) -> Float32[np.ndarray, " resampled"]:
    """Change the rate in the frequency domain: fast, without delay, and for training data only.

    Flat to 95 % of the lower Nyquist frequency, a raised cosine from there to nothing. Returns
    ceil(time * target_rate / source_rate) samples. `dsp.resample` is what inference uses.
    """
    divisor = math.gcd(source_rate, target_rate)
    step_in, step_out = source_rate // divisor, target_rate // divisor
    margin = source_rate // 20  # keeps the ringing at one end from wrapping round to the other
    blocks = scipy.fft.next_fast_len(-(-(waveform.size + margin) // step_in), real=True)
    spectrum = scipy.fft.rfft(waveform, blocks * step_in)
    bins = blocks * min(step_in, step_out) // 2 + 1
    output: Waveform = scipy.fft.irfft(spectrum[:bins] * _edge_taper(bins), blocks * step_out)
    length = -(-waveform.size * step_out // step_in)
    return output[:length] * (step_out / step_in)


def _edge_taper(bins: int) -> Float32[np.ndarray, " bins"]:
    """1 up to 95 % of the bins, then half a cosine down to 0 at the last."""
    taper = np.ones(bins, np.float32)
    edge = max(1, bins // 20)
    taper[bins - edge :] = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, edge + 1) / edge)
    return taper


def limit_bandwidth(waveform: Waveform, sample_rate: int, rate: int) -> Waveform:
    """Leave only what a recording at ``rate`` Hz could hold, by resampling there and back."""
    narrow = resample_fft(waveform, sample_rate, rate)
    return resample_fft(narrow, rate, sample_rate)[: waveform.size]


_BAND_HZ = 250


def match_band(waveform: Waveform, sample_rate: int, *, before: Waveform, after: Waveform) -> Waveform:
    """``waveform`` without what lies above the band that was left when ``after`` became of ``before``.

    The band ends where all above has lost 13 dB or more, measured in steps of 250 Hz over the whole length;
    what was next to nothing before (90 dB below the strongest step) says nothing. Where nothing was cut off,
    ``waveform`` comes back as it is. All three are equally long.
    """
    if after is before:
        return waveform
    points = scipy.fft.next_fast_len(waveform.size, real=True)
    width = max(1, _BAND_HZ * points // sample_rate)
    had, left = (
        np.add.reduceat(power, np.arange(0, power.size, width))
        for power in (
            np.square(np.abs(scipy.fft.rfft(each, points)), dtype=np.float64) for each in (before, after)
        )
    )
    telling = had > 1e-9 * had.max()
    kept = np.flatnonzero(telling & (left > 0.05 * had))
    if kept.size == 0 or not telling[kept[-1] + 1 :].any():
        return waveform
    spectrum = scipy.fft.rfft(waveform, points)
    edge = (kept[-1] + 1) * width
    spectrum[edge:] = 0
    spectrum[edge - width : edge] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(width, dtype=np.float32) / width)
    limited: Waveform = scipy.fft.irfft(spectrum, points)[: waveform.size]
    return limited


@settings
class NarrowBand(Effect):
    """Recorded or sent at a lower rate: `limit_bandwidth`."""

    rates: NotEmpty[Annotated[int, Ge(1000)]] = (8000, 11_025, 12_000, 16_000, 22_050)
    """Hz; one is drawn. Those not below the signal's own rate change nothing."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        rate = int(rng.choice(self.rates))
        return limit_bandwidth(waveform, sample_rate, rate) if rate < sample_rate else waveform
