"""Lost packets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from enhance_ray.training.degrade.effect import Effect, Range, Waveform


def lose_packets(
    waveform: Waveform, sample_rate: int, *, received: Bool[np.ndarray, " frame"], repeat: bool
) -> Waveform:
    """Drop 20 ms frames, with edges of 2 ms.

    Args:
        waveform: the sound.
        sample_rate: Hz.
        received: (frame,) booleans for ceil(time / 20 ms) frames; false is lost.
        repeat: put the last received frame, halved with each repetition, where one is lost; else
            nothing.
    """
    frame = sample_rate // 50
    steps = np.repeat(received, frame)[: waveform.size].astype(np.float32)
    kept: Waveform = ndimage.uniform_filter1d(steps, sample_rate // 500, mode="nearest")
    if not repeat:
        return np.asarray(waveform * kept, np.float32)
    frames = np.zeros(received.size * frame, np.float32)
    frames[: waveform.size] = waveform
    number = np.arange(received.size)
    last = np.maximum.accumulate(np.where(received, number, -1))
    fade = np.where(last < 0, 0, 0.5 ** (number - last)).astype(np.float32)
    repeated = (frames.reshape(-1, frame)[last] * fade[:, None]).reshape(-1)[: waveform.size]
    return np.asarray(waveform * kept + repeated * (1 - kept), np.float32)


@dataclass(frozen=True, kw_only=True)
class PacketLoss(Effect):
    """Lost 20 ms packets, silent or repeated, one as often as the other: `lose_packets`.

    Losses come in bursts: a chain of two states, received and lost (Gilbert 1960).
    """

    LIMITS: ClassVar = {"loss": (0, 0.5), "burst": (1, 50)}

    loss: Range = (0.01, 0.15)
    """Share of the packets that is lost."""
    burst: Range = (1.0, 3.0)
    """Mean number of packets lost in a row."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        frames = -(-waveform.size // (sample_rate // 50))
        received = _draw_losses(rng, frames, rng.uniform(*self.loss), rng.uniform(*self.burst))
        return lose_packets(waveform, sample_rate, received=received, repeat=rng.random() < 0.5)


def _draw_losses(
    rng: np.random.Generator, frames: int, loss: float, burst: float
) -> Bool[np.ndarray, " frame"]:
    """True where received: a Gilbert chain that starts in its stationary state."""
    lose, recover = loss / ((1 - loss) * burst), 1 / burst
    received = np.empty(frames, bool)
    state = rng.random() >= loss
    for frame, draw in enumerate(rng.random(frames)):
        received[frame] = state
        state = draw >= lose if state else draw < recover
    return received
