"""Lost packets."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import scipy
from jaxtyping import Bool

from enhance_ray.settings.ranges import Range, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform


def lose_packets(
    waveform: Waveform,
    sample_rate: int,
    *,
    received: Bool[np.ndarray, " frame"],
    repeat: bool,
    edge: float = 0.002,
) -> Waveform:
    """Drop 20 ms frames.

    Args:
        waveform: the sound.
        sample_rate: Hz.
        received: (frame,) booleans for ceil(time / 20 ms) frames; false is lost.
        repeat: put the last received frame, halved with each repetition, where one is lost; else
            nothing.
        edge: seconds in which what was received fades out and in; 0 cuts it off.
    """
    frame = sample_rate // 50
    steps = np.repeat(received, frame)[: waveform.size].astype(np.float32)
    kept: Waveform = scipy.ndimage.uniform_filter1d(steps, max(1, int(edge * sample_rate)), mode="nearest")
    if not repeat:
        return np.asarray(waveform * kept, np.float32)
    frames = np.zeros(received.size * frame, np.float32)
    frames[: waveform.size] = waveform
    number = np.arange(received.size)
    last = np.maximum.accumulate(np.where(received, number, -1))
    fade = np.where(last < 0, 0, 0.5 ** (number - last)).astype(np.float32)
    repeated = (frames.reshape(-1, frame)[last] * fade[:, None]).reshape(-1)[: waveform.size]
    return np.asarray(waveform * kept + repeated * (1 - kept), np.float32)


@settings
class PacketLoss(Effect):
    """Lost 20 ms packets, silent or repeated, one as often as the other: `lose_packets`.

    Losses come in bursts: a chain of two states, good and bad, where packets of the bad one are lost (Gilbert
    1960) or may be lost (Elliott 1963).
    """

    loss: Annotated[Range, Within(0, 0.5)] = (0.01, 0.15)
    """Share of the packets that is lost."""
    burst: Annotated[Range, Within(1, 50)] = (1.0, 3.0)
    """Mean number of packets in the bad state in a row."""
    density: Annotated[Range, Within(0.5, 1)] = (1.0, 1.0)
    """Share of the packets in the bad state that is lost."""
    edge: Annotated[Range, Within(0, 0.02)] = (0.002, 0.002)
    """Seconds in which the sound fades around what is lost."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        frames = -(-waveform.size // (sample_rate // 50))
        loss, burst, density = (rng.uniform(*bounds) for bounds in (self.loss, self.burst, self.density))
        received = ~_draw_bad(rng, frames, loss / density, burst)
        if density < 1:
            received |= rng.random(frames) >= density
        return lose_packets(
            waveform,
            sample_rate,
            received=received,
            repeat=rng.random() < 0.5,
            edge=rng.uniform(*self.edge),
        )


def _draw_bad(
    rng: np.random.Generator, frames: int, share: float, burst: float
) -> Bool[np.ndarray, " frame"]:
    """True in the bad state: a chain that starts in its stationary state."""
    worsen, recover = share / ((1 - share) * burst), 1 / burst
    bad = np.empty(frames, bool)
    state = rng.random() < share
    for frame, draw in enumerate(rng.random(frames)):
        bad[frame] = state
        state = draw >= recover if state else draw < worsen
    return bad
