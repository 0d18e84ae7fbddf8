"""One recording's way through the engine: the same for a file, a bulk job, a request, a job of the endpoint.

decoded blocks -> Analysis -> whoever runs the model -> Synthesis -> blocks, and what there is to tell
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from enhance_ray.dsp.levels import Meter
from enhance_ray.dsp.limiter import Ceiling
from enhance_ray.dsp.resample import StreamingResampler
from enhance_ray.engine.analysis import Analysis, Piece
from enhance_ray.engine.batching import Result
from enhance_ray.engine.framing import Framing
from enhance_ray.engine.scores import Scores
from enhance_ray.engine.synthesis import Synthesis
from enhance_ray.guard import Span
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

Sender = Callable[[Iterator[Piece]], Iterator[Result[Any]]]
"""Who runs the model, a batcher in this process or replicas of Ray Serve: answers in the order of pieces."""

_HEARD = 0.5  # dB of peaks lowered that are worth a word
_WRITTEN_SECONDS = 1  # of output at once: meters and encoders make copies, some in float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What there is to tell of a recording that was restored, under the names of `records.Record`."""

    seconds: float
    """Length of the recording."""
    warning: str | None = None
    """What the user should know."""
    guard: list[Span] = field(default_factory=list)
    """What a guard kept of another version, in the order of time."""
    scores: dict[str, float] = field(default_factory=dict)
    """Estimates of what listeners would say, before and after (see `engine.scores`)."""
    peak_in: float | None = None
    """dBFS; None where it was not measured, or is silent."""
    peak_out: float | None = None
    peak_reduction: float = 0.0
    """By how many dB a limiter lowered peaks at most, to reach a loudness or to fit into the format."""
    loudness_in: float | None = None
    """LUFS; None where it was not measured, or is too short or silent."""
    loudness_out: float | None = None


class Restoration:
    """One recording on its way."""

    def __init__(
        self,
        framing: Framing,
        send: Sender,
        sample_rate: int,
        channels: int,
        options: EnhanceOptions,
        *,
        name: str,
        levels: bool = False,
        scores: bool = False,
        live: bool = False,
        is_bounded: bool = False,
    ) -> None:
        """Begin.

        Args:
            framing: of the model.
            send: to whoever runs it.
            sample_rate: of the recording, in Hz.
            channels: of the recording.
            options: what to do.
            name: what errors call the recording.
            levels: measure peak and loudness of both sides.
            scores: estimate how good both sides sound.
            live: it comes while it sounds, by `push` and `finish`: levels do not look ahead.
            is_bounded: it is for a format that clips what is above full scale: peaks are lowered instead.
        """
        self._send = send
        self._analysis = Analysis(framing, sample_rate, channels, options, name=name, live=live)
        self._scores = Scores() if scores else None
        listener = self._scores.hear if self._scores else None
        self._synthesis = Synthesis(framing, options, name=name, listener=listener)
        self._before = Meter(sample_rate, channels) if levels else None
        self._ceiling = Ceiling(self.channels) if is_bounded else None
        self.rate = options.output_rate(sample_rate)
        """Of the restored recording, in Hz."""
        self._sample_rate = sample_rate
        self._resampler = (
            None
            if self.rate == MODEL_RATE
            else StreamingResampler(MODEL_RATE, self.rate, channels=self.channels)
        )
        self._returned = 0
        self._after = Meter(self.rate, self.channels) if levels else None

    @property
    def channels(self) -> int:
        """Of the restored recording."""
        return self._analysis.channels

    def blocks(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Restore the recording that has these (channel, time) ``blocks``.

        Yields:
            (channel, time) at `rate`, at most a second each.

        Raises:
            AudioError: the recording is empty, or a sample is NaN or infinite; or the model failed on it.
            ConfigError: a block has not the channels that were announced.
        """
        pieces = self._analysis.pieces(_metered(blocks, self._before))
        yield from self._written(self._synthesis.blocks(self._send(pieces)), is_last=True)

    def push(self, block: Tensor) -> Iterator[Tensor]:
        """Take the next (channel, time) ``block`` of a recording that comes while it sounds.

        Yields:
            What is ready, as `blocks`.

        Raises:
            AudioError: a sample is NaN or infinite; or the model failed on it.
            ConfigError: the block has not the channels that were announced.
        """
        [block] = _metered([block], self._before)
        yield from self._written(self._joined(self._analysis.push(block)), is_last=False)

    def finish(self) -> Iterator[Tensor]:
        """Yield what is left after the last block that was pushed.

        Raises:
            AudioError: there was no sample at all; or the model failed on it.
        """
        last = itertools.chain(self._joined(self._analysis.finish()), self._synthesis.finish())
        yield from self._written(last, is_last=True)

    def _joined(self, pieces: Iterator[Piece]) -> Iterator[Tensor]:
        for result in self._send(pieces):
            yield from self._synthesis.add(result.piece, result.output)

    def _written(self, blocks: Iterator[Tensor], *, is_last: bool) -> Iterator[Tensor]:
        if self._resampler is not None:
            blocks = self._resampled(blocks, self._resampler, is_last)
        if self._ceiling is not None:
            blocks = _lowered(blocks, self._ceiling, is_last)
        parts = (part for block in blocks for part in block.split(_WRITTEN_SECONDS * self.rate, dim=-1))
        return _metered(parts, self._after)

    def _resampled(
        self, blocks: Iterator[Tensor], resampler: StreamingResampler, is_last: bool
    ) -> Iterator[Tensor]:
        for block in blocks:
            if (ready := resampler.push(block)).shape[-1]:
                self._returned += ready.shape[-1]
                yield ready
        if is_last:
            # Rounded up at either of two changes of rate, it would be a sample too long.
            length = round(self._analysis.seconds * self._sample_rate)
            yield resampler.finish()[:, : -(-length * self.rate // self._sample_rate) - self._returned]

    def facts(self, *warnings: str | None) -> Facts:
        """What is known: with the first block a missed loudness, with the last one everything.

        Args:
            warnings: of others, such as the decoder.
        """
        levels = {
            f"{name}_{side}": getattr(meter, name) if math.isfinite(getattr(meter, name)) else None
            for side, meter in (("in", self._before), ("out", self._after))
            if meter is not None
            for name in ("peak", "loudness")
        }
        lowered = self._ceiling.reduction if self._ceiling else 0.0
        word = (
            f"its peaks were {lowered:.1f} dB above full scale and were lowered" if lowered > _HEARD else None
        )
        return Facts(
            seconds=self._analysis.seconds,
            warning="; ".join(filter(None, [*warnings, self._synthesis.warning, word])) or None,
            guard=self._synthesis.replaced,
            scores=self._scores.result() if self._scores else {},
            peak_reduction=max(self._synthesis.peak_reduction, lowered),
            **levels,
        )


def _lowered(blocks: Iterator[Tensor], ceiling: Ceiling, is_last: bool) -> Iterator[Tensor]:
    for block in blocks:
        if (ready := ceiling.push(block)).shape[-1]:
            yield ready
    if is_last and (rest := ceiling.finish()).shape[-1]:
        yield rest


def _metered(blocks: Iterable[Tensor], meter: Meter | None) -> Iterator[Tensor]:
    for block in blocks:
        if meter is not None:
            meter.push(block)
        yield block
