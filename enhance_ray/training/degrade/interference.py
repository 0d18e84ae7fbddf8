"""Hiss, hum, wind and plosives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import scipy
from jaxtyping import Complex

from enhance_ray.settings.ranges import Probability, Range, WholeRange, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform, draw_logarithmic, draw_whole
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


def add_wind(
    waveform: Waveform,
    sample_rate: int,
    *,
    corner: float,
    gusts_per_second: float,
    snr_db: float,
    rng: np.random.Generator,
) -> Waveform:
    """Add wind on a microphone, ``snr_db`` below the signal's power over the whole length.

    Turbulence falls off by 1 / f in amplitude above a corner of some tens of hertz, and comes in gusts (Nelke
    and Vary 2014, "Measurement, analysis and simulation of wind noise signals for mobile communication
    devices", IWAENC).

    Args:
        waveform: the sound; to silence nothing is added.
        sample_rate: Hz.
        corner: in Hz.
        gusts_per_second: how often their level changes.
        snr_db: 10 log10(signal power / wind power) in dB.
        rng: draws turbulence and gusts.
    """
    points = scipy.fft.next_fast_len(waveform.size, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(points, dtype=np.float32))
    ratio = scipy.fft.rfftfreq(points, 1 / sample_rate) / corner
    # Below half of the corner a microphone hears nothing.
    spectrum *= (ratio > 0.5) / np.sqrt(1 + np.square(ratio))
    turbulence = scipy.fft.irfft(spectrum, points)[: waveform.size]
    levels = rng.uniform(-20, 0, max(2, round(gusts_per_second * waveform.size / sample_rate) + 2))
    curve = np.interp(np.linspace(0, levels.size - 1, waveform.size), np.arange(levels.size), levels)
    wind = np.asarray(turbulence * 10 ** (curve / 20), np.float32)
    if not wind.any():  # too short for any
        return waveform
    gain = math.sqrt(power_of(waveform) / power_of(wind)) * 10 ** (-snr_db / 20)
    return np.asarray(waveform + np.float32(gain) * wind, np.float32)


def add_plosives(
    waveform: Waveform,
    sample_rate: int,
    *,
    times: Sequence[float],
    frequency: float,
    decay: float,
    level: float,
) -> Waveform:
    """Add the thumps that breath makes on a microphone that is too near.

    Args:
        waveform: the sound.
        sample_rate: Hz.
        times: where they begin, in seconds.
        frequency: of the membrane's swing, in Hz.
        decay: seconds in which a swing falls to 1 / e.
        level: peak of a thump relative to the waveform's.
    """
    time = np.arange(round(6 * decay * sample_rate)) / sample_rate
    thump = np.sin(2 * np.pi * frequency * time) * np.exp(-time / decay)
    thump *= level * float(np.abs(waveform).max()) / np.abs(thump).max()
    added: Waveform = waveform.copy()
    for start in (round(second * sample_rate) for second in times):
        part = added[start : start + thump.size]
        part += thump[: part.size].astype(np.float32)
    return added


@settings
class GaussianNoise(Effect):
    """White noise: `add_gaussian_noise`."""

    probability: Probability = 0.5
    share: Annotated[Range, Within(0, 1)] = (0.8, 1.0)
    """Of the signal; the rest is noise of the same energy."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_gaussian_noise(waveform, rng.uniform(*self.share), rng)


@settings
class Hum(Effect):
    """Mains hum of 50 or 60 Hz, a little off, with harmonics that fall off at random: `add_hum`."""

    snr_db: Annotated[Range, Within(-20, 100)] = (5.0, 35.0)
    harmonics: Annotated[WholeRange, Within(1, 40)] = (3, 15)

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


@settings
class Wind(Effect):
    """Wind on the microphone: `add_wind`."""

    snr_db: Annotated[Range, Within(-30, 100)] = (-5.0, 20.0)
    corner: Annotated[Range, Within(5, 500)] = (20.0, 120.0)
    """Hz."""
    gusts_per_second: Annotated[Range, Within(0, 20)] = (0.5, 4.0)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_wind(
            waveform,
            sample_rate,
            corner=draw_logarithmic(rng, self.corner),
            gusts_per_second=rng.uniform(*self.gusts_per_second),
            snr_db=rng.uniform(*self.snr_db),
            rng=rng,
        )


@settings
class Plosives(Effect):
    """Breath on a microphone that is too near: `add_plosives`."""

    per_second: Annotated[Range, Within(0, 10)] = (0.3, 2.0)
    frequency: Annotated[Range, Within(10, 300)] = (30.0, 120.0)
    """Hz."""
    decay: Annotated[Range, Within(0.005, 0.2)] = (0.01, 0.04)
    """Seconds."""
    level_db: Annotated[Range, Within(-40, 20)] = (-12.0, 6.0)
    """Relative to the waveform's peak."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        seconds = waveform.size / sample_rate
        count = max(1, rng.poisson(rng.uniform(*self.per_second) * seconds))
        return add_plosives(
            waveform,
            sample_rate,
            times=rng.uniform(0, seconds, count).tolist(),
            frequency=draw_logarithmic(rng, self.frequency),
            decay=rng.uniform(*self.decay),
            level=10 ** (rng.uniform(*self.level_db) / 20),
        )
