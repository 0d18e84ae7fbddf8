"""Where the band of a recording ends: at a telephone's 3.4 kHz, at an old file's 8, at a codec's 16 kHz.

What recorders, telephones and codecs cut off ends steeply: within a few hundred hertz the spectrum falls by
more than speech does in an octave, and nothing above comes back. What a microphone, a room or a voice takes
off falls slowly, and is not a cut.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from enhance_ray.settings.options import MODEL_RATE

_POINTS = 2048
"""Of a transform; frames do not overlap."""
_BINS = 6
"""Bins of the spectrum that make a band: 129 Hz."""
_BANDS = (_POINTS // 2) // _BINS
_WIDTH = _BINS * MODEL_RATE / _POINTS
_ACTIVE_DB = -45.0
"""Level of a frame, where full scale is near 0, from which it counts: what is quieter may be a pause."""
_FLOOR_DB, _LEVELS = -140, 160
"""The lowest level that is told from others, and how many there are, 1 dB apart."""
_FEWEST = 8
"""Frames, a third of a second, without which nothing is said."""
_LOWEST = 2500.0
"""Hz: no recording ends lower, but a dark vowel may look as if it did."""
_HIGHEST = 19_500.0
"""Hz: who hears that something ends above?"""
_BELOW, _EDGE = 4, 2
"""Bands over which the level below an edge is averaged, and bands that an edge takes."""
_DROP_DB = 15.0
"""From there to the highest of all bands above the edge."""
_SHELF_DB = 10.0
"""Below the level before the edge: there the band ends."""
_SHARE = 0.8
"""Of the frames: what the others reach counts, so that sibilants do, and codecs that leave bands out now and
then end where they end at their best."""
_KEPT_SHARE = 0.95
"""Of half a lower sample rate, which filters leave of it."""


class BandMeter:
    """Listens to a recording and says where the band of each channel ends.

    It counts how often each band has each level, which takes the same memory for a recording of any length,
    and compares what bands reach in a fifth of the frames that sound: a click, or the splatter where a packet
    was lost, is in fewer.
    """

    def __init__(self, channels: int, sample_rate: int) -> None:
        """Begin a recording.

        Args:
            channels: of it.
            sample_rate: that it has or had, in Hz: nothing is above half of it.
        """
        self._counts: Int64[Tensor, "channel band level"] = torch.zeros(
            channels, _BANDS, _LEVELS, dtype=torch.int64
        )
        self._rest = torch.zeros(channels, 0)
        self._nyquist = _KEPT_SHARE * sample_rate / 2 if sample_rate < MODEL_RATE else math.inf
        self._window = torch.hann_window(_POINTS)

    def push(self, waveform: Float[Tensor, "channel time"]) -> None:
        """Hear what comes next, at 44.1 kHz, brought near full scale."""
        waveform = torch.cat([self._rest, waveform], dim=-1)
        whole = waveform.shape[-1] // _POINTS * _POINTS
        self._rest = waveform[:, whole:].clone()
        if not whole:
            return
        frames = waveform[:, :whole].unflatten(-1, (-1, _POINTS))
        power = torch.fft.rfft(frames * self._window).abs().square() / self._window.square().sum()
        bands = power[..., : _BANDS * _BINS].unflatten(-1, (_BANDS, _BINS)).mean(-1)
        levels = (10 * torch.log10(bands + 1e-20) - _FLOOR_DB).round().long().clamp(0, _LEVELS - 1)
        active = frames.square().mean(-1) >= 10 ** (_ACTIVE_DB / 10)
        for counts, heard, counted in zip(self._counts, levels, active, strict=True):
            chosen = heard[counted].T
            counts.scatter_add_(1, chosen, torch.ones_like(chosen))

    @property
    def cuts(self) -> Float[Tensor, " channel"]:
        """Where the band of each channel ends, in Hz; infinite where nothing was cut off."""
        return torch.tensor([min(_edge(counts), self._nyquist) for counts in self._counts])


def _edge(counts: Int64[Tensor, "band level"]) -> float:
    heard = int(counts[0].sum())
    if heard < _FEWEST:
        return math.inf
    reached = (counts.cumsum(-1) >= _SHARE * heard).int().argmax(-1).float()
    # A tone, such as that of a screen's transformer, is in one band.
    levels = reached.unfold(0, 3, 1).median(-1).values
    above = levels.flip(0).cummax(0).values.flip(0)
    below = levels.unfold(0, _BELOW, 1).mean(-1)
    # below[i] is of the bands i to i + _BELOW - 1; the edge follows.
    places = torch.arange(len(levels) - _BELOW - _EDGE)
    drops = below[places] - above[places + _BELOW + _EDGE]
    edges = (places + _BELOW) * _WIDTH
    steep = (drops >= _DROP_DB) & (edges >= _LOWEST) & (edges <= _HIGHEST)
    if not steep.any():
        return math.inf
    place = int(steep.int().argmax())
    # The first steep place may begin before the edge does.
    while place + 1 < len(places) and drops[place + 1] > drops[place]:
        place += 1
    fallen = levels[place:] < below[place] - _SHELF_DB
    end = place + int(fallen.int().argmax())
    return float((end + 1) * _WIDTH)  # the median over three bands began one later
