"""From an upload to the bytes of an answer, a segment at a time; the models are elsewhere.

Plain threads and iterators: the ingress gives each request a thread, which waits for the models.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.serve.exceptions import BackPressureError, RayServeException

from enhance_ray import audio
from enhance_ray.audio import AudioInfo
from enhance_ray.audio.streaming import StreamEncoder, streamed_format
from enhance_ray.cluster.serve.models import Work
from enhance_ray.cluster.serve.settings import Limits
from enhance_ray.engine.analysis import Piece
from enhance_ray.engine.batching import Result
from enhance_ray.engine.framing import Framing
from enhance_ray.engine.restore import Restoration
from enhance_ray.errors import EnhanceRayError
from enhance_ray.settings.options import EnhanceOptions

logger = logging.getLogger(__name__)

AHEAD = 3
"""Segments of one request that are with the models at a time."""
_TRIES = 6
_KEPT_SAMPLES = 3_000_000
"""Of all channels together: a minute of one, about 12 MB."""

Ask = Callable[[Work], Any]
"""Hands a segment to the models; what it returns has `result(timeout_s=)` and `cancel()`."""


class LimitError(EnhanceRayError):
    """A recording is more than this endpoint takes in one request."""

    code = "too_large"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TimedOutError(EnhanceRayError):
    """An answer took longer than it may."""

    code = "timed_out"

    def __init__(self) -> None:
        super().__init__()
        self.reason = "the answer took longer than allowed"


class ModelsLostError(EnhanceRayError):
    """A segment met nothing but dying replicas."""

    code = "unavailable"

    def __init__(self) -> None:
        super().__init__()
        self.reason = "the models are not there; try again"


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording that was read once, to its end."""

    path: str
    info: AudioInfo
    frames: int
    """Samples per channel."""
    warning: str | None = None
    """What the decoder found."""
    blocks: list[NDArray[np.float32]] | None = None
    """All of them (channel, time), if there are few."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.info.sample_rate


def examine(path: str, limits: Limits, track: int | str | None = None) -> Upload:
    """Decode all of an upload: what is damaged is found before there is an answer.

    A short one is kept; a long one is decoded again while it is answered.

    Raises:
        AudioReadError: it cannot be decoded.
        LimitError: it is longer than allowed, or has more channels.
    """
    with audio.decode(path, block_seconds=5.0, track=track) as decoder:
        info = decoder.info
        if info.channels > limits.channels:
            raise LimitError(f"it has {info.channels} channels, and {limits.channels} are allowed")
        _check_seconds(info.seconds or 0.0, limits)
        frames = 0
        blocks: list[NDArray[np.float32]] | None = []
        for block in decoder:
            frames += block.shape[1]
            _check_seconds(frames / info.sample_rate, limits)
            if blocks is not None:
                blocks = [*blocks, block] if frames * info.channels <= _KEPT_SAMPLES else None
    return Upload(path, info, frames, decoder.warning, blocks)


def _check_seconds(seconds: float, limits: Limits) -> None:
    if seconds > limits.seconds:
        raise LimitError(f"it is longer than {limits.seconds:g} s: send it as a job (POST /v1/jobs)")


def answer_format(info: AudioInfo, wanted: str) -> audio.OutputFormat:
    """The format of an answer: the input's or the one asked for; flac where that cannot be streamed."""
    return streamed_format(info, wanted, otherwise="flac")


@dataclass(frozen=True, slots=True)
class Models:
    """The models, seen from a recording."""

    framing: Framing
    """Theirs."""
    ask: Ask
    """Hands a segment to them."""
    deadline: float = math.inf
    """In time.monotonic's seconds: when an answer is no longer waited for."""
    patient: bool = False
    """Wait where they have too much to do, instead of refusing the first segment."""


def restoration(
    info: AudioInfo,
    options: EnhanceOptions,
    models: Models,
    *,
    name: str,
    target: audio.OutputFormat,
    levels: bool = False,
) -> Restoration:
    """A recording on its way to the models and back.

    Its blocks raise what the engine's do, `BackPressureError` where the models have too much to do to begin,
    `TimedOutError` past the deadline, and `ModelsLostError` where replicas died again and again.
    """
    send = _Asking(models, options).results
    return Restoration(
        models.framing,
        send,
        info.sample_rate,
        info.channels,
        options,
        name=name,
        levels=levels,
        is_bounded=target.is_bounded,
    )


def encoded(upload: Upload, restored: Restoration, target: audio.OutputFormat) -> Iterator[bytes]:
    """The bytes of the answer, as they are ready; closing it takes back what the models were asked."""
    info = upload.info
    encoder = StreamEncoder(
        sample_rate=restored.rate,
        channels=restored.channels,
        frames=-(-upload.frames * restored.rate // info.sample_rate),
        target=target,
        tags=info.tags,
    )
    again = functools.partial(audio.decode, upload.path, track=info.track)
    with again() if upload.blocks is None else nullcontext(upload.blocks) as blocks:
        for block in restored.blocks(map(torch.from_numpy, blocks)):
            if data := encoder.write(block.numpy()):
                yield data
    yield encoder.finish()


def held_back(data: Iterator[bytes], path: str) -> Iterator[bytes]:
    """Hold ``data`` back, in a file at ``path``, until it ends, and yield it then.

    Before, it yields empty bytes for each part, so that whoever asks for them can stop.
    """
    with Path(path).open("w+b") as file:
        for part in data:
            file.write(part)
            yield b""
        file.seek(0)
        yield from iter(functools.partial(file.read, 2**20), b"")


class _Asking:
    """One recording's way to the models and back."""

    def __init__(self, models: Models, options: EnhanceOptions) -> None:
        self._models = models
        self._options = options
        self._begun = models.patient

    def results(self, pieces: Iterator[Piece]) -> Iterator[Result[None]]:
        """Answers in the order of ``pieces``, a few of which are with the models at a time."""
        pending: deque[tuple[Piece, Any]] = deque()
        try:
            for piece in pieces:
                pending.append((piece, self._send(piece)))
                if len(pending) >= AHEAD:
                    yield self._receive(*pending[0])
                    pending.popleft()
            while pending:
                yield self._receive(*pending[0])
                pending.popleft()
        finally:
            for _, response in pending:
                response.cancel()

    def wait_until(self, deadline: float) -> None:
        """Let what comes from now on wait until ``deadline`` for its answers."""
        self._models = dataclasses.replace(self._models, deadline=deadline)

    def _send(self, piece: Piece) -> Any:
        work = Work(piece.rows.numpy(), piece.segment.start, self._options, piece.cuts.numpy())
        return self._models.ask(work)

    def _receive(self, piece: Piece, response: Any) -> Result[None]:
        lost = 0
        while True:
            left = self._models.deadline - time.monotonic()
            try:
                output = response.result(timeout_s=max(0.001, left) if math.isfinite(left) else None)
            except TimeoutError as error:
                raise TimedOutError from error
            except BackPressureError:
                if not self._begun:  # the request can still be refused
                    raise
            except (ray.exceptions.RayError, RayServeException) as error:
                if not is_lost_replica(error):
                    raise
                # The segment gives the same wherever it runs.
                lost += 1
                if lost == _TRIES:
                    raise ModelsLostError from error
                logger.warning("a replica was lost, its segment is sent again (%d)", lost)
            else:
                self._begun = True
                return Result(None, piece, torch.from_numpy(output.copy()), 0.0)
            time.sleep(random.uniform(0.1, 0.3) * (1 + lost))
            response = self._send(piece)


def is_lost_replica(error: BaseException | None) -> bool:
    """Whether a replica died: the enhancer's, or the denoiser's, on whose answer the enhancer's had to wait.

    Of the second, Serve makes an error of its own, with the death as its cause.
    """
    while error is not None:
        if isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
            error = error.cause
        elif isinstance(error, ray.exceptions.RayActorError):
            return True
        else:
            error = error.__cause__ or error.__context__
    return False


LIVE = EnhanceOptions(segment_seconds=1.0, overlap_seconds=0.1, context_seconds=0.1)
"""Options of sound that is denoised while it arrives."""


class Live:
    """One stream of sound, denoised while it arrives; what comes out is a segment and a margin behind."""

    def __init__(self, sample_rate: int, models: Models, limits: Limits) -> None:
        """Begin a stream.

        Args:
            sample_rate: of what arrives, one channel, in Hz.
            models: that denoise it.
            limits: of which the time for one answer counts.
        """
        self._asking = _Asking(models, LIVE)
        self._timeout = limits.timeout_seconds
        send = self._asking.results
        self._stream = Restoration(models.framing, send, sample_rate, 1, LIVE, name="the stream", live=True)

    def push(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Take samples (time,), full scale at 1; what is ready, (time,) each, at 44.1 kHz.

        Raises:
            AudioError: a sample is NaN or infinite; or the model failed on it.
            ModelsLostError: replicas died, again and again.
        """
        return self._ready(self._stream.push(torch.from_numpy(samples)[None]))

    def finish(self) -> list[NDArray[np.float32]]:
        """The rest.

        Raises:
            AudioError: there was no sample at all; or the model failed on it.
            ModelsLostError: replicas died, again and again.
        """
        return self._ready(self._stream.finish())

    def _ready(self, blocks: Iterator[torch.Tensor]) -> list[NDArray[np.float32]]:
        self._asking.wait_until(time.monotonic() + self._timeout)
        return [block[0].numpy() for block in blocks]
