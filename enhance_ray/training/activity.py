"""Train the net that hears speech and music (`models.activity`) from folders of audio, on a CPU.

    python -m enhance_ray.training.activity --speech fg.csv --music songs --noise bg.csv --rooms rir --out new

Speech, music and noise come and go on their own in every example: each is there alone, and each mixture is.
Part of the music is synthesised, for the sake of electronic jingles; part of the noise is hum, sirens and
beeps, which have a pitch and are no music. Writes `model.safetensors`, and prints how the guard
(`activity.music_alone`) does on what was kept out.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float, Float32
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from enhance_ray.models import activity, packaged
from enhance_ray.models.activity import STEP, ActivityNet
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.bank import Bank, load_bank
from enhance_ray.training.corpus import load_rirs
from enhance_ray.training.degrade import add_room, clip, limit_bandwidth
from enhance_ray.training.sources import Source, list_sources
from enhance_ray.training.splits import Split

logger = logging.getLogger(__name__)

Waveform = Float32[np.ndarray, " time"]

STEPS = 52
"""Steps of an example, 9.9 s."""
LENGTH = STEPS * STEP
HELD_OUT_EVERY = 8
HANGOVER = 2
"""Steps for which a sound counts as heard after it fell silent, 0.4 s: words and notes have gaps."""
NARROWEST = 35
"""Bands that a telephone leaves: up to 3.4 kHz."""
NEITHER = ("wind-chimes", "tuning-radio")
"""In names of recordings that are neither clearly noise nor clearly anything else: left out."""


class Banks(NamedTuple):
    """What examples are made of."""

    speech: Bank
    music: Bank
    noise: Bank
    rooms: Sequence[Waveform]


class Example(NamedTuple):
    """A mixture and what is heard in it."""

    waveform: Waveform
    heard: Bool[np.ndarray, "2 step"]
    """Speech, music."""


# --------------------------------------------------------------------------------- examples


def make_example(banks: Banks, rng: np.random.Generator) -> Example:
    """Draw a mixture: speech, music and noise are each there or not, at once or for a while."""
    has_speech, has_music, has_noise = rng.random() < 0.58, rng.random() < 0.5, rng.random() < 0.6
    speech = _at_unit_level(_draw_speech(banks, rng)) if has_speech else _silence()
    music = _at_unit_level(_draw_music(banks, rng)) if has_music else _silence()
    noise = _at_unit_level(_draw_noise(banks, rng)) if has_noise else _silence()
    if has_speech:
        noise *= _amplitude(-rng.uniform(-5, 30))
        music *= _amplitude(-rng.uniform(-4, 20))
    else:
        noise *= _amplitude(-rng.uniform(3, 30)) if has_music else 1
    heard = np.stack([_heard(speech, -32), _heard(music, -40)])
    if has_speech and rng.random() < 0.25:
        speech, noise = _denoise(speech, noise, rng), _silence()
    mixture = speech + music + noise
    if rng.random() < 0.7:
        mixture = _colour(mixture, rng)
    if rng.random() < 0.15:
        mixture = clip(mixture, threshold_db=-rng.uniform(3, 15), soft=bool(rng.random() < 0.5))
    # What every recording has below its quietest sound; digital silence now and then.
    if rng.random() < 0.8:
        floor = rng.standard_normal(LENGTH, np.float32)
        mixture = mixture + floor * _amplitude(-rng.uniform(40, 90))
    return Example(mixture * _amplitude(-rng.uniform(10, 50)), heard)


def _draw_speech(banks: Banks, rng: np.random.Generator) -> Waveform:
    """Clips of one speaker (of one file, where speakers are unknown) with gaps; perhaps in a room."""
    speech = _silence()
    index = int(rng.integers(len(banks.speech)))
    companions = banks.speech.companions(index)
    pause = rng.choice([0.15, 0.5, 2.0])
    at = int(rng.exponential(pause) * MODEL_RATE)
    speed = rng.uniform(0.92, 1.08)
    _say(speech, banks.speech, companions, at, pause, rng, speed)
    if banks.rooms and rng.random() < 0.35:
        speech = add_room(np.float32(0.1) * speech, banks.rooms[int(rng.integers(len(banks.rooms)))])
    return speech


def _say(
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


def _draw_music(banks: Banks, rng: np.random.Generator) -> Waveform:
    if rng.random() < 0.3:
        music = synthesise_music(LENGTH, rng)
    else:
        music = _loop(banks.music, rng, speed=rng.uniform(0.85, 1.2))
    if banks.rooms and rng.random() < 0.1:
        music = add_room(np.float32(0.1) * music, banks.rooms[int(rng.integers(len(banks.rooms)))])
    return _for_a_while(music, rng) if rng.random() < 0.5 else music


def _draw_noise(banks: Banks, rng: np.random.Generator) -> Waveform:
    if rng.random() < 0.2:
        noise = synthesise_noise(LENGTH, rng)
    else:
        noise = _loop(banks.noise, rng, speed=rng.uniform(0.8, 1.2))
    if rng.random() < 0.3:
        second = _at_unit_level(_loop(banks.noise, rng)) * _rms(noise)
        noise = noise + second * _amplitude(rng.uniform(-10, 5))
    return _for_a_while(noise, rng) if rng.random() < 0.2 else noise


def _loop(bank: Bank, rng: np.random.Generator, speed: float = 1.0) -> Waveform:
    """A crop of one recording, repeated to full length."""
    piece = _resize(_crop(bank, int(rng.integers(len(bank))), rng, int(LENGTH * speed) + 1), speed)
    return np.resize(piece, LENGTH) if piece.size else _silence()


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
    mask = (ratio / (1 + ratio)).pow(rng.uniform(0.5, 1.5)).clamp_min(_amplitude(-rng.uniform(12, 60)))
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
    response = np.interp(frequencies, grid, _amplitude(curve)).astype(np.float32)
    coloured: Waveform = scipy.fft.irfft(spectrum * response, LENGTH)
    return coloured


def _heard(waveform: Waveform, threshold_db: float) -> Bool[np.ndarray, " step"]:
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


def _silence() -> Waveform:
    return np.zeros(LENGTH, np.float32)


def _rms(waveform: Waveform) -> float:
    """Root of the mean power where it is within 30 dB of the loudest step."""
    powers = np.square(waveform, dtype=np.float64).reshape(STEPS, STEP).mean(-1)
    return math.sqrt(powers[powers >= 1e-3 * powers.max()].mean())


def _at_unit_level(waveform: Waveform) -> Waveform:
    return waveform * np.float32(0.1 / (_rms(waveform) + 1e-9))


def _amplitude(decibels: Any) -> Any:
    return np.power(np.float32(10), np.asarray(decibels, np.float32) / np.float32(20))


# -------------------------------------------------------------------------------- synthesis

_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10))
"""Major, minor and two pentatonic ones, in semitones."""
_TABLE = 2048
_REST = -1


class _Timbre(NamedTuple):
    """A note's waveform as a table that is read at the note's rate."""

    table: Float32[np.ndarray, " table"]
    turns: int
    """Periods of the fundamental in the table: a bell's partials only meet again after several."""


class _Key(NamedTuple):
    root: float
    """MIDI number of degree 0."""
    scale: Sequence[int]

    def pitch(self, degree: int) -> float:
        """MIDI number of a degree of the scale, in any octave."""
        octave, place = divmod(degree, len(self.scale))
        return self.root + 12 * octave + self.scale[place]


def synthesise_music(length: int, rng: np.random.Generator) -> Waveform:
    """Music by rule, such as electronic jingles are: a few chimes, or chords, tune, bass and drums."""
    music = np.zeros(length, np.float32)
    key = _Key(rng.uniform(40, 76), _SCALES[int(rng.integers(len(_SCALES)))])
    if rng.random() < 0.25:
        _play_chimes(music, key, rng)
    else:
        _play_band(music, key, rng)
    return music


def _play_chimes(music: Waveform, key: _Key, rng: np.random.Generator) -> None:
    """Figures of three to seven notes that ring on, and pauses."""
    gap, at = rng.uniform(0.12, 0.8) * MODEL_RATE, 0.0
    decay = rng.uniform(0.3, 2.0)
    timbre = _draw_timbre(rng)
    while at < music.size:
        for _ in range(int(rng.integers(3, 8))):
            note = key.pitch(int(rng.integers(4, 15)))
            _add_note(music, at, 3 * decay, note, timbre, attack=0.004, decay=decay)
            at += gap
        at += rng.uniform(0, 2.0) * MODEL_RATE


def _play_band(music: Waveform, key: _Key, rng: np.random.Generator) -> None:
    """Four chords over and over: held, or under a tune that repeats, perhaps with bass and drums."""
    beat = MODEL_RATE * 60 / rng.uniform(70, 170)
    beats = int(rng.choice([3, 4, 4]))
    division = float(rng.choice([0.25, 0.5, 0.5, 1.0]))
    chords = rng.integers(0, 7, 4)
    pad, lead, bass = _draw_timbre(rng), _draw_timbre(rng), _draw_timbre(rng)
    has_pad, has_lead, has_bass, has_drums = rng.random(4) < (0.7, 0.7, 0.5, 0.5)
    has_lead |= not has_pad
    # Degrees above the chord's root; two of eight are rests.
    tune = rng.choice([0, 2, 4, 7, 4, 2, _REST, _REST], int(rng.integers(3, 9)))
    drums = rng.random((2, 8)) < ((0.4,), (0.5,))
    loudness = rng.uniform(0.3, 1, 4)
    seconds = division * beat / MODEL_RATE
    for bar in range(int(music.size / (beat * beats)) + 1):
        start, chord = bar * beats * beat, int(chords[bar % 4])
        for degree in (0, 2, 4) if has_pad else ():
            note = key.pitch(chord + degree)
            _add_note(music, start, beats * beat / MODEL_RATE, note, pad, loudness[0], attack=0.08, decay=4)
        for step in range(int(beats / division)):
            at = start + step * division * beat
            degree = int(tune[step % len(tune)])
            if has_lead and degree != _REST:
                note = key.pitch(chord + len(key.scale) + degree)
                _add_note(music, at, 2 * seconds, note, lead, loudness[1], decay=0.4)
            if has_bass and step % 2 == 0:
                _add_note(music, at, seconds, key.pitch(chord) - 12, bass, loudness[2], decay=0.5)
            if has_drums and drums[0, step % 8]:
                _add_hit(music, at, _kick(), loudness[3])
            if has_drums and drums[1, step % 8]:
                _add_hit(music, at, _snare(rng), loudness[3])


def _draw_timbre(rng: np.random.Generator) -> _Timbre:
    """Harmonics that fall off, all of them or the odd ones; or a bell, near 1 : 2.76 : 5.4 : 8.93."""
    kind, count = int(rng.integers(3)), int(rng.integers(1, 16))
    numbers = (np.arange(1, count + 1), np.arange(1, 2 * count, 2), np.array([4, 11, 22, 36]))[kind]
    strengths = (numbers / numbers[0]) ** -rng.uniform(0.6, 2.0)
    phase = np.arange(_TABLE) / _TABLE * 2 * math.pi
    table = np.sin(phase[:, None] * numbers + rng.uniform(0, 2 * math.pi, numbers.size)) @ strengths
    return _Timbre(table.astype(np.float32), int(numbers[0]))


def _add_note(
    music: Waveform,
    at: float,
    seconds: float,
    note: float,
    timbre: _Timbre,
    loudness: float = 0.5,
    *,
    attack: float = 0.01,
    decay: float,
) -> None:
    """Add a note (MIDI number) to ``music`` from sample ``at`` on; times in seconds."""
    time = np.arange(int(seconds * MODEL_RATE), dtype=np.float32) / MODEL_RATE
    cycles = time * np.float32(440 * 2 ** ((note - 69) / 12) / timbre.turns)
    wave = timbre.table[(cycles * _TABLE).astype(np.int64) % _TABLE]
    envelope = np.minimum(time / attack, 1) * np.exp(-time / decay) * np.minimum((seconds - time) / 0.01, 1)
    _add_hit(music, at, envelope * wave, loudness)


def _kick() -> NDArray[np.float64]:
    """A sine that falls from 160 to 50 Hz."""
    time = np.arange(int(0.2 * MODEL_RATE)) / MODEL_RATE
    hit: NDArray[np.float64] = 2 * np.sin(2 * math.pi * (50 * time - 4.4 * np.exp(-time / 0.04)))
    return hit * np.exp(-time / 0.08)


def _snare(rng: np.random.Generator) -> NDArray[np.float64]:
    time = np.arange(int(0.2 * MODEL_RATE)) / MODEL_RATE
    return 0.8 * rng.standard_normal(time.size) * np.exp(-time / rng.uniform(0.01, 0.06))


def _add_hit(music: Waveform, at: float, sound: NDArray[np.floating[Any]], loudness: float) -> None:
    part = sound[: max(0, music.size - int(at))]
    music[int(at) : int(at) + part.size] += (loudness * part).astype(np.float32)


def synthesise_noise(length: int, rng: np.random.Generator, kind: int | None = None) -> Waveform:
    """Noise with a pitch: ``kind`` 0 is steady, 1 glides, 2 and 3 are beeps of one pitch and of two."""
    time = np.arange(length, dtype=np.float64) / MODEL_RATE
    kind = int(rng.integers(4)) if kind is None else kind
    if kind == 0:  # mains, or a machine that runs steadily
        frequency = rng.choice([50, 60, 100, 120, rng.uniform(30, 400)])
        track = np.full(length, frequency)
    elif kind == 1:  # an engine, a siren, a drone: pitch that glides
        knots = np.cumsum(rng.normal(0, rng.uniform(0.02, 0.3), 8))
        track = np.exp2(math.log2(rng.uniform(40, 900)) + np.interp(time, np.linspace(0, time[-1], 8), knots))
        if rng.random() < 0.4:
            track = track * np.exp2(rng.uniform(0.1, 0.6) * np.sin(2 * math.pi * rng.uniform(0.2, 4) * time))
    else:  # beeps: one pitch, or two in turn
        track = np.full(length, rng.uniform(400, 3000))
        if kind == 3:
            track[(time * rng.uniform(0.8, 6)).astype(int) % 2 == 1] *= rng.uniform(1.05, 1.6)
    phase = 2 * math.pi * np.cumsum(track) / MODEL_RATE
    count = int(rng.integers(1, 6 if kind > 1 else 16))
    strengths = rng.uniform(0.05, 1, count) * np.arange(1, count + 1) ** -rng.uniform(0, 1.5)
    sound = sum(strengths[k] * np.sin((k + 1) * phase) for k in range(count))
    if kind >= 2:
        period = rng.uniform(0.2, 2.5)
        sound = sound * ((time % period) < period * rng.uniform(0.2, 0.9 if kind == 2 else 1.3))
    hiss = rng.standard_normal(length) * rng.choice([0.001, 0.03, 0.3])
    return np.asarray(sound / (np.std(sound) + 1e-9) + hiss, np.float32)


# --------------------------------------------------------------------------------- training


class Features(Dataset[tuple[Tensor, Tensor]]):
    """Examples as the net sees them, with the labels; equal (seed, index) give equal ones."""

    def __init__(self, banks: Banks, seed: int, count: int) -> None:
        self.banks, self.seed, self.count = banks, seed, count
        self.net = ActivityNet()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(1)
        example = make_example(self.banks, np.random.default_rng([self.seed, index]))
        with torch.no_grad():
            features = self.net.features(torch.from_numpy(np.asarray(example.waveform, np.float32))[None])[0]
        return features.half(), torch.from_numpy(example.heard)


def train(
    features: Tensor, heard: Tensor, *, seed: int, epochs: int, batch: int = 32, rate: float = 3e-3
) -> ActivityNet:
    """Fit a net: binary cross-entropy of both answers, AdamW, one cycle of the learning rate.

    The learning rate goes as in Smith and Topin 2017, arXiv:1708.07120.

    Args:
        features: (example, band, frame).
        heard: (example, 2, step).
        seed: decides weights and order.
        epochs: over all examples.
        batch: examples in a step.
        rate: the cycle's highest learning rate.
    """
    torch.manual_seed(seed)
    net = ActivityNet().train()
    steps = epochs * (len(features) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(features)).split(batch):
            if len(rows) < batch:
                continue
            x = _narrow(features[rows].float())
            loss = F.binary_cross_entropy_with_logits(net.classify(x), heard[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        logger.info("epoch %d: loss %.4f", epoch + 1, np.mean(losses))
    return net.eval()


def _narrow(features: Float[Tensor, "batch band frame"]) -> Float[Tensor, "batch band frame"]:
    """Empty the bands above some frequency, 3.4 kHz at the least, in three of ten examples."""
    bands = features.shape[1]
    kept = torch.randint(NARROWEST, bands, (len(features), 1, 1))
    kept = torch.where(torch.rand(kept.shape) < 0.3, kept, bands)
    return features * (torch.arange(bands)[:, None] < kept)


# ------------------------------------------------------------------------------- validation


class Scene(NamedTuple):
    """Recordings of one kind, to count the guard's answers on."""

    name: str
    draw: Callable[[Banks, np.random.Generator], Example]
    share: float
    """In how many of a window's steps the first of its sounds has to be heard for the window to count."""


class Count(NamedTuple):
    """How many windows of a scene were called music alone."""

    called: int
    windows: int


def _scene(
    speech: bool = False,
    music: bool = False,
    noise: bool = False,
    *,
    below: tuple[float, float] = (0, 20),
    high: float | None = None,
    pause: float = 0.3,
) -> Callable[[Banks, np.random.Generator], Example]:
    """Recordings of what is named, the later things ``below`` dB under the first, up to ``high`` Hz."""

    def draw(banks: Banks, rng: np.random.Generator) -> Example:
        parts = [
            _at_unit_level(part)
            for part in (
                _talk(banks, rng, pause) if speech else _silence(),
                _loop(banks.music, rng) if music else _silence(),
                _loop(banks.noise, rng) if noise else _silence(),
            )
        ]
        first = next(i for i, there in enumerate((speech, music, noise)) if there)
        loud = parts[first]
        mixture = loud + sum(
            part * _amplitude(-rng.uniform(*below)) for i, part in enumerate(parts) if i > first
        )
        if high is not None:
            mixture = limit_bandwidth(mixture, MODEL_RATE, int(2 * high))
        hiss = rng.standard_normal(LENGTH, np.float32) * np.float32(1e-5)
        threshold = -32 if speech else -40
        heard = _heard(loud, threshold)
        return Example(mixture + hiss, np.stack([heard & speech, heard & (not speech)]))

    return draw


def _synthetic(make: Callable[[int, np.random.Generator], Waveform]) -> Callable[..., Example]:
    def draw(banks: Banks, rng: np.random.Generator) -> Example:
        waveform = _at_unit_level(make(LENGTH, rng))
        heard = _heard(waveform, -40)
        return Example(waveform, np.stack([np.zeros_like(heard), heard]))

    return draw


def _hum(length: int, rng: np.random.Generator) -> Waveform:
    return synthesise_noise(length, rng, kind=0)


def _glide(length: int, rng: np.random.Generator) -> Waveform:
    return synthesise_noise(length, rng, kind=1)


def _beeps(length: int, rng: np.random.Generator) -> Waveform:
    return synthesise_noise(length, rng, kind=int(rng.integers(2, 4)))


def _talk(banks: Banks, rng: np.random.Generator, pause: float) -> Waveform:
    """Clips of one speaker with gaps of ``pause`` seconds in the mean, as they are."""
    speech = _silence()
    companions = banks.speech.companions(int(rng.integers(len(banks.speech))))
    _say(speech, banks.speech, companions, 0, pause, rng)
    return speech


SCENES = (
    Scene("music", _scene(music=True), 1.0),
    Scene("music up to 4 kHz", _scene(music=True, high=4000), 1.0),
    Scene("music, noise 10 to 20 dB below", _scene(music=True, noise=True, below=(10, 20)), 1.0),
    Scene("music by rule", _synthetic(synthesise_music), 1.0),
    Scene("speech", _scene(speech=True), 0.5),
    Scene("speech up to 4 kHz", _scene(speech=True, high=4000), 0.5),
    Scene("speech, noise 0 to 20 dB below", _scene(speech=True, noise=True), 0.5),
    Scene("speech, music 5 to 20 dB below", _scene(speech=True, music=True, below=(5, 20)), 0.5),
    Scene("speech, music 0 to 5 dB below", _scene(speech=True, music=True, below=(0, 5)), 0.5),
    Scene(
        "speech with pauses, music 5 to 20 dB below",
        _scene(speech=True, music=True, below=(5, 20), pause=2),
        0.1,
    ),
    Scene("noise", _scene(noise=True), 0.0),
    Scene("noise up to 4 kHz", _scene(noise=True, high=4000), 0.0),
    Scene("steady hum", _synthetic(_hum), 0.0),
    Scene("gliding tones", _synthetic(_glide), 0.0),
    Scene("beeps", _synthetic(_beeps), 0.0),
)


def evaluate(net: ActivityNet, banks: Banks, *, seed: int, recordings: int) -> dict[str, Count]:
    """Windows of `activity.WINDOW` that `activity.music_alone` calls music alone, by scene.

    Windows do not overlap; in a scene with speech or music those count in which it is heard for long enough.
    """
    counts = {}
    for number, scene in enumerate(SCENES):
        called = windows = 0
        for logits, heard in answers(net, banks, scene, seed=seed, number=number, recordings=recordings):
            alone = activity.music_alone(logits[None])[0].numpy()
            centres = windows_of(heard, scene.share)
            called += int(alone[centres].sum())
            windows += len(centres)
        counts[scene.name] = Count(called, windows)
    return counts


def answers(
    net: ActivityNet, banks: Banks, scene: Scene, *, seed: int, number: int, recordings: int
) -> Iterator[tuple[Tensor, Bool[np.ndarray, "2 step"]]]:
    """The net's logits (2, step) for ``recordings`` of ``scene``, and what is heard in them."""
    for index in range(recordings):
        example = scene.draw(banks, np.random.default_rng([seed, number, index]))
        with torch.inference_mode():
            yield net(torch.from_numpy(np.asarray(example.waveform, np.float32))[None])[0], example.heard


def windows_of(heard: Bool[np.ndarray, "2 step"], share: float) -> NDArray[np.int64]:
    """Centres of the windows in which something is heard in ``share`` of the steps or more."""
    half = activity.WINDOW // 2
    centres = np.arange(half, STEPS - half, activity.WINDOW)
    heard_any = heard[0] | heard[1]
    return np.array(
        [k for k in centres if heard_any[k - half : k + half + 1].mean() >= share], dtype=np.int64
    )


# ------------------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Decode, make examples, train, write and validate; returns the exit status."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    examples = Features(_banks(args, "train"), args.seed, args.examples)
    features, heard = [], []
    for x, y in DataLoader(examples, batch_size=50, num_workers=args.workers):
        features.append(x)
        heard.append(y)
        logger.info("examples: %d of %d", 50 * len(features), args.examples)
    net = train(torch.cat(features), torch.cat(heard), seed=args.seed, epochs=args.epochs)
    packaged.save(net, args.out)
    counts = evaluate(net, _banks(args, "valid"), seed=args.seed + 1, recordings=args.recordings)
    lines = [
        f"| {name} | {count.called} | {count.windows} | {100 * count.called / max(1, count.windows):.1f} % |"
        for name, count in counts.items()
    ]
    table = "\n".join(["| recordings | called music alone | of windows | |", "|---|---:|---:|---:|", *lines])
    sys.stdout.write(f"{table}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m enhance_ray.training.activity",
        description="Train the net that hears speech and music. A folder is for training as a whole; a list "
        "says in its column split what is validation.",
    )
    parser.add_argument("--speech", nargs="+", required=True, help="clean speech: folders or lists")
    parser.add_argument("--music", nargs="+", default=[], help="music to train on: folders or lists")
    parser.add_argument("--valid-music", nargs="+", default=[], help="folders of music for validation alone")
    parser.add_argument(
        "--noise",
        nargs="+",
        required=True,
        help="noise: folders or lists; files named *music* in it are music",
    )
    parser.add_argument("--rooms", nargs="*", default=[], help="folders of impulse responses")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder for decoded audio")
    parser.add_argument("--examples", type=int, default=6500, help="of 10 s (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=24, help="over all examples (default: %(default)s)")
    parser.add_argument(
        "--recordings",
        type=int,
        default=100,
        help="of 10 s for each kind in validation (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes for examples (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides everything (default: %(default)s)")
    return parser


def _banks(args: argparse.Namespace, split: Split) -> Banks:
    whole = args.valid_music if split == "valid" else []
    noise = [
        source
        for source in _sources(args.noise, split)
        if not any(word in Path(source.name).name for word in NEITHER)
    ]
    music = [source for source in noise if "music" in Path(source.name).name]
    music += _sources(args.music, split) + (list_sources(".", whole, None, HELD_OUT_EVERY) if whole else [])
    speech, musical, noisy = (
        load_bank(sources, args.cache)
        for sources in (
            _sources(args.speech, split),
            music,
            [source for source in noise if "music" not in Path(source.name).name],
        )
    )
    rooms = [room for folder in args.rooms for room in load_rirs(folder, split=split)]
    return Banks(speech, musical, noisy, rooms)


def _sources(entries: Sequence[str], split: Split) -> list[Source]:
    """The recordings of ``split``: lists know theirs, and folders are for training."""
    lists = [entry for entry in entries if Path(entry).suffix in (".csv", ".jsonl", ".parquet")]
    folders = [entry for entry in entries if entry not in lists]
    found = list_sources(".", lists, split, HELD_OUT_EVERY) if lists else []
    return found + (list_sources(".", folders, None, HELD_OUT_EVERY) if folders and split == "train" else [])


if __name__ == "__main__":
    sys.exit(main())
