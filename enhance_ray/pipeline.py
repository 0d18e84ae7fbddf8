"""The engine: a recording of any length through a model in bounded memory.

    blocks -> Analysis -> pieces -> Batcher -> Enhancer.run -> Synthesis -> blocks

`Analysis` resamples to 44.1 kHz, divides by the gain curve and cuts segments; `Synthesis` undoes this in
reverse order. What the second needs of the first travels in the `Piece` between them, so that the two
may live in different threads, and pieces of many recordings may share a batch. An identity for a
model gives the input back. `Enhancer.denoise` puts the parts together for arrays and streams, `files`
for files.

Departures from the reference (spec 5.1, 5.2): no search for a shift between segments, a gain curve in
place of one gain for each, context that is thrown away, every channel kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from enhance_ray import checkpoint, guard, resemble
from enhance_ray.dsp.levels import GainCurve, Meter
from enhance_ray.dsp.resample import StreamingResampler
from enhance_ray.dsp.segments import Joiner, Layout, Segment, Splitter
from enhance_ray.errors import AudioError, CheckpointError, ConfigError
from enhance_ray.memory import keep_large_blocks
from enhance_ray.models import ode
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.precision import resolve_precision
from enhance_ray.options import MODEL_RATE, EnhanceOptions, Precision

logger = logging.getLogger(__name__)

Waveform = TypeVar("Waveform", NDArray[np.floating], Tensor)

Owner = TypeVar("Owner")

PEAK_LIMIT = -1.0
"""Highest peak in dBFS that a loudness target may lead to."""

_GPU_BYTES_PER_ROW = {"denoise": 3 * 2**29, "enhance": 3 * 2**30}
"""Of 30 s at the original's size, on the safe side of what a CPU's process grows by."""
_BLOCK_SECONDS = 10  # of a recording that are worked on at once before the model
_SPOOLED_IN_MEMORY = 64 * 2**20  # bytes


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One segment of a recording on its way through the model."""

    segment: Segment
    rows: Tensor
    """(channel, row): at 44.1 kHz, with a peak of 1, zeros appended up to the length of a row."""
    peaks: Tensor
    """(channel, 1): what each row was divided by, as the model does by itself."""
    gains: Tensor
    """(time,): what all of them were divided by before, the gain curve."""


@dataclass(frozen=True, slots=True)
class Framing:
    """What cutting recordings up has to know of a model."""

    hop: int = 420
    """Samples of one frame; the model answers whole frames only."""
    shortest: int = 841
    """Fewest samples that the model takes."""

    def layout(self, options: EnhanceOptions) -> Layout:
        """How recordings are cut, so that every segment starts with a frame.

        Segments are up to a frame longer than the options say.
        """
        overlap = round(options.overlap_seconds * MODEL_RATE)
        context = round(options.context_seconds * MODEL_RATE)
        margins = overlap + 2 * context
        advance = round(options.segment_seconds * MODEL_RATE) - margins
        advance += -advance % self.hop
        return Layout(length=advance + margins, overlap=overlap, context=context, grid=self.hop)

    def row_length(self, samples: int) -> int:
        """Length to which a segment of ``samples`` is padded with zeros before the model.

        It leaves as many whole frames as the reference has, which appends 441 samples (spec 5.1), and
        what the model answers covers the segment. Segments of one frame count share one length, so
        that they may share a batch: the model's norms pool over time, padding to a common length
        would change the result.
        """
        frames = max((samples + self.hop + 21) // self.hop, self.shortest // self.hop)
        return frames * self.hop + 21


class Enhancer:
    """Models on a device, ready for recordings.

    One object may be used from several threads, one call of `run` at a time; options travel with each call.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        net: EnhancerNet | None = None,
        *,
        framing: Framing | None = None,
        fingerprint: str = "unknown",
        device: str = "auto",
        precision: Precision = "auto",
        compiled: bool = False,
    ) -> None:
        """Wrap networks that are in memory; `load` reads a model.

        Args:
            denoiser: (batch, time) at 44.1 kHz -> the same shape, time-aligned; what comes out is at
                the level of an input with a peak of 1.
            net: the whole enhancer, of which ``denoiser`` is a part. It is frozen (`EnhancerNet.freeze`):
                give a copy if it is to be trained on.
            framing: of the models; by default the original's.
            fingerprint: identifies the weights in records.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            precision: "bf16" runs convolutions in bfloat16; "auto" does so where the processor
                computes in it natively. "fp32" means it: no TF32 on a GPU.
            compiled: compile parts of the enhancer when they first run (`kernels.compiled`): ten to thirty
                seconds of a process, after which it is about a third faster. Needs a C++ compiler on a CPU.

        Raises:
            ConfigError: the device is unknown or absent.
        """
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_large_blocks()
        self.precision = resolve_precision(precision, self.device)
        self.net = net
        """The whole enhancer; None if the model is a denoiser alone."""
        if net is not None:
            net.freeze(torch.bfloat16 if self.precision == "bf16" else torch.float32).to(self.device)
            if compiled:
                net.compile_kernels()
        self.denoiser = denoiser.eval().to(self.device)
        self.fingerprint = fingerprint
        self._most_rows = sys.maxsize  # that memory was seen not to be too small for
        self.framing = framing or Framing()
        """How recordings are cut for the models."""

    @classmethod
    def load(
        cls,
        model: str | Path = checkpoint.DEFAULT,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        compiled: bool = False,
        denoiser_only: bool = False,
    ) -> Enhancer:
        """Read a model.

        Args:
            model: a model folder; ``"default"``, the one in this package; or a run folder of the original,
                local, at an fsspec URI, or on the Hugging Face Hub (see `resemble`).
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            precision: "auto", "fp32" or "bf16", see the constructor.
            compiled: see the constructor.
            denoiser_only: of an enhancer, read the denoiser alone, which is a fraction of it.

        Raises:
            CheckpointError: the model cannot be used.
            ConfigError: the device is unknown or absent.
        """
        loaded = resemble.load_model(model, denoiser_only=denoiser_only)
        if loaded.config.kind == "autoencoder" and not denoiser_only:
            raise CheckpointError(
                loaded.path,
                "it is a stage 1 model, autoencoder and vocoder, and cannot restore: train stage 2 on it",
            )
        return cls(
            loaded.denoiser,
            loaded.net,
            framing=Framing(loaded.denoiser.config.hop, loaded.denoiser.shortest),
            fingerprint=loaded.fingerprint,
            device=device,
            precision=precision,
            compiled=compiled,
        )

    def check(self, options: EnhanceOptions) -> None:
        """Say before work starts whether this model can do what ``options`` ask for.

        Raises:
            ConfigError: it is a denoiser and is to enhance, or no step of the solver fits into nfe.
        """
        if options.mode == "enhance":
            if self.net is None:
                raise ConfigError(
                    "mode",
                    "this model is a denoiser alone and cannot enhance; give a whole one, such as "
                    f"{resemble.PUBLISHED}",
                )
            ode.steps(*options.sampling(self.net.config.nfe))

    @property
    def batch_size(self) -> int:
        """Rows that run at once unless told otherwise: a CPU gains little from several, a GPU has as many
        as its free memory is likely to hold. Where that was wrong, `run` makes do with fewer."""
        if self.device.type != "cuda":
            return 1 if self.device.type == "cpu" else 8
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = _GPU_BYTES_PER_ROW["denoise" if self.net is None else "enhance"]
        return min(16, max(1, free // needed))

    def denoise(
        self, waveform: Waveform, sample_rate: int, options: EnhanceOptions | None = None
    ) -> tuple[Waveform, int]:
        """Remove what is not speech from a recording in memory.

        Args:
            waveform: (channel, time) or (time,), floating point, full scale at 1; NumPy or torch.
            sample_rate: of ``waveform``, in Hz.
            options: what to do; the defaults of `EnhanceOptions` if None.

        Returns:
            float32 of the same kind and dimensions with ceil(time 44100 / sample_rate) samples,
            and their rate, 44,100 Hz.

        Raises:
            AudioError: the waveform is empty or holds NaN or infinite samples.
            ConfigError: it is no floating-point array of one or two dimensions.
        """
        return self._process(waveform, sample_rate, _in_mode(options, "denoise"))

    def enhance(
        self, waveform: Waveform, sample_rate: int, options: EnhanceOptions | None = None
    ) -> tuple[Waveform, int]:
        """Restore a recording in memory: remove noise, undo distortion, extend the band to 44.1 kHz.

        Arguments and result are those of `denoise`.

        Raises:
            AudioError: the waveform is empty or holds NaN or infinite samples.
            ConfigError: it is no floating-point array of one or two dimensions, or `check` refuses.
        """
        return self._process(waveform, sample_rate, _in_mode(options, "enhance"))

    def _process(self, waveform: Waveform, sample_rate: int, options: EnhanceOptions) -> tuple[Waveform, int]:
        rows = _as_tensor(waveform)
        if rows.ndim not in (1, 2):
            raise ConfigError(
                "waveform", f"expected (channel, time) or (time,), got shape {tuple(rows.shape)}"
            )
        blocks = torch.atleast_2d(rows).split(_BLOCK_SECONDS * sample_rate, dim=-1)
        output = torch.cat(
            list(self.stream(blocks, sample_rate, len(blocks[0]), options, name="the waveform")),
            dim=-1,
        )
        if rows.ndim == 1:
            output = output[0]
        return (output.to(waveform.device) if isinstance(waveform, Tensor) else output.numpy()), MODEL_RATE

    def denoise_stream(
        self,
        blocks: Iterable[Waveform],
        sample_rate: int,
        channels: int,
        options: EnhanceOptions | None = None,
        *,
        batch_size: int | None = None,
        name: str = "the stream",
    ) -> Iterator[Waveform]:
        """`denoise` for a recording of any length that arrives in blocks: `stream` in that mode."""
        return self.stream(
            blocks, sample_rate, channels, _in_mode(options, "denoise"), batch_size=batch_size, name=name
        )

    def enhance_stream(
        self,
        blocks: Iterable[Waveform],
        sample_rate: int,
        channels: int,
        options: EnhanceOptions | None = None,
        *,
        batch_size: int | None = None,
        name: str = "the stream",
    ) -> Iterator[Waveform]:
        """`enhance` for a recording of any length that arrives in blocks: `stream` in that mode."""
        return self.stream(
            blocks, sample_rate, channels, _in_mode(options, "enhance"), batch_size=batch_size, name=name
        )

    def stream(
        self,
        blocks: Iterable[Waveform],
        sample_rate: int,
        channels: int,
        options: EnhanceOptions | None = None,
        *,
        batch_size: int | None = None,
        name: str = "the stream",
    ) -> Iterator[Waveform]:
        """What ``options`` say, to a recording of any length that arrives in blocks.

        Memory is bounded: about two segments, whatever the recording's length. With a loudness target
        the output waits in a temporary file until all is known.

        Args:
            blocks: (channel, time) each, of any lengths; NumPy or torch, all of one kind.
            sample_rate: of the blocks, in Hz.
            channels: of the blocks.
            options: what to do; the defaults of `EnhanceOptions` if None.
            batch_size: rows that run at once; by default what suits the device.
            name: what errors call the recording.

        Yields:
            Blocks of the same kind at 44,100 Hz.

        Raises:
            AudioError: the recording is empty or holds NaN or infinite samples.
            ConfigError: a block is no floating-point array of shape (channel, time), or `check` refuses.
        """
        options = options or EnhanceOptions()
        self.check(options)
        analysis = Analysis(self.framing, sample_rate, channels, options, name=name)
        synthesis = Synthesis(self.framing, options, name=name)
        batcher: Batcher[None] = Batcher(self, options, batch_size or self.batch_size)
        remaining = iter(blocks)
        first = list(itertools.islice(remaining, 1))
        as_numpy = any(isinstance(block, np.ndarray) for block in first)
        pieces = analysis.pieces(map(_as_tensor, itertools.chain(first, remaining)))
        for output in synthesis.blocks(batcher.results(None, pieces)):
            yield cast(Waveform, output.numpy() if as_numpy else output)
        if synthesis.warning:
            logger.warning("%s: %s", name, synthesis.warning)

    @torch.inference_mode()
    def run(
        self,
        rows: Tensor,
        options: EnhanceOptions,
        starts: Sequence[int],
        *,
        denoised: Tensor | None = None,
    ) -> Tensor:
        """The model on (row, time), as one batch: to the device and back, in float32.

        A guard chooses between versions: where `options.guard` asks for one and the mode is to enhance, the
        answer is (row, 2, time), enhanced and denoised.

        Rows do not influence each other, up to rounding. Where the device's memory does not hold all of them,
        they run in two halves, and so do later batches of that size.

        Args:
            rows: of one of the lengths that `Framing.row_length` gives.
            options: what to do.
            starts: first sample of each row in its recording, a multiple of a frame.
            denoised: to enhance, what the denoiser made of ``rows``, where that is known already.
        """
        most = self._most_rows
        if len(rows) > most:
            parts = [slice(first, first + most) for first in range(0, len(rows), most)]
        else:
            try:
                return self._run(rows, options, starts, denoised)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self._most_rows = half = (len(rows) + 1) // 2
                logger.warning("not enough memory for %d segments at once: trying %d", len(rows), half)
                parts = [slice(0, half), slice(half, None)]
            torch.cuda.empty_cache()  # outside the handler, which holds on to the tensors of what failed
        return torch.cat(
            [
                self.run(
                    rows[part],
                    options,
                    starts[part],
                    denoised=None if denoised is None else denoised[part],
                )
                for part in parts
            ]
        )

    def _run(
        self, rows: Tensor, options: EnhanceOptions, starts: Sequence[int], denoised: Tensor | None
    ) -> Tensor:
        rows = rows.to(self.device)
        with self._exact_convolutions():
            if options.mode == "enhance":
                assert self.net is not None, "check() comes first"
                if denoised is not None:
                    denoised = denoised.to(self.device)
                elif options.guard:
                    denoised = self.net.denoised(rows)
                output: Tensor = self.net(
                    rows,
                    options,
                    denoised=denoised,
                    first_frames=[start // self.framing.hop for start in starts],
                )
                output = nn.functional.pad(output, (0, rows.shape[-1] - output.shape[-1]))
                if options.guard:
                    assert denoised is not None
                    output = torch.stack([output, denoised], dim=1)
            else:
                bf16 = self.precision == "bf16"
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                    output = self.denoiser(rows)
        return output.float().cpu()

    def _exact_convolutions(self) -> contextlib.AbstractContextManager[None]:
        """Where float32 was asked for, cuDNN is not to round to TF32, as it does by default (spec 8.1)."""
        if self.device.type == "cuda" and self.precision == "fp32":
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return contextlib.nullcontext()


class Result(NamedTuple, Generic[Owner]):
    """What a batch gave for one piece."""

    owner: Owner
    piece: Piece
    output: Tensor
    """(channel, row), or with a guard (channel, 2, row): of the model, for ``piece.rows``."""
    seconds_spent: float
    """The piece's share of the batch's running time."""


class Batcher(Generic[Owner]):
    """Collects pieces of equal length, of any recordings, and runs them as one batch.

    The pieces of one recording come out in the order in which they went in, because all of them have one
    length. ``Owner`` is whatever the caller knows a recording by.
    """

    def __init__(self, enhancer: Enhancer, options: EnhanceOptions, batch_size: int) -> None:
        self._enhancer = enhancer
        self._options = options
        self._batch_size = batch_size
        self._waiting: dict[int, list[tuple[Owner, Piece]]] = {}  # by length of a row; oldest first

    def __len__(self) -> int:
        """Pieces that wait for their batch to fill."""
        return sum(map(len, self._waiting.values()))

    def add(self, owner: Owner, piece: Piece) -> list[Result[Owner]]:
        """Take ``piece``; if that fills a batch, run it and return its results."""
        length = piece.rows.shape[-1]
        bucket = self._waiting.setdefault(length, [])
        bucket.append((owner, piece))
        if sum(len(waiting.rows) for _, waiting in bucket) < self._batch_size:
            return []
        return self._run(self._waiting.pop(length))

    def run_oldest(self) -> list[Result[Owner]]:
        """Run the batch that has waited longest, full or not; nothing if none waits."""
        if not self._waiting:
            return []
        return self._run(self._waiting.pop(next(iter(self._waiting))))

    def results(self, owner: Owner, pieces: Iterable[Piece]) -> Iterator[Result[Owner]]:
        """The results for all ``pieces`` of one recording, in their order."""
        for piece in pieces:
            yield from self.add(owner, piece)
        yield from self.flush()

    def flush(self) -> list[Result[Owner]]:
        """Run everything that waits."""
        results = []
        while self._waiting:
            results += self.run_oldest()
        return results

    def _run(self, pieces: list[tuple[Owner, Piece]]) -> list[Result[Owner]]:
        started = time.perf_counter()
        rows = torch.cat([piece.rows for _, piece in pieces])
        starts = [piece.segment.start for _, piece in pieces for _ in piece.rows]
        # The last piece may have brought more channels than the batch had room for.
        outputs = torch.cat(
            [
                self._enhancer.run(
                    rows[first : first + self._batch_size],
                    self._options,
                    starts[first : first + self._batch_size],
                )
                for first in range(0, len(rows), self._batch_size)
            ]
        )
        seconds_per_row = (time.perf_counter() - started) / len(rows)
        shares = outputs.split([len(piece.rows) for _, piece in pieces])
        return [
            Result(owner, piece, output, seconds_per_row * len(output))
            for (owner, piece), output in zip(pieces, shares, strict=True)
        ]


class Analysis:
    """Turns the blocks of one recording into pieces for the model."""

    def __init__(
        self,
        framing: Framing,
        sample_rate: int,
        channels: int,
        options: EnhanceOptions,
        *,
        name: str,
        live: bool = False,
    ) -> None:
        """Begin a recording.

        Args:
            framing: of the model that the pieces are for.
            sample_rate: of the blocks, in Hz.
            channels: of the blocks.
            options: of which segments and channels count.
            name: what errors call the recording.
            live: it must not wait: levels do not look ahead.
        """
        self._framing = framing
        self._sample_rate = sample_rate
        self._channels = channels
        self._mono = options.channels == "mono"
        self._name = name
        self._received = 0
        self._resampler = StreamingResampler(sample_rate, MODEL_RATE, channels=self.channels)
        self._curve = GainCurve(live=live)
        self._waiting = torch.zeros(self.channels, 0)  # for the curve, which looks ahead
        self._layout = framing.layout(options)
        self._splitter = Splitter(self._layout)

    @property
    def channels(self) -> int:
        """Of the pieces."""
        return 1 if self._mono else self._channels

    def pieces(self, blocks: Iterable[Tensor]) -> Iterator[Piece]:
        """The pieces of a recording that has these (channel, time) ``blocks``: `push` and `finish` in one."""
        for block in blocks:
            yield from self.push(block)
        yield from self.finish()

    def push(self, block: Tensor) -> Iterator[Piece]:
        """Take the next (channel, time) ``block`` and yield the pieces that are complete.

        Raises:
            AudioError: a sample is NaN or infinite.
            ConfigError: the block has not the shape that was announced.
        """
        if block.ndim != 2 or len(block) != self._channels:
            raise ConfigError(
                "waveform", f"expected ({self._channels}, time) for a block, got shape {tuple(block.shape)}"
            )
        for part in block.split(_BLOCK_SECONDS * self._sample_rate, dim=-1):
            self._refuse_non_finite(part)
            self._received += part.shape[-1]
            resampled = self._resampler.push(part.mean(0, keepdim=True) if self._mono else part)
            yield from self._cut(resampled, self._curve.push(resampled))

    def finish(self) -> Iterator[Piece]:
        """Yield what is left after the last block.

        Raises:
            AudioError: there was no sample at all.
        """
        if self._received == 0:
            raise AudioError(self._name, "it has no samples")
        resampled = self._resampler.finish()
        gains = torch.cat([self._curve.push(resampled), self._curve.finish()])
        yield from self._cut(resampled, gains)
        for segment, cut in self._splitter.finish():
            yield self._piece(segment, cut)

    def _cut(self, waveform: Tensor, gains: Tensor) -> Iterator[Piece]:
        self._waiting = torch.cat([self._waiting, waveform], dim=-1)
        decided, self._waiting = self._waiting.tensor_split([len(gains)], dim=-1)
        # The gains are cut as one more channel, so that each segment comes with its own.
        for segment, cut in self._splitter.push(torch.cat([decided / gains, gains[None]])):
            yield self._piece(segment, cut)

    def _piece(self, segment: Segment, cut: Tensor) -> Piece:
        waveform, gains = cut[:-1], cut[-1]
        # The denoiser normalises each row by itself: done here before, it can be undone.
        peaks = waveform.abs().amax(-1, keepdim=True).clamp_min(1e-7)
        # A last segment that was moved back onto the grid lacks less than a frame of the others' length.
        whole = self._layout.length if segment.start else waveform.shape[-1]
        padding = self._framing.row_length(whole) - waveform.shape[-1]
        return Piece(segment, nn.functional.pad(waveform / peaks, (0, padding)), peaks, gains.clone())

    def _refuse_non_finite(self, block: Tensor) -> None:
        finite = block.isfinite()
        if not finite.all():
            position = self._received + int((~finite).any(0).nonzero()[0])
            raise AudioError(
                self._name, f"it holds NaN or infinite samples at {position / self._sample_rate:.2f} s"
            )


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
        self._spool = None if options.loudness == "keep" else _LoudnessSpool(options.loudness)

    @property
    def replaced(self) -> list[guard.Span]:
        """What a guard kept of another version so far, in the order of time."""
        return guard.joined(self._spans)

    @property
    def warning(self) -> str | None:
        """What the caller should tell the user, after `finish`."""
        return self._spool.warning if self._spool else None

    def blocks(self, results: Iterable[Result[Any]]) -> Iterator[Tensor]:
        """The (channel, time) blocks of a recording that has these ``results``: `add` and `finish` in one."""
        for result in results:
            yield from self.add(result.piece, result.output)
        yield from self.finish()

    def add(self, piece: Piece, output: Tensor) -> list[Tensor]:
        """Take the model's ``output`` for the next ``piece``; return the (channel, time) blocks now final.

        Raises:
            FloatingPointError: the output holds NaN or infinite samples: the model is broken.
        """
        if not output.isfinite().all():
            raise FloatingPointError(f"the model gave NaN or infinite samples for {self._name}")
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


class _LoudnessSpool:
    """Holds an output back, beyond 64 MB in a temporary file, until its loudness is known.

    The alternative would be to run the model twice.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOLED_IN_MEMORY)  # noqa: SIM115 - closed by drain
        self._meter: Meter | None = None
        self._lengths: list[tuple[int, int]] = []
        self.warning: str | None = None

    def add(self, block: Tensor) -> None:
        self._meter = self._meter or Meter(MODEL_RATE, len(block))
        self._meter.push(block)
        self._file.write(block.contiguous().numpy().tobytes())
        self._lengths.append((block.shape[0], block.shape[1]))

    def drain(self) -> Iterator[Tensor]:
        gain = 10 ** (self._decibels() / 20)
        self._file.seek(0)
        with self._file:
            for channels, length in self._lengths:
                samples = np.frombuffer(self._file.read(4 * channels * length), dtype=np.float32)
                yield torch.from_numpy(samples * np.float32(gain)).view(channels, length)

    def _decibels(self) -> float:
        if self._meter is None or self._meter.loudness == -math.inf:
            self.warning = "it is too short or too quiet to have a loudness; its level was left as it is"
            return 0.0
        wanted = self._target - self._meter.loudness
        possible = PEAK_LIMIT - self._meter.peak
        if wanted > possible:
            self.warning = (
                f"its loudness is {self._meter.loudness + possible:.1f} LUFS, not {self._target:.1f}: "
                f"with more gain its peaks would pass {PEAK_LIMIT:.0f} dBFS"
            )
        return min(wanted, possible)


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the first GPU, or else the CPU.

    Raises:
        ConfigError: there is no such device here. Nothing falls back to another one.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", f"expected auto, cpu, cuda, cuda:N or mps, got '{name}'") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError("device", f"expected auto, cpu, cuda, cuda:N or mps, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            "device", f"'{name}' is absent: {torch.cuda.device_count()} CUDA devices are usable"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device", "'mps' is absent on this machine")
    return device


def _in_mode(options: EnhanceOptions | None, mode: Literal["denoise", "enhance"]) -> EnhanceOptions:
    return dataclasses.replace(options or EnhanceOptions(), mode=mode)


def _as_tensor(waveform: NDArray[np.floating] | Tensor) -> Tensor:
    """As float32 on the CPU, sharing memory where that is possible."""
    if isinstance(waveform, np.ndarray):
        if not np.issubdtype(waveform.dtype, np.floating):
            raise ConfigError(
                "waveform", f"expected floating point with full scale at 1, got {waveform.dtype}"
            )
        return torch.from_numpy(np.require(waveform, np.float32, ["C", "W"]))
    if not waveform.is_floating_point():
        raise ConfigError("waveform", f"expected floating point with full scale at 1, got {waveform.dtype}")
    return waveform.detach().to("cpu", torch.float32)
