"""What recovery gives: pieces of sound, and what is lost between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from enhance_ray.audio.formats import AudioInfo, Block
from enhance_ray.audio.libav import ToPacked
from enhance_ray.audio.storage import CallbackFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Something that is not in the output, or something else than it was."""

    at: float
    """Seconds from the beginning of the output."""
    reason: str
    seconds: float | None = None
    """How long it was; None where nothing tells."""
    is_silence: bool = False
    """Whether silence of that length stands in its place, so that all behind it keeps its time."""
    bytes: int | None = None
    """Of the file, which are of no use; None where they cannot be counted."""


def note(losses: list[Loss], loss: Loss) -> None:
    """Add ``loss``, to the one before where both are one stretch: a thousand frames in a row are one loss."""
    before = losses[-1] if losses else None
    if (
        before is not None
        and before.is_silence
        and loss.is_silence
        and before.reason == loss.reason
        and before.seconds is not None
        and loss.seconds is not None
        and abs(before.at + before.seconds - loss.at) < 1e-3
    ):
        size = None if before.bytes is None or loss.bytes is None else before.bytes + loss.bytes
        losses[-1] = dataclasses.replace(before, seconds=before.seconds + loss.seconds, bytes=size)
    else:
        losses.append(loss)


class Salvage(Protocol):
    """One damaged file that is being read, once."""

    info: AudioInfo
    losses: list[Loss]
    """In the order of time; complete when all pieces were taken."""
    remarks: list[str]
    """What else is to be told."""

    def pieces(self) -> Iterator[Block]:
        """Samples in order, (channel, time), in pieces of any length."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...


SILENCE_SECONDS = 60.0
"""Longest loss in whose place silence is put: a time stamp that is damaged itself may say anything."""


def silence(info: AudioInfo, frames: int) -> Iterator[Block]:
    """So many samples of nothing, a second at a time."""
    for start in range(0, frames, info.sample_rate):
        yield np.zeros((info.channels, min(info.sample_rate, frames - start)), np.float32)


class FrameReader:
    """Samples of libav's frames, as long as they are of one kind."""

    def __init__(self, info: AudioInfo) -> None:
        """Read frames of a recording that is as ``info`` says."""
        self._info = info
        self._packed = ToPacked()

    def __call__(self, frames: Iterable[Any]) -> Iterator[Block]:
        """Yield the samples of ``frames``; what is of another rate or number of channels is left out."""
        for frame in frames:
            if (frame.sample_rate, frame.layout.nb_channels) == (self._info.sample_rate, self._info.channels):
                # A damaged frame of floats may hold anything.
                yield np.nan_to_num(self._packed(frame), nan=0.0, posinf=0.0, neginf=0.0)


class Bytes:
    """Any bytes of a file, read in large parts."""

    PART = 2**20

    def __init__(self, file: CallbackFile, start: int, end: int) -> None:
        """Give those from ``start`` to ``end``."""
        self._file = file
        self.start, self.end = start, end
        self._held, self._at = b"", start

    def __call__(self, position: int, size: int) -> bytes:
        """At most ``size`` bytes from ``position`` on; fewer where it ends."""
        size = max(0, min(size, self.end - position))
        if position < self._at or position + size > self._at + len(self._held):
            self._file.seek(position)
            self._held, self._at = self._file.read(max(size, min(self.PART, self.end - position))), position
            self._file.raise_error()
        start = position - self._at
        return self._held[start : start + size]
