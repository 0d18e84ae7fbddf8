"""Hiss and hum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Complex

from enhance_ray.training.degrade.effect import Effect, Range, Waveform, WholeRange, draw_whole
from enhance_ray.training.degrade.mixing import power_of


def add_gaussian_noise(waveform: Waveform, share: float, rng: np.random.Generator) -> Waveform:
    """``share`` of the signal and ``1 - share`` of white noise of the same energy."""
    noise = rng.standard_normal(waveform.size, dtype=np.float32)
    level = math.sqrt(power_of(waveform) / power_of(noise))
    return share * waveform + ((1 - share) * level) * noise


def add_hum(
    waveform: Waveform,
    sample_rate: int,
    *,
    frequency: float,
    harmonics: Complex[np.ndarray, " harmonic"],
    snr_db: float,
) -> Waveform:
    """Add mains hum, ``snr_db`` below the signal's power over the whole length.

    Args:
        waveform: the sound; to silence nothing is added.
        sample_rate: Hz.
        frequency: of the mains, in Hz.
        harmonics: (harmonic,) complex amplitudes of the multiples of ``frequency``, from the first.
        snr_db: 10 log10(signal power / hum power) in dB.
    """
    turn = 2j * math.pi * frequency / sample_rate
    phasor = np.exp(turn * np.arange(waveform.size)).astype(np.complex64)
    hum = np.zeros_like(phasor)
    for amplitude in harmonics[::-1]:  # Horner: ((a3 z + a2) z + a1) z
        hum += np.complex64(amplitude)
        hum *= phasor
    in_phase: Waveform = hum.real
    gain = math.sqrt(power_of(waveform) / power_of(in_phase)) * 10 ** (-snr_db / 20)
    return waveform + gain * in_phase


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Effect):
    """White noise: `add_gaussian_noise`."""

    LIMITS: ClassVar = {"share": (0, 1)}

    probability: float = 0.5
    share: Range = (0.8, 1.0)
    """Of the signal; the rest is noise of the same energy."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_gaussian_noise(waveform, rng.uniform(*self.share), rng)


@dataclass(frozen=True, kw_only=True)
class Hum(Effect):
    """Mains hum of 50 or 60 Hz, a little off, with harmonics that fall off at random: `add_hum`."""

    LIMITS: ClassVar = {"snr_db": (-20, 100), "harmonics": (1, 40)}

    snr_db: Range = (5.0, 35.0)
    harmonics: WholeRange = (3, 15)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        number = np.arange(1, draw_whole(rng, self.harmonics) + 1)
        amplitudes = rng.uniform(0.1, 1, number.size) / number ** rng.uniform(0, 2)
        return add_hum(
            waveform,
            sample_rate,
            frequency=rng.choice((50.0, 60.0)) * rng.uniform(0.998, 1.002),
            harmonics=amplitudes * np.exp(2j * np.pi * rng.random(number.size)),
            snr_db=rng.uniform(*self.snr_db),
        )
