"""Scenes of what was kept out: what the net answers, and how often the guard calls them music alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from enhance_ray.models import activity
from enhance_ray.models.activity import ActivityNet
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.activity.examples import ActivityBanks, ActivityExample, loop, say
from enhance_ray.training.activity.levels import LENGTH, STEPS, amplitude, at_unit_level, silence, steps_heard
from enhance_ray.training.activity.synthesis import synthesise_music, synthesise_noise
from enhance_ray.training.degrade import Waveform, limit_bandwidth


class Scene(NamedTuple):
    """Recordings of one kind, to count the guard's answers on."""

    name: str
    draw: Callable[[ActivityBanks, np.random.Generator], ActivityExample]
    share: float
    """In how many of a window's steps the first of its sounds has to be heard for the window to count."""


class Tally(NamedTuple):
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
) -> Callable[[ActivityBanks, np.random.Generator], ActivityExample]:
    """Recordings of what is named, the later things ``below`` dB under the first, up to ``high`` Hz."""

    def draw(banks: ActivityBanks, rng: np.random.Generator) -> ActivityExample:
        parts = [
            at_unit_level(part)
            for part in (
                _talk(banks, rng, pause) if speech else silence(),
                loop(banks.music, rng) if music else silence(),
                loop(banks.noise, rng) if noise else silence(),
            )
        ]
        first = next(i for i, there in enumerate((speech, music, noise)) if there)
        loud = parts[first]
        mixture = loud + sum(
            part * amplitude(-rng.uniform(*below)) for i, part in enumerate(parts) if i > first
        )
        if high is not None:
            mixture = limit_bandwidth(mixture, MODEL_RATE, int(2 * high))
        hiss = rng.standard_normal(LENGTH, np.float32) * np.float32(1e-5)
        threshold = -32 if speech else -40
        heard = steps_heard(loud, threshold)
        return ActivityExample(mixture + hiss, np.stack([heard & speech, heard & (not speech)]))

    return draw


def _synthetic(make: Callable[[int, np.random.Generator], Waveform]) -> Callable[..., ActivityExample]:
    def draw(banks: ActivityBanks, rng: np.random.Generator) -> ActivityExample:
        waveform = at_unit_level(make(LENGTH, rng))
        heard = steps_heard(waveform, -40)
        return ActivityExample(waveform, np.stack([np.zeros_like(heard), heard]))

    return draw


def _hum(length: int, rng: np.random.Generator) -> Waveform:
    return synthesise_noise(length, rng, kind=0)


def _glide(length: int, rng: np.random.Generator) -> Waveform:
    return synthesise_noise(length, rng, kind=1)


def _beeps(length: int, rng: np.random.Generator) -> Waveform:
    return synthesise_noise(length, rng, kind=int(rng.integers(2, 4)))


def _talk(banks: ActivityBanks, rng: np.random.Generator, pause: float) -> Waveform:
    """Clips of one speaker with gaps of ``pause`` seconds in the mean, as they are."""
    speech = silence()
    companions = banks.speech.companions(int(rng.integers(len(banks.speech))))
    say(speech, banks.speech, companions, 0, pause, rng)
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


def evaluate(net: ActivityNet, banks: ActivityBanks, *, seed: int, recordings: int) -> dict[str, Tally]:
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
        counts[scene.name] = Tally(called, windows)
    return counts


def answers(
    net: ActivityNet, banks: ActivityBanks, scene: Scene, *, seed: int, number: int, recordings: int
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
