"""Music by rule, such as electronic jingles are, and noise with a pitch: hum, sirens and beeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.degrade import Waveform

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
