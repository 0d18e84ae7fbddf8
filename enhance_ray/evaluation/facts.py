"""What can be measured of a degraded recording beside its clean one: how noisy, how narrow, how reverberant.

Each takes mono waveforms (time,) of equal length at one rate in Hz, and gives nan where it is not defined.
These are estimates to sort examples by, not scores: a recipe that knows better says so in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from enhance_ray import metrics
from enhance_ray.metrics import Waveform

SNR_LIMITS = (-20.0, 60.0)
"""dB. Beyond them a signal is noise, or clean, for all purposes."""

SPECTRUM_WINDOW = 2048
BAND_BINS = 6
"""Bins of the spectrum that make a band: 129 Hz at 44.1 kHz."""
SPEECH_BAND = (300.0, 3400.0)
"""Hz, in which even the narrowest recordings hold speech."""
LOST_DB, FLOOR_DB = 20.0, 70.0
GAP_HZ = 1000.0

PATH_RATE = 8000
"""Hz at which the path is estimated: reverberation is told by the octaves of speech."""
BEFORE, EARLY, LATE = 0.05, 0.05, 0.35
"""Seconds: how early a path may begin; from its peak to the end of the early part, and of the late one."""
CLARITY_LIMITS = (-20.0, 40.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What a measured number means."""

    title: str
    unit: str
    digits: int
    measure: Callable[[Waveform, Waveform, int], float]
    """(degraded, clean, sample_rate) -> the number."""


def measure(
    degraded: Waveform, clean: Waveform, sample_rate: int, known: Collection[str] = ()
) -> dict[str, float]:
    """Those of `FACTS` about ``degraded`` that are not ``known``."""
    return {
        name: fact.measure(degraded, clean, sample_rate) for name, fact in FACTS.items() if name not in known
    }


def snr_db(degraded: Waveform, clean: Waveform, sample_rate: int) -> float:
    """Power of the clean signal in the input over the power of all else there, in dB, within -20 and 60.

    The clean signal in the input is the multiple of it that is nearest in the least squares sense. All else
    is not noise alone: echoes, a delay and a lost band count, too.
    """
    x, y = clean.astype(np.float64), degraded.astype(np.float64)
    energy = x @ x
    if energy == 0 or not y.any():
        return float("nan")
    part = (x @ y / energy) * x
    rest = y - part
    return _decibels(float(part @ part) / max(float(rest @ rest), 1e-30), SNR_LIMITS)


def bandwidth_hz(degraded: Waveform, clean: Waveform, sample_rate: int) -> float:
    """Frequency in Hz at which the input ends, noise included: from there, 1 kHz or more is missing.

    By the long-term spectrum in bands of 129 Hz (at 44.1 kHz), relative to its power in 300 to 3400 Hz: a
    band is missing where the input is more than 20 dB below the clean recording, or 70 dB below its own
    speech. Half the rate where nothing is missing; a gap at the very top may be shorter than 1 kHz.
    """
    if min(degraded.size, clean.size) < SPECTRUM_WINDOW or not clean.any() or not degraded.any():
        return float("nan")
    width = BAND_BINS * sample_rate / SPECTRUM_WINDOW
    of_input, of_clean = (_band_levels(waveform, sample_rate, width) for waveform in (degraded, clean))
    missing = (of_input < of_clean - LOST_DB) | (of_input < -FLOOR_DB)
    missing[: int(SPEECH_BAND[0] / width) + 1] = False
    bands = round(GAP_HZ / width)
    # Beyond the top everything is missing.
    runs = np.lib.stride_tricks.sliding_window_view(np.pad(missing, (0, bands), constant_values=True), bands)
    end = int(np.argmax(runs.all(axis=1)))
    return end * width if end < missing.size else sample_rate / 2


def clarity_db(degraded: Waveform, clean: Waveform, sample_rate: int) -> float:
    """How dry the input is: energy of its path until 50 ms after the peak over the energy of the rest, in dB.

    The rest is what follows, until 350 ms; within -20 and 40. The path is the filter from the clean recording
    to the input, both at 8 kHz, that is best in the least squares sense, by their correlations over the whole
    length and with a ridge of -30 dB. It is the C50 of room acoustics as far as noise allows: noise spreads
    over all taps and lowers the number. nan for less than a second.
    """
    if clean.size < sample_rate or not clean.any() or not degraded.any():
        return float("nan")
    x, y = (_whitened(metrics.resample(waveform, sample_rate, PATH_RATE)) for waveform in (clean, degraded))
    lead = int(BEFORE * PATH_RATE)
    # A peak may come up to 50 ms late.
    taps = lead + int((BEFORE + LATE) * PATH_RATE)
    size = scipy.fft.next_fast_len(x.size + taps, real=True)
    spectrum, other = scipy.fft.rfft(x, size), scipy.fft.rfft(y, size)
    auto = scipy.fft.irfft(np.square(np.abs(spectrum)), size)[:taps]
    cross = np.roll(scipy.fft.irfft(np.conj(spectrum) * other, size), lead)[:taps]
    auto[0] *= 1.001
    energy = np.square(scipy.linalg.solve_toeplitz(auto, cross))
    peak = int(np.argmax(energy[: 2 * lead]))
    early, late = peak + int(EARLY * PATH_RATE), peak + int(LATE * PATH_RATE)
    ratio = energy[:early].sum() / max(energy[early:late].sum(), 1e-30)
    return _decibels(ratio, CLARITY_LIMITS)


FACTS: Mapping[str, Fact] = {
    "snr_db": Fact(title="SNR", unit="dB", digits=1, measure=snr_db),
    "clarity_db": Fact(title="Clarity", unit="dB", digits=1, measure=clarity_db),
    "bandwidth_hz": Fact(title="Bandwidth", unit="Hz", digits=0, measure=bandwidth_hz),
}
"""Every number of `measure`."""


def _decibels(ratio: float, limits: tuple[float, float]) -> float:
    return float(np.clip(10 * np.log10(max(ratio, 1e-30)), *limits))


def _band_levels(waveform: Waveform, sample_rate: int, width: float) -> NDArray[np.float64]:
    """(band,): mean power density in dB relative to that of the speech band."""
    _, power = scipy.signal.welch(
        waveform.astype(np.float64), sample_rate, nperseg=SPECTRUM_WINDOW, detrend=False
    )
    bands = power[: power.size // BAND_BINS * BAND_BINS].reshape(-1, BAND_BINS).mean(axis=1)
    first, last = (int(edge / width) for edge in SPEECH_BAND)
    speech = max(float(bands[first:last].mean()), 1e-30)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(bands / speech, 1e-15))
    return levels


def _whitened(waveform: Waveform) -> NDArray[np.float64]:
    """First differences, nearly: what speech has at high frequencies would drown otherwise."""
    return np.asarray(scipy.signal.lfilter([1, -0.97], [1], waveform.astype(np.float64)))
