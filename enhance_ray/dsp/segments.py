"""Cutting a recording of any length into segments of one shape, and joining what a model made of them.

Two neighbours share 2 ``context`` + ``overlap`` samples. What a model computes for the outer ``context``
of a segment is thrown away, because it saw too little around it; the middle is cross-faded:

    segment k      |------------------ keep -----------------|~~ fade out ~~|.. context ..|
    segment k+1                              |.. context ..|~~ fade in ~~|------- keep ---...

The last segment is moved back to end with the recording, so that all have the same length (up to a
``grid``) and may share a batch; only a recording shorter than one segment is a segment of its own length.
Every segment starts on the grid of the model's frames, so that two of them see the same frames where
they overlap. Nothing needs the recording's length in advance.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """How a recording is cut; all in samples."""

    length: int
    """Of one segment."""
    overlap: int
    """Of the cross-fade."""
    context: int
    """Discarded at each edge that is not an end of the recording."""
    grid: int = 1
    """Every segment starts at a multiple of it."""

    def __post_init__(self) -> None:
        if self.overlap < 0 or self.context < 0 or self.hop < 1:
            raise ValueError(f"segments cannot advance with {self}")
        if self.grid < 1 or self.hop % self.grid:
            raise ValueError(f"segments leave the grid with {self}")

    @property
    def hop(self) -> int:
        """Distance from the start of one segment to the next."""
        return self.length - self.overlap - 2 * self.context


@dataclass(frozen=True, slots=True)
class Segment:
    """Samples [start, stop) of a recording."""

    start: int
    stop: int
    last: bool
    """Whether the recording ends with it."""


class Splitter:
    """Cuts a stream into segments; holds at most one segment and two blocks."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._next_start = 0
        self._blocks: deque[Tensor] = deque()
        self._first = 0  # absolute position of the first sample held
        self._end = 0

    def push(
        self, block: Float[Tensor, "channel time"]
    ) -> list[tuple[Segment, Float[Tensor, "channel segment"]]]:
        """Take the next ``block``; return the segments that are complete and known not to be the last."""
        self._blocks.append(block)
        self._end += block.shape[-1]
        complete = []
        # At exactly one segment's length it may yet be the last, which is joined differently.
        while self._end > self._next_start + self._layout.length:
            segment = Segment(self._next_start, self._next_start + self._layout.length, last=False)
            complete.append((segment, self._samples(segment)))
            self._next_start += self._layout.hop
        # Neither the next segment nor a last one can start before this.
        needed_from = self._end - self._layout.length
        while self._first + self._blocks[0].shape[-1] <= needed_from:
            self._first += self._blocks.popleft().shape[-1]
        return complete

    def finish(self) -> list[tuple[Segment, Float[Tensor, "channel segment"]]]:
        """The last segment, or nothing if the recording is empty."""
        if self._end == 0:
            return []
        start = max(0, self._end - self._layout.length)
        start += -start % self._layout.grid
        segment = Segment(start, self._end, last=True)
        return [(segment, self._samples(segment))]

    def _samples(self, segment: Segment) -> Float[Tensor, "channel segment"]:
        parts = []
        position = self._first
        for block in self._blocks:
            parts.append(block[:, max(0, segment.start - position) : max(0, segment.stop - position)])
            position += block.shape[-1]
        return torch.cat(parts, dim=-1)


class Joiner:
    """Puts segments together again, in their order; holds one cross-fade.

    The fades are linear and sum to one, so that equal signals on both sides pass unchanged, bit by bit.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fade_in = (torch.arange(layout.overlap) + 0.5) / max(1, layout.overlap)
        self._fading_out: Tensor | None = None
        self._written = 0

    def add(
        self, segment: Segment, waveform: Float[Tensor, "channel segment"]
    ) -> Float[Tensor, "channel time"]:
        """Take the ``waveform`` of the next ``segment``; return the samples that are now final."""
        overlap = self._layout.overlap
        kept = waveform[:, self._written - segment.start :]
        if self._fading_out is not None:
            faded = torch.lerp(self._fading_out, kept[:, :overlap], self._fade_in)
            kept = torch.cat([faded, kept[:, overlap:]], dim=-1)
        if segment.last:
            self._fading_out = None
        else:
            final = kept.shape[-1] - self._layout.context - overlap
            self._fading_out = kept[:, final : final + overlap].clone()
            kept = kept[:, :final]
        self._written += kept.shape[-1]
        return kept
