"""What arithmetic on two waveforms says: ratios, spectra and levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhance_ray.metrics.inputs import Waveform, pair, require, resample

LSD_WINDOW = 2048
LSD_HOP = 512
LSD_FLOOR = 1e-8
"""Least power of a bin. A Hann window of 2048 gives the rounding noise of 16 bits a power of 6e-8: digital
silence and the same silence through a 16-bit file are nearly equal."""
LSD_HIGH_FROM = 4000.0
"""Hz; nothing above it passes a narrow-band telephone."""

MCD_RATE = 22_050
"""Hz; where most of the literature of speech synthesis computes it."""
MCD_WINDOW = 1024
MCD_HOP = 256
MCD_BANDS = 40
MCD_ORDER = 13
MCD_RANGE_DB = 40.0
"""Frames of the reference that are further below its loudest do not count."""
MCD_FLOOR_DB = 70.0
"""What is further below the loudest band of its waveform counts as if it were there: an empty band, as of a
reference that a codec cut off, would be infinitely far from any other."""

CLIPPED_RUN = 3
"""Least number of samples in a row that make a flat top."""
CLIPPED_LEAST = 0.5
"""Least magnitude of a flat top: quieter ones are pauses and fades of few bits."""
CLIPPED_STEP = 2.0**-15
"""One step of 16 bits, by which the negative end of their range is larger than the positive one."""

LOUDNESS_BLOCK_SECONDS = 0.4


def si_sdr(estimate: Waveform, reference: Waveform) -> float:
    """Scale-invariant signal-to-distortion ratio in dB; higher is better.

    Le Roux et al. 2019, "SDR - half-baked or well done?", arXiv:1811.02508, equation 5, on signals freed
    of their mean: the power of the reference's projection in the estimate over the power of all else.
    Any rate. inf where the estimate is the reference at another gain.
    """
    estimate, reference = pair(estimate, reference)
    estimate = estimate - estimate.mean()
    reference = reference - reference.mean()
    energy = reference @ reference
    if energy == 0:
        return float("nan")
    target = (estimate @ reference / energy) * reference
    distortion = estimate - target
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: a silent estimate has no ratio
        return float(10 * np.log10((target @ target) / (distortion @ distortion)))


def lsd(
    estimate: Waveform, reference: Waveform, sample_rate: int, band: tuple[float, float] | None = None
) -> float:
    """Log-spectral distance in units of log10 power (one unit is 10 dB); lower is better.

    The mean over frames of the root mean square over bins of log10 |estimate|^2 - log10 |reference|^2,
    as the literature of bandwidth extension has it (Liu et al. 2022, arXiv:2203.14941). Hann windows of
    2048 samples every 512, meant for 44.1 or 48 kHz. It is not blind to level.

    Args:
        estimate: (time,).
        reference: (time,).
        sample_rate: in Hz.
        band: keeps only the bins from the first to below the second frequency, in Hz.
    """
    estimate, reference = pair(estimate, reference)
    difference = np.log10(_power(estimate)) - np.log10(_power(reference))
    if band is not None:
        frequency = np.fft.rfftfreq(LSD_WINDOW, 1 / sample_rate)
        difference = difference[:, (frequency >= band[0]) & (frequency < band[1])]
    return float(np.sqrt(np.square(difference).mean(axis=1)).mean())


def lsd_high(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """`lsd` of what lies above 4 kHz, in units of log10 power; lower is better. nan at 8 kHz and below."""
    if sample_rate <= 2 * LSD_HIGH_FROM:
        return float("nan")
    return lsd(estimate, reference, sample_rate, band=(LSD_HIGH_FROM, sample_rate / 2))


def mel_distance(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Mean absolute difference of mel spectrograms in dB; lower is better.

    80 bands of Slaney's scale over the whole range, power of frames as in `lsd`. What vocoders are compared
    by (Kong et al. 2020, arXiv:2010.05646, section 3, as a loss); it hears timbre, and is deaf to phases.
    """
    from librosa.filters import mel as mel_filters

    estimate, reference = pair(estimate, reference)
    filters = mel_filters(sr=sample_rate, n_fft=LSD_WINDOW, n_mels=80).T
    first, second = (
        10 * np.log10(np.maximum(_power(waveform) @ filters, LSD_FLOOR)) for waveform in (estimate, reference)
    )
    return float(np.abs(first - second).mean())


def mcd(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Mel-cepstral distortion in dB; lower is better, 0 for the reference at any gain.

    Kubichek 1993, "Mel-cepstral distance measure for objective speech quality assessment",
    doi:10.1109/PACRIM.1993.407206, with the constant that became usual: the mean over frames of

        10 sqrt(2) / ln 10 * sqrt(sum over m = 1..13 of (c_m - c'_m)^2)
        c_m = 2/40 * sum over n = 1..40 of ln(a_n) * cos(pi * m * (n - 1/2) / 40)

    At 22.05 kHz; a_n is the root of the power in triangular band n of 40, each of height 1, even on the mel
    scale 2595 log10(1 + f / 700) from 0 to 11,025 Hz, and no less than 70 dB below the waveform's loudest;
    Hann windows of 1024 samples every 256. These constants make it a level: the root mean square over bands
    of the difference of the two spectra, smoothed. c_0, the gain, is left out, and so are frames where the
    reference is 40 dB or more below its loudest: in pauses one noise floor would be compared with another.
    No time warping, because the two are aligned. nan for a silent reference.

    Cepstra differ from paper to paper (bands or an all-pass, order, rate): only numbers of one kind compare.
    """
    estimate, reference = pair(estimate, reference)
    if not reference.any():
        return float("nan")
    first, second = (
        _power(resample(waveform, sample_rate, MCD_RATE), MCD_WINDOW, MCD_HOP, floor=0)
        for waveform in (estimate, reference)
    )
    loudness = second.sum(axis=1)
    kept = loudness > loudness.max() * 10 ** (-MCD_RANGE_DB / 10)
    difference = (_log_bands(first) - _log_bands(second))[kept] / 2  # of amplitudes
    centres, orders = np.arange(MCD_BANDS) + 0.5, np.arange(1, MCD_ORDER + 1)
    cepstra = 2 / MCD_BANDS * difference @ np.cos(np.pi / MCD_BANDS * np.outer(centres, orders))
    return float(10 * math.sqrt(2) / math.log(10) * np.sqrt(np.square(cepstra).sum(axis=1)).mean())


def loudness_change(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Integrated loudness of the estimate less that of the reference, in LU; 0 is best.

    ITU-R BS.1770-4 (2015), any rate, by the package `pyloudnorm` (0.2). nan where either is shorter than
    0.4 s or all below the gate of -70 LUFS.

    Raises:
        ConfigError: `pyloudnorm` is absent.
    """
    meter = require("pyloudnorm").Meter(sample_rate)
    estimate, reference = pair(estimate, reference)
    if reference.size < LOUDNESS_BLOCK_SECONDS * sample_rate:
        return float("nan")
    loudness = [float(meter.integrated_loudness(waveform)) for waveform in (estimate, reference)]
    return loudness[0] - loudness[1] if all(map(math.isfinite, loudness)) else float("nan")


def clipped(waveform: Waveform) -> float:
    """Share of samples that were cut off, 0 to 1; lower is better.

    Samples in flat tops: three or more in a row that all have the waveform's largest value, or all its
    smallest, provided that this is its largest magnitude, give or take one step of 16 bits, and at least
    0.5. A gain after the clipping does not hide it; another filter, resampling or a lossy codec does.
    Any rate. nan for no samples.
    """
    if waveform.size == 0:
        return float("nan")
    ends = float(waveform.max()), float(waveform.min())
    largest = max(map(abs, ends))
    if largest < CLIPPED_LEAST:
        return 0.0
    tops = {end for end in ends if abs(end) >= largest - CLIPPED_STEP}  # a set: both are one in a constant
    return sum(_in_runs(waveform == top, CLIPPED_RUN) for top in tops) / waveform.size


def _in_runs(marked: NDArray[np.bool_], least: int) -> int:
    """How many of ``marked`` (time,) have at least ``least`` in a row."""
    borders = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    lengths = borders[1::2] - borders[::2]
    return int(lengths[lengths >= least].sum())


def _log_bands(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """(frame, band): natural logarithms of the power in the bands of `mcd`, of a spectrogram (frame, bin)."""
    from librosa.filters import mel as mel_filters

    bands: NDArray[np.float64] = (
        power @ mel_filters(sr=MCD_RATE, n_fft=MCD_WINDOW, n_mels=MCD_BANDS, htk=True, norm=None).T
    )
    floor = bands.max() * 10 ** (-MCD_FLOOR_DB / 10)
    return np.log(np.maximum(bands, floor or 1.0))  # a silent waveform has a flat spectrum


def _power(
    waveform: NDArray[np.floating[Any]],
    window: int = LSD_WINDOW,
    hop: int = LSD_HOP,
    *,
    floor: float = LSD_FLOOR,
) -> NDArray[np.float64]:
    """(frame, bin), at least ``floor``; a waveform shorter than a window is one frame."""
    padded = np.pad(waveform, (0, max(0, window - waveform.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = np.hanning(window + 1)[:-1]  # periodic
    power: NDArray[np.float64] = np.square(np.abs(np.fft.rfft(frames * hann, axis=1)))
    return np.maximum(power, floor)
