"""Waveforms of the length of an example: how loud they are, and in which steps they are heard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool

from enhance_ray.models.activity import STEP
from enhance_ray.training.degrade import Waveform

STEPS = 52
"""Steps of an example, 9.9 s."""
LENGTH = STEPS * STEP
HANGOVER = 2
"""Steps for which a sound counts as heard after it fell silent, 0.4 s: words and notes have gaps."""


def steps_heard(waveform: Waveform, threshold_db: float) -> Bool[np.ndarray, " step"]:
    """Steps that are within ``threshold_db`` of the mean power of the active ones, and `HANGOVER` after."""
    powers = np.square(waveform, dtype=np.float64).reshape(STEPS, STEP).mean(-1)
    if powers.max() == 0:
        return np.zeros(STEPS, bool)
    active = powers[powers >= 1e-3 * powers.max()].mean()
    loud = powers >= active * 10 ** (threshold_db / 10)
    held: Bool[np.ndarray, " step"] = scipy.ndimage.maximum_filter1d(
        loud, HANGOVER + 1, origin=HANGOVER // 2, mode="constant"
    )
    return held


def silence() -> Waveform:
    """An example in which nothing is heard."""
    return np.zeros(LENGTH, np.float32)


def rms(waveform: Waveform) -> float:
    """Root of the mean power where it is within 30 dB of the loudest step."""
    powers = np.square(waveform, dtype=np.float64).reshape(STEPS, STEP).mean(-1)
    return math.sqrt(powers[powers >= 1e-3 * powers.max()].mean())


def at_unit_level(waveform: Waveform) -> Waveform:
    """``waveform`` with an `rms` of 0.1."""
    return waveform * np.float32(0.1 / (rms(waveform) + 1e-9))


def amplitude(decibels: Any) -> Any:
    """The factor on samples that a gain in dB is, in float32."""
    return np.power(np.float32(10), np.asarray(decibels, np.float32) / np.float32(20))
