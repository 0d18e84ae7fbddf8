"""From what a model answered to the blocks of a restored recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from enhance_ray import guard
from enhance_ray.dsp.segments import Joiner
from enhance_ray.engine.analysis import Piece
from enhance_ray.engine.batching import Result
from enhance_ray.engine.framing import Framing
from enhance_ray.engine.levels import LoudnessSpool
from enhance_ray.errors import ModelFailedError
from enhance_ray.settings.options import EnhanceOptions


class Synthesis:
    """Turns what the model made of the pieces of one recording into its output blocks."""

    def __init__(
        self,
        framing: Framing,
        options: EnhanceOptions,
        *,
        name: str,
        listener: Callable[[Piece, Tensor], None] | None = None,
    ) -> None:
        """Begin a recording.

        Args:
            framing: of the model whose answers come.
            options: what is done.
            name: what errors call the recording.
            listener: called for every piece with what becomes of it, (channel, time), at the piece's level.
        """
        self._options = options
        self._listener = listener
        self._joiner = Joiner(framing.layout(options))
        self._name = name
        self._written = 0
        self._spans: list[guard.Span] = []
        self._spool = (
            None if options.loudness == "keep" else LoudnessSpool(options.loudness, options.peak_limit)
        )

    @property
    def replaced(self) -> list[guard.Span]:
        """What a guard kept of another version so far, in the order of time."""
        return guard.joined(self._spans)

    @property
    def warning(self) -> str | None:
        """What the caller should tell the user, after `finish`."""
        return self._spool.warning if self._spool else None

    @property
    def peak_reduction(self) -> float:
        """By how many dB a limiter lowered peaks at most, after `finish`."""
        return self._spool.reduction if self._spool else 0.0

    def blocks(self, results: Iterable[Result[Any]]) -> Iterator[Tensor]:
        """The (channel, time) blocks of a recording that has these ``results``: `add` and `finish` in one."""
        for result in results:
            yield from self.add(result.piece, result.output)
        yield from self.finish()

    def add(self, piece: Piece, output: Tensor) -> list[Tensor]:
        """Take the model's ``output`` for the next ``piece``; return the (channel, time) blocks now final.

        Raises:
            ModelFailedError: the output holds NaN or infinite samples.
        """
        if not output.isfinite().all():
            raise ModelFailedError(self._name)
        choice = None
        if self._options.guard:
            denoised, enhanced = (output, None) if output.ndim == 2 else (output[:, 1], output[:, 0])
            choice = guard.choose(piece.rows, denoised, enhanced, piece.peaks)
            output = guard.mix(piece.rows, denoised, enhanced, choice)
        mixed = torch.lerp(piece.rows, output, self._options.strength)[:, : len(piece.gains)]
        if self._listener is not None:
            self._listener(piece, mixed)
        block = self._joiner.add(piece.segment, mixed.mul_(piece.peaks).mul_(piece.gains))
        if choice is not None:
            stop = self._written + block.shape[-1]
            self._spans += guard.spans(choice, piece.segment.start, self._written, stop)
            self._written = stop
        if self._spool is None:
            return [block]
        self._spool.add(block)
        return []

    def finish(self) -> Iterator[Tensor]:
        """Yield what had to wait for the end."""
        if self._spool is not None:
            yield from self._spool.drain()
