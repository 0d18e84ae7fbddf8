"""Wrong levels: changes, clipping and overdrive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from enhance_ray.settings.ranges import Probability, Range, WholeRange, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform, draw_logarithmic, draw_whole
from enhance_ray.training.degrade.filters import recursive_filter


def overdrive(waveform: Waveform, *, gain_db: float = 20.0, colour: float = 20.0) -> Waveform:
    """sox's overdrive: a cubic shaper that is asymmetric by ``colour``, with half of the dry sound.

        d = shape(10^(gain_db / 20) x + colour / 200),  shape(v) = v - v^3 / 3 within [-1, 1], else +-2/3
        y = x / 2 + 3/4 (d without its DC),             cut to [-1, 1]

    sox lets the DC of ``colour`` fade in as a click at the start; here the rest position counts as 0.
    """
    offset = colour / 200
    driven = np.clip(waveform * 10 ** (gain_db / 20) + offset, -1, 1)
    shaped = driven - driven * driven * driven / 3 - (offset - offset**3 / 3)
    without_dc = recursive_filter([1.0, -1.0], [1.0, -0.995], shaped)
    return np.clip(0.5 * waveform + 0.75 * without_dc, -1, 1)


def clip(waveform: Waveform, *, threshold_db: float, soft: bool, asymmetry_db: float = 0.0) -> Waveform:
    """Limit to ``threshold_db`` relative to the peak: cut off, or bent over by tanh if ``soft``.

    With ``asymmetry_db`` the limit of what is below zero is so much higher, as a biased stage clips.
    """
    threshold = float(np.abs(waveform).max()) * 10 ** (threshold_db / 20)
    if threshold == 0:
        return waveform
    below = threshold * 10 ** (asymmetry_db / 20)
    if soft:
        limits = np.where(waveform < 0, np.float32(below), np.float32(threshold))
        return np.asarray(limits * np.tanh(waveform / limits), np.float32)
    return np.asarray(np.clip(waveform, -below, threshold), np.float32)


def change_level(
    waveform: Waveform, sample_rate: int, *, gains_db: Sequence[float], starts: Sequence[float], ramp: float
) -> Waveform:
    """Play at ``gains_db[0]``; at each of ``starts`` (seconds, ascending) move to the next gain.

    Args:
        waveform: the sound.
        sample_rate: Hz.
        gains_db: one more than there are ``starts``.
        starts: where the moves begin.
        ramp: how long one takes at most, in seconds (it ends where the next begins): short is a jump
            of an automatic gain control, long is a talker walking away.
    """
    times, levels = [0.0], [gains_db[0]]
    for start, end, before, after in zip(
        starts, [*starts[1:], math.inf], gains_db[:-1], gains_db[1:], strict=True
    ):
        times += [start, min(start + ramp, end)]
        levels += [before, after]
    # The powers at every millisecond only, and straight lines between: that cannot be heard.
    milliseconds = np.arange(0, waveform.size / sample_rate + 1e-3, 1e-3)
    gains = 10 ** (np.interp(milliseconds, times, levels) / 20)
    curve = np.interp(np.arange(waveform.size) / sample_rate, milliseconds, gains)
    return waveform * np.asarray(curve, np.float32)


@settings
class Overdrive(Effect):
    """A driven amplifier: `overdrive`."""

    probability: Probability = 0.5
    gain_db: Annotated[Range, Within(0, 100)] = (5.0, 40.0)
    colour: Annotated[Range, Within(0, 100)] = (20.0, 80.0)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return overdrive(waveform, gain_db=rng.uniform(*self.gain_db), colour=rng.uniform(*self.colour))


@settings
class LevelChanges(Effect):
    """Slow ramps and jumps of the level: `change_level`."""

    changes: Annotated[WholeRange, Within(1, 100)] = (1, 3)
    """How often the level changes."""
    gain_db: Annotated[Range, Within(-60, 30)] = (-18.0, 6.0)
    ramp: Annotated[Range, Within(0.001, 100)] = (0.005, 2.0)
    """Seconds, drawn on a logarithmic scale."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        changes = draw_whole(rng, self.changes)
        return change_level(
            waveform,
            sample_rate,
            gains_db=rng.uniform(*self.gain_db, changes + 1).tolist(),
            starts=np.sort(rng.uniform(0, waveform.size / sample_rate, changes)).tolist(),
            ramp=draw_logarithmic(rng, self.ramp),
        )


@settings
class Clipping(Effect):
    """Too loud for the recorder, hard or soft, one as often as the other: `clip`."""

    threshold_db: Annotated[Range, Within(-40, 0)] = (-18.0, -1.0)
    """Relative to the peak."""
    asymmetry_db: Annotated[Range, Within(-40, 40)] = (0.0, 0.0)
    """How much higher the limit of what is below zero is."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return clip(
            waveform,
            threshold_db=rng.uniform(*self.threshold_db),
            soft=rng.random() < 0.5,
            asymmetry_db=rng.uniform(*self.asymmetry_db),
        )
