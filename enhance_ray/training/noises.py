"""What disturbs speech in an example: recordings of noise, many voices at once, and bursts.

Bursts are what a mean level does not describe: keys, clicks, doors, steps, things that fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import Probability, Range, WholeRange, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.bank import Recordings
from enhance_ray.training.degrade.effect import Waveform, draw_whole

_SEARCH_SECONDS = 1.5
"""Of a recording, in which a burst is looked for."""
_ONSET_SECONDS = 0.01
"""Kept before the loudest sample of a burst."""


@settings
class Bursts:
    """Impulsive sounds from the recordings that `CorpusConfig.bursts` names."""

    probability: Probability = 0.0
    """How often they are the noise, or the most of it, in [0, 1]."""
    going_on: Probability = 0.5
    """How often a recording goes on for all of the example, as typing and steps do; else there are single
    events."""
    events: Annotated[WholeRange, Within(1, 100)] = (1, 8)
    """How many, where they are single."""
    seconds: Annotated[Range, Within(0.01, 1.5)] = (0.05, 0.8)
    """How long one is."""
    snr_db: Annotated[Range, Within(-40, 60)] = (-5.0, 15.0)
    """Level of speech over that of the bursts, both where they are active."""
    background: Probability = 0.5
    """How often there is other noise, too, 10 to 30 dB weaker."""

    def draw(
        self, noise: Recordings, chosen: NDArray[np.int64], length: int, rng: np.random.Generator
    ) -> Waveform:
        """``length`` samples of bursts out of the recordings ``chosen`` of ``noise``."""
        if rng.random() < self.going_on:
            return loop(noise, length, rng, int(rng.choice(chosen)))
        track = np.zeros(length, np.float32)
        for _ in range(draw_whole(rng, self.events)):
            event = _event(noise, int(rng.choice(chosen)), rng.uniform(*self.seconds), rng)
            at = int(rng.integers(length))
            piece = event[: length - at]
            track[at : at + piece.size] += np.float32(10 ** (rng.uniform(-12, 0) / 20)) * piece
        return track


def _event(bank: Recordings, index: int, seconds: float, rng: np.random.Generator) -> Waveform:
    """The loudest sound in some part of a recording, with a peak of 1 and a fade at its end."""
    search = int(_SEARCH_SECONDS * MODEL_RATE)
    start = int(rng.integers(max(0, bank.length(index) - search) + 1))
    part = bank.read(index, start, search)
    onset = max(0, int(np.abs(part).argmax()) - int(_ONSET_SECONDS * MODEL_RATE))
    event = part[onset : onset + int(seconds * MODEL_RATE)]
    fade = event.size // 4
    event[event.size - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    peak: np.float32 = np.abs(event).max(initial=0) + np.float32(1e-7)
    return event / peak


def draw_babble(speech: Recordings, voices: WholeRange, length: int, rng: np.random.Generator) -> Waveform:
    """Several random voices at once, ``voices`` of them."""
    return add_up([loop(speech, length, rng) for _ in range(draw_whole(rng, voices))])


def draw_noises(noise: Recordings, most: int, length: int, rng: np.random.Generator) -> Waveform:
    """A random noise, and up to ``most - 1`` others from 15 dB weaker to 5 dB stronger."""
    noises = [loop(noise, length, rng)]
    for _ in range(int(rng.integers(most))):
        gain = 10 ** (rng.uniform(-15, 5) / 20)
        noises.append(gain * loop(noise, length, rng))
    return add_up(noises)


def add_up(waveforms: Sequence[Waveform]) -> Waveform:
    """The sum, in single precision."""
    return np.asarray(np.sum(waveforms, axis=0), np.float32)


def loop(bank: Recordings, length: int, rng: np.random.Generator, index: int | None = None) -> Waveform:
    """A random crop of a recording, by default a random one, repeated where it is shorter than ``length``."""
    if index is None:
        index = int(rng.integers(len(bank)))
    room = max(0, bank.length(index) - length)
    clip = bank.read(index, int(rng.integers(room + 1)), length)
    repeated: Waveform = np.resize(clip, length)
    return repeated
