"""How good a restored recording is: arrays in, one number out.

    inputs       waveforms, resampling, packages of the `eval` extra
    signals      what arithmetic on the two waveforms says: ratios, spectra, levels
    listeners    what a model of a listener says: quality, intelligibility, speaker, phones
    table        `METRICS` lists them; `score` computes them
    intervals    means of many scores, with their uncertainty

Every metric takes mono waveforms (time,) of equal length at one rate in Hz, in [-1, 1]; each states its
paper, its protocol, its unit and which direction is better. A number is nan where a metric is not defined:
the reference is silent, or too short for its windows.

Resampling is libsoxr's, not ours: a yardstick shares no code with what it measures.
"""

from enhance_ray.metrics.inputs import Waveform, resample
from enhance_ray.metrics.intervals import Interval, mean_interval
from enhance_ray.metrics.listeners import (
    DNSMOS_CURVES,
    DNSMOS_SECONDS,
    ESTOI_RATE,
    NARROWBAND_RATE,
    PHONES_LEAST,
    SPEAKER_SECONDS,
    WIDEBAND_RATE,
    dnsmos,
    estoi,
    pesq_nb,
    pesq_wb,
    phone_error,
    speaker_similarity,
)
from enhance_ray.metrics.signals import (
    CLIPPED_LEAST,
    CLIPPED_RUN,
    LSD_FLOOR,
    LSD_HOP,
    LSD_WINDOW,
    MCD_RATE,
    clipped,
    loudness_change,
    lsd,
    lsd_high,
    mcd,
    mel_distance,
    si_sdr,
)
from enhance_ray.metrics.table import METRICS, OPINIONS, RECORDED, Metric, score

__all__ = [
    "CLIPPED_LEAST",
    "CLIPPED_RUN",
    "DNSMOS_CURVES",
    "DNSMOS_SECONDS",
    "ESTOI_RATE",
    "LSD_FLOOR",
    "LSD_HOP",
    "LSD_WINDOW",
    "MCD_RATE",
    "METRICS",
    "NARROWBAND_RATE",
    "OPINIONS",
    "PHONES_LEAST",
    "RECORDED",
    "SPEAKER_SECONDS",
    "WIDEBAND_RATE",
    "Interval",
    "Metric",
    "Waveform",
    "clipped",
    "dnsmos",
    "estoi",
    "loudness_change",
    "lsd",
    "lsd_high",
    "mcd",
    "mean_interval",
    "mel_distance",
    "pesq_nb",
    "pesq_wb",
    "phone_error",
    "resample",
    "score",
    "si_sdr",
    "speaker_similarity",
]
