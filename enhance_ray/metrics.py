"""How good a restored recording is: arrays in, one number out.

Every metric takes mono waveforms (time,) of equal length at one rate in Hz, in [-1, 1]; each states its
paper, its protocol, its unit and which direction is better. `METRICS` lists them; `score` computes all.
A number is nan where a metric is not defined: the reference is silent, or too short for its windows.

Resampling is libsoxr's (through librosa), not ours: a yardstick shares no code with what it measures.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import librosa
import numpy as np
from numpy.typing import NDArray

from enhance_ray.errors import ConfigError

Waveform = NDArray[np.floating[Any]]

WIDEBAND_RATE = 16_000
"""Rate in Hz at which PESQ-WB and DNSMOS are defined."""
ESTOI_RATE = 10_000

LSD_WINDOW = 2048
LSD_HOP = 512
LSD_FLOOR = 1e-8
"""Least power of a bin. A Hann window of 2048 gives the rounding noise of 16 bits a power of 6e-8: digital
silence and the same silence through a 16-bit file are nearly equal."""

DNSMOS_SECONDS = 9.01
"""Length of the windows that DNSMOS rates, one a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a number of `score` means."""

    title: str
    unit: str
    higher_is_better: bool
    digits: int
    """Decimals worth printing."""


METRICS = {
    "si_sdr": Metric(title="SI-SDR", unit="dB", higher_is_better=True, digits=2),
    "pesq_wb": Metric(title="PESQ-WB", unit="MOS-LQO", higher_is_better=True, digits=3),
    "estoi": Metric(title="ESTOI", unit="", higher_is_better=True, digits=3),
    "lsd": Metric(title="LSD", unit="log10 power", higher_is_better=False, digits=3),
    "dnsmos_sig": Metric(title="DNSMOS SIG", unit="MOS", higher_is_better=True, digits=3),
    "dnsmos_bak": Metric(title="DNSMOS BAK", unit="MOS", higher_is_better=True, digits=3),
    "dnsmos_ovrl": Metric(title="DNSMOS OVRL", unit="MOS", higher_is_better=True, digits=3),
}
"""Every number of `score`, in the order of tables."""


def score(estimate: Waveform, reference: Waveform, sample_rate: int) -> dict[str, float]:
    """All of `METRICS` for ``estimate`` of the clean ``reference``; DNSMOS hears ``estimate`` alone.

    Raises:
        ConfigError: a package of the `eval` extra is absent.
    """
    wideband_estimate = resample(estimate, sample_rate, WIDEBAND_RATE)
    wideband_reference = resample(reference, sample_rate, WIDEBAND_RATE)
    opinion = dnsmos(wideband_estimate, WIDEBAND_RATE)
    return {
        "si_sdr": si_sdr(estimate, reference),
        "pesq_wb": pesq_wb(wideband_estimate, wideband_reference, WIDEBAND_RATE),
        "estoi": estoi(estimate, reference, sample_rate),
        "lsd": lsd(estimate, reference, sample_rate),
        **{f"dnsmos_{scale}": value for scale, value in opinion.items()},
    }


def si_sdr(estimate: Waveform, reference: Waveform) -> float:
    """Scale-invariant signal-to-distortion ratio in dB; higher is better.

    Le Roux et al. 2019, "SDR - half-baked or well done?", arXiv:1811.02508, equation 5, on signals freed
    of their mean: the power of the reference's projection in the estimate over the power of all else.
    Any rate. inf where the estimate is the reference at another gain.
    """
    estimate, reference = _pair(estimate, reference)
    estimate = estimate - estimate.mean()
    reference = reference - reference.mean()
    energy = reference @ reference
    if energy == 0:
        return float("nan")
    target = (estimate @ reference / energy) * reference
    distortion = estimate - target
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: a silent estimate has no ratio
        return float(10 * np.log10((target @ target) / (distortion @ distortion)))


def pesq_wb(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Predicted listening quality, wide-band, MOS-LQO of about 1.04 to 4.64; higher is better.

    ITU-T P.862.2 (2007) at 16 kHz, by the ITU's own C code in the package `pesq`. It hears nothing above
    7 kHz. nan for less than 0.25 s, and where it finds no utterance.

    Raises:
        ConfigError: `pesq` is absent.
    """
    package = _require("pesq")
    estimate, reference = _pair(estimate, reference)
    if not reference.any():
        return float("nan")
    try:
        value = package.pesq(
            WIDEBAND_RATE,
            resample(reference, sample_rate, WIDEBAND_RATE),
            resample(estimate, sample_rate, WIDEBAND_RATE),
            "wb",
        )
    except (package.NoUtterancesError, package.BufferTooShortError):
        return float("nan")
    return float(value)


def estoi(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Extended short-time objective intelligibility, about 0 to 1; higher is better.

    Jensen and Taal 2016, doi:10.1109/TASLP.2016.2585878, at 10 kHz, by the package `pystoi`. Frames more
    than 40 dB below the reference's loudest are left out. nan where less than 0.4 s of them remains.

    Raises:
        ConfigError: `pystoi` is absent.
    """
    package = _require("pystoi")
    estimate, reference = _pair(estimate, reference)
    if not reference.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns of too few frames and returns 1e-5
        try:
            value = package.stoi(
                resample(reference, sample_rate, ESTOI_RATE),
                resample(estimate, sample_rate, ESTOI_RATE),
                ESTOI_RATE,
                extended=True,
            )
        except RuntimeWarning:
            return float("nan")
    return float(value)


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
    estimate, reference = _pair(estimate, reference)
    difference = _log_power(estimate) - _log_power(reference)
    if band is not None:
        frequency = np.fft.rfftfreq(LSD_WINDOW, 1 / sample_rate)
        difference = difference[:, (frequency >= band[0]) & (frequency < band[1])]
    return float(np.sqrt(np.square(difference).mean(axis=1)).mean())


def mel_distance(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Mean absolute difference of mel spectrograms in dB; lower is better.

    80 bands of Slaney's scale over the whole range, power of frames as in `lsd`. What vocoders are compared
    by (Kong et al. 2020, arXiv:2010.05646, section 3, as a loss); it hears timbre, and is deaf to phases.
    """
    from librosa.filters import mel as mel_filters

    estimate, reference = _pair(estimate, reference)
    filters = mel_filters(sr=sample_rate, n_fft=LSD_WINDOW, n_mels=80).T
    first, second = (
        10 * np.log10(np.maximum(np.power(10, _log_power(waveform)) @ filters, LSD_FLOOR))
        for waveform in (estimate, reference)
    )
    return float(np.abs(first - second).mean())


def dnsmos(waveform: Waveform, sample_rate: int) -> dict[str, float]:
    """Predicted opinion of speech (sig), background (bak) and whole (ovrl), MOS of 1 to 5; higher is better.

    DNSMOS P.835: Reddy et al. 2022, arXiv:2110.01763, at 16 kHz, with the weights in the package `speechmos`
    (not the personalised ones), on one thread. The mean over windows of 9.01 s, one a second; less than that
    is repeated. Samples beyond [-1, 1] are clipped, as a file of integers would do.

    Raises:
        ConfigError: `onnxruntime` or `speechmos` is absent.
    """
    session = _dnsmos_session()
    waveform = resample(np.asarray(waveform, dtype=np.float32), sample_rate, WIDEBAND_RATE).clip(-1, 1)
    if waveform.size == 0:
        return dict.fromkeys(("sig", "bak", "ovrl"), float("nan"))
    window = int(DNSMOS_SECONDS * WIDEBAND_RATE)
    while (
        waveform.size < window
    ):  # doubled, not tiled: the published script's way, and the numbers depend on it
        waveform = np.concatenate([waveform, waveform])
    windows = int(waveform.size // WIDEBAND_RATE - DNSMOS_SECONDS) + 1  # the script's rounding
    starts = WIDEBAND_RATE * np.arange(windows)
    raw = np.array([session.run(None, {"input_1": waveform[None, s : s + window]})[0][0] for s in starts])
    # One polynomial each fits the network's raw outputs to the ratings (DNS Challenge, dnsmos_local.py).
    return {
        "sig": float(np.polyval([-0.08397278, 1.22083953, 0.0052439], raw[:, 0]).mean()),
        "bak": float(np.polyval([-0.13166888, 1.60915514, -0.39604546], raw[:, 1]).mean()),
        "ovrl": float(np.polyval([-0.06766283, 1.11546468, 0.04602535], raw[:, 2]).mean()),
    }


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    count: int
    """How many values were defined."""


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of ``values`` and its percentile bootstrap interval (Efron 1979); nan values are left out.

    Give it differences of paired scores to ask whether one system is ahead of another on the same inputs.
    """
    defined = np.asarray([value for value in values if not np.isnan(value)], dtype=np.float64)
    if defined.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(seed).integers(defined.size, size=(resamples, defined.size))
    low, high = np.quantile(defined[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(defined.mean()), float(low), float(high), int(defined.size))


def resample(waveform: Waveform, rate_in: int, rate_out: int) -> Waveform:
    """``waveform`` (time,) at another rate, by libsoxr at high quality; as it is if the rates are equal."""
    if rate_in == rate_out:
        return waveform
    resampled: Waveform = librosa.resample(waveform, orig_sr=rate_in, target_sr=rate_out, res_type="soxr_hq")
    return resampled


def _pair(estimate: Waveform, reference: Waveform) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if estimate.ndim != 1 or estimate.shape != reference.shape:
        raise ValueError(
            f"expected two waveforms (time,) of equal length, got {estimate.shape}, {reference.shape}"
        )
    return estimate.astype(np.float64), reference.astype(np.float64)


def _log_power(waveform: NDArray[np.float64]) -> NDArray[np.float64]:
    """(frame, bin); a waveform shorter than a window is one frame."""
    padded = np.pad(waveform, (0, max(0, LSD_WINDOW - waveform.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, LSD_WINDOW)[::LSD_HOP]
    window = np.hanning(LSD_WINDOW + 1)[:-1]  # periodic
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=1)))
    return np.log10(np.maximum(power, LSD_FLOOR))


@cache
def _dnsmos_session() -> Any:
    onnxruntime = _require("onnxruntime")
    specification = importlib.util.find_spec("speechmos")  # its own loader would import what we do not need
    if specification is None or specification.origin is None:
        raise _missing("speechmos")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    weights = Path(specification.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise _missing(package) from error


def _missing(package: str) -> ConfigError:
    return ConfigError("scores", f"need the package {package}: pip install 'enhance-ray[eval]'")
