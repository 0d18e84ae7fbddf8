"""What examples are made of and how: speech, music and noise come and go on their own in every one.

Each is there alone, and each mixture is. Part of the music and of the noise is synthesised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.activity.levels import LENGTH, amplitude, at_unit_level, rms, silence, steps_heard
from enhance_ray.training.activity.synthesis import synthesise_music, synthesise_noise
from enhance_ray.training.bank import Bank
from enhance_ray.training.degrade import Waveform, add_room, clip


class ActivityBanks(NamedTuple):
    """What examples are made of."""

    speech: Bank
    music: Bank
    noise: Bank
    rooms: Sequence[Waveform]


class ActivityExample(NamedTuple):
    """A mixture and what is heard in it."""

    waveform: Waveform
    heard: Bool[np.ndarray, "2 step"]
    """Speech, music."""


def make_example(banks: ActivityBanks, rng: np.random.Generator) -> ActivityExample:
    """Draw a mixture: speech, music and noise are each there or not, at once or for a while."""
    has_speech, has_music, has_noise = rng.random() < 0.58, rng.random() < 0.5, rng.random() < 0.6
    speech = at_unit_level(_draw_speech(banks, rng)) if has_speech else silence()
    music = at_unit_level(_draw_music(banks, rng)) if has_music else silence()
    noise = at_unit_level(_draw_noise(banks, rng)) if has_noise else silence()
    if has_speech:
        noise *= amplitude(-rng.uniform(-5, 30))
        music *= amplitude(-rng.uniform(-4, 20))
    else:
        noise *= amplitude(-rng.uniform(3, 30)) if has_music else 1
    heard = np.stack([steps_heard(speech, -32), steps_heard(music, -40)])
    if has_speech and rng.random() < 0.25:
        speech, noise = _denoise(speech, noise, rng), silence()
    mixture = speech + music + noise
    if rng.random() < 0.7:
        mixture = _colour(mixture, rng)
    if rng.random() < 0.15:
        mixture = clip(mixture, threshold_db=-rng.uniform(3, 15), soft=bool(rng.random() < 0.5))
    # What every recording has below its quietest sound; digital silence now and then.
    if rng.random() < 0.8:
        floor = rng.standard_normal(LENGTH, np.float32)
        mixture = mixture + floor * amplitude(-rng.uniform(40, 90))
    return ActivityExample(mixture * amplitude(-rng.uniform(10, 50)), heard)


def _draw_speech(banks: ActivityBanks, rng: np.random.Generator) -> Waveform:
    """Clips of one speaker (of one file, where speakers are unknown) with gaps; perhaps in a room."""
    speech = silence()
    index = int(rng.integers(len(banks.speech)))
    companions = banks.speech.companions(index)
    pause = rng.choice([0.15, 0.5, 2.0])
    at = int(rng.exponential(pause) * MODEL_RATE)
    speed = rng.uniform(0.92, 1.08)
    say(speech, banks.speech, companions, at, pause, rng, speed)
    if banks.rooms and rng.random() < 0.35:
        speech = add_room(np.float32(0.1) * speech, banks.rooms[int(rng.integers(len(banks.rooms)))])
    return speech


def say(
    speech: Waveform,
    bank: Bank,
    clips: NDArray[np.integer],
    at: int,
    pause: float,
    rng: np.random.Generator,
    speed: float | None = None,
) -> None:
    """Fill ``speech`` from sample ``at`` on with ``clips`` at random, ``pause`` s apart in the mean."""
    while at < LENGTH:
        read = _crop(bank, int(rng.choice(clips)), rng, LENGTH)
        piece = (read if speed is None else _resize(read, speed))[: LENGTH - at]
        speech[at : at + piece.size] = piece
        at += piece.size + int(rng.exponential(pause) * MODEL_RATE)


def _draw_music(banks: ActivityBanks, rng: np.random.Generator) -> Waveform:
    if rng.random() < 0.3:
        music = synthesise_music(LENGTH, rng)
    else:
        music = loop(banks.music, rng, speed=rng.uniform(0.85, 1.2))
    if banks.rooms and rng.random() < 0.1:
        music = add_room(np.float32(0.1) * music, banks.rooms[int(rng.integers(len(banks.rooms)))])
    return _for_a_while(music, rng) if rng.random() < 0.5 else music


def _draw_noise(banks: ActivityBanks, rng: np.random.Generator) -> Waveform:
    if rng.random() < 0.2:
        noise = synthesise_noise(LENGTH, rng)
    else:
        noise = loop(banks.noise, rng, speed=rng.uniform(0.8, 1.2))
    if rng.random() < 0.3:
        second = at_unit_level(loop(banks.noise, rng)) * rms(noise)
        noise = noise + second * amplitude(rng.uniform(-10, 5))
    return _for_a_while(noise, rng) if rng.random() < 0.2 else noise


def loop(bank: Bank, rng: np.random.Generator, speed: float = 1.0) -> Waveform:
    """A crop of one recording, repeated to full length."""
    piece = _resize(_crop(bank, int(rng.integers(len(bank))), rng, int(LENGTH * speed) + 1), speed)
    return np.resize(piece, LENGTH) if piece.size else silence()


def _crop(bank: Bank, index: int, rng: np.random.Generator, length: int) -> Waveform:
    return bank.read(index, int(rng.integers(max(0, bank.length(index) - length) + 1)), length)


def _resize(waveform: Waveform, speed: float) -> Waveform:
    """Play faster and higher. By straight lines: what they alias lies above what the net looks at."""
    times = np.arange(0, waveform.size - 1, speed)
    return np.asarray(np.interp(times, np.arange(waveform.size), waveform), np.float32)


def _for_a_while(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """Fade in and out, so that 1.5 s or more are left."""
    kept = int(rng.uniform(1.5, 9) * MODEL_RATE)
    start = int(rng.integers(-kept // 2, max(1, LENGTH - kept // 2)))
    fade = rng.uniform(0.02, 1.0) * MODEL_RATE
    time = np.arange(LENGTH)
    gain = np.clip(np.minimum(time - start, start + kept - time) / fade, 0, 1)
    return waveform * gain.astype(np.float32)


def _denoise(speech: Waveform, noise: Waveform, rng: np.random.Generator) -> Waveform:
    """What a denoiser leaves: a mask from the true powers, with errors and a floor, on the mixture."""
    n_fft, hop = 1680, 840
    window = torch.hann_window(n_fft)
    first, second = (
        torch.stft(torch.from_numpy(part), n_fft, hop, window=window, return_complex=True)
        for part in (speech, noise + 1e-4)
    )
    error = torch.from_numpy(rng.normal(0, rng.uniform(0, 6), first.shape).astype(np.float32))
    ratio = first.abs().square() / (second.abs().square() + 1e-12) * 10 ** (error / 10)
    mask = (ratio / (1 + ratio)).pow(rng.uniform(0.5, 1.5)).clamp_min(amplitude(-rng.uniform(12, 60)))
    cleaned: Waveform = torch.istft(mask * (first + second), n_fft, hop, window=window, length=LENGTH).numpy()
    return cleaned


def _colour(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """A random smooth response, often with an upper or lower limit of the band."""
    spectrum = scipy.fft.rfft(waveform)
    octaves = np.linspace(math.log2(40), math.log2(22_050), 9)
    gains = rng.normal(0, 4, octaves.size).cumsum() * 0.6
    frequencies = scipy.fft.rfftfreq(LENGTH, 1 / MODEL_RATE)
    grid = np.linspace(20, 22_050, 2000)
    curve = np.interp(np.log2(grid), octaves, gains - gains.mean())
    if rng.random() < 0.5:
        high = np.exp(rng.uniform(math.log(3400), math.log(12_000)))
        curve -= np.clip((grid - high) / high * rng.uniform(100, 1000), 0, 90)
    if rng.random() < 0.3:
        low = rng.uniform(80, 350)
        curve -= np.clip(np.log2(low / grid) * rng.uniform(12, 60), 0, 90)
    response = np.interp(frequencies, grid, amplitude(curve)).astype(np.float32)
    coloured: Waveform = scipy.fft.irfft(spectrum * response, LENGTH)
    return coloured
