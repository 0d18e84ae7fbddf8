"""The ingress: takes requests, has their recordings restored, sends the answers as they come."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import logging
import tempfile
import threading
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from enhance_ray.audio import OutputFormat
from enhance_ray.audio.belongings import lost_in_stream
from enhance_ray.audio.streaming import packed
from enhance_ray.cluster.serve import reading, restoring
from enhance_ray.cluster.serve.refusals import RequestError, as_request_error
from enhance_ray.cluster.serve.settings import ServeConfig
from enhance_ray.cluster.serve.stages import Mode, Stages
from enhance_ray.engine.restore import Restoration
from enhance_ray.settings.options import EnhanceOptions

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Metrics:
    """What Prometheus sees of an ingress; Ray has metrics of every deployment besides."""

    def __init__(self, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        open_requests = Gauge("enhance_ray_open_requests", "Requests under way", registry=self.registry)
        open_requests.set_function(gate.total)
        self.requests = Counter(
            "enhance_ray_requests", "Requests answered", ["mode", "status"], registry=self.registry
        )
        self.audio = Counter(
            "enhance_ray_request_audio_seconds", "Audio that was accepted", ["mode"], registry=self.registry
        )
        self.first = Histogram(
            "enhance_ray_first_byte_seconds", "Until an answer begins", ["mode"], registry=self.registry
        )

    def text(self) -> Response:
        """In Prometheus' format."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class Gate:
    """How many of something are under way, in all and by client."""

    def __init__(self, each: int, total: int) -> None:
        """Allow so many of ``each`` client, and in ``total``."""
        self._each, self._most = each, total
        self._lock = threading.Lock()  # left from a thread
        self._clients: Tally[str] = Tally()

    def total(self) -> int:
        """How many are under way."""
        with self._lock:
            return self._clients.total()

    def check(self, client: str) -> None:
        """Whether ``client`` may enter now.

        Raises:
            RequestError: it has too many under way, or all have.
        """
        own = self._clients[client]
        if own >= self._each:
            raise RequestError(429, "too_many_requests", f"{own} requests of yours are under way")
        if self._clients.total() >= self._most:
            raise RequestError(503, "busy", "all places are taken; try again")

    @contextlib.contextmanager
    def __call__(self, client: str) -> Iterator[None]:
        """Let ``client`` in for the time of the block.

        Raises:
            RequestError: as `check`.
        """
        with self._lock:
            self.check(client)
            self._clients[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]


def give_memory_back() -> None:
    """Have freed buffers leave this process.

    glibc keeps an arena of freed memory for each thread, and learns to take ever larger buffers from it; with
    a thread for each request and buffers of megabytes that is memory which grows for hours.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
        mallopt(_M_ARENA_MAX, 2)


_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h


class Ingress:
    """Takes requests: decodes, cuts, asks the models, joins, encodes."""

    def __init__(
        self, settings: ServeConfig, denoiser: Any, enhancer: Any | None, jobs: Any | None = None
    ) -> None:
        give_memory_back()
        reading.tokens_of(settings)  # not at the first request
        self.settings = settings
        self._jobs = jobs
        self._stages = Stages(denoiser, enhancer)
        limits = settings.limits
        self._gate = Gate(limits.requests_per_client, limits.requests)
        # Apart, so that one that stalls takes no place of what can be worked on.
        self._uploads = Gate(limits.uploads_per_client, 2 * limits.requests)
        self.metrics = Metrics(self._gate)
        # One for each request: it waits for the models most of the time.
        self._threads = ThreadPoolExecutor(settings.limits.requests + 4, thread_name_prefix="request")

    async def facts(self) -> dict[str, Any]:
        """What the models are."""
        return await self._thread(self._stages.facts)

    async def ask_jobs(self, request: Request, method: str, *arguments: Any) -> Any:
        """What a method of `JobsDeployment` gives.

        Raises:
            RequestError: no token, no jobs here, or what the method refuses.
        """
        reading.check_token(self.settings, request.headers)
        if self._jobs is None:
            raise RequestError(409, "not_served", "this endpoint takes no jobs")
        try:
            async with asyncio.timeout(self.settings.limits.timeout_seconds):
                return await getattr(self._jobs, method).remote(*arguments)
        except Exception as error:
            raise as_request_error(error) from error

    async def restore(self, request: Request, mode: Mode) -> Response:
        """Answer a request with the restored recording, as it comes."""
        client = reading.client_of(self.settings, request)
        answer: _Answer | None = None
        try:
            with contextlib.ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="enhance-ray-serve-"))
                path = f"{folder}/upload"
                self._gate.check(client)  # before all of it is sent in vain
                with self._uploads(client):
                    given = dict(request.query_params)
                    given |= await reading.read_body(request, path, self.settings)
                stack.enter_context(self._gate(client))
                upload, options, target, restored = await self._begin(request, mode, path, given)
                data = restoring.encoded(upload, restored, target)
                if options.guard:  # the headers are to tell of all of it
                    data = restoring.held_back(data, f"{folder}/answer")
                answer = _Answer(data, stack.pop_all())
            started = time.monotonic()
            # Headers are sent when something is there to be heard: until then an error has a status.
            while (first := await self._thread(answer.next)) == b"":
                pass
        except BaseException as error:
            if answer is not None:
                self._threads.submit(answer.close)
            if not isinstance(error, Exception):
                logger.info("a client of /v1/%s left before its answer", mode)
                raise
            refused = as_request_error(error)
            self.metrics.requests.labels(mode, str(refused.status)).inc()
            raise refused from error
        waited = time.monotonic() - started
        self.metrics.requests.labels(mode, "200").inc()
        self.metrics.audio.labels(mode).inc(upload.seconds)
        self.metrics.first.labels(mode).observe(waited)
        headers = {
            "X-Audio-Seconds": f"{upload.seconds:.6f}",
            "X-Channels": str(restored.channels),
            "X-Model": self._stages.facts()[mode]["fingerprint"],
            # Of what there is until now: the first segment.
            "X-RTF": f"{waited / min(upload.seconds, options.segment_seconds):.4f}",
        }
        facts = restored.facts(upload.warning, lost_in_stream(upload.info, target.container))
        if facts.warning:
            headers["X-Warning"] = " ".join(facts.warning.encode("ascii", "replace").decode().split())
        if facts.guard:
            headers["X-Guard"] = json.dumps([dataclasses.asdict(span) for span in facts.guard])
        media = "audio/ogg" if target.container == "ogg" else reading.MEDIA_TYPES[target.container]
        return StreamingResponse(self._stream(first, answer), media_type=media, headers=headers)

    async def _thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _stream(self, data: bytes | None, answer: _Answer) -> AsyncIterator[bytes]:
        """The answer's bytes; where the client goes away, what the models were asked is taken back."""
        try:
            while data is not None:
                yield data
                data = await self._thread(answer.next)
        finally:
            # Not awaited: in a request that is cancelled every wait is cut short.
            self._threads.submit(answer.close)

    async def live(self, socket: WebSocket) -> None:
        """Denoise sound while it arrives: PCM in, PCM at 44.1 kHz out; the text "end" ends it."""
        try:
            client = reading.client_of(self.settings, socket)
            sample_rate, encoding = _live_settings(socket.query_params)
            models = await self._thread(self._stages.models, "denoise")
        except Exception as error:
            refused = as_request_error(error)
            await socket.close(_POLICY, f"{refused.code}: {refused.reason}"[:120])
            return
        try:
            with self._gate(client):
                await socket.accept()
                live = restoring.Live(sample_rate, models, self.settings.limits)
                await self._converse(socket, live, encoding)
        except WebSocketDisconnect:
            return
        except Exception as error:
            refused = as_request_error(error)
            await socket.close(_POLICY, f"{refused.code}: {refused.reason}"[:120])

    async def _converse(self, socket: WebSocket, live: restoring.Live, encoding: str) -> None:
        width = _WIDTHS[encoding]
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                if message["text"] != "end":
                    raise RequestError(400, "message_invalid", 'expected samples, or the text "end"')
                break
            data: bytes = message["bytes"]
            if len(data) % width or len(data) > _LARGEST_MESSAGE:
                raise RequestError(
                    400, "message_invalid", f"expected whole samples of {width} bytes, 1 MB at most"
                )
            await _send_samples(socket, await self._thread(live.push, _samples(data, encoding)), encoding)
        await _send_samples(socket, await self._thread(live.finish), encoding)
        await socket.close()

    async def _begin(
        self, request: Request, mode: Mode, path: str, given: dict[str, str]
    ) -> tuple[restoring.Upload, EnhanceOptions, OutputFormat, Restoration]:
        given["format"] = reading.wanted_format(given, request.headers.get("accept", ""))
        options = reading.options_of(given, mode, self.settings)
        limits = self.settings.limits
        models = await self._thread(self._stages.models, mode, time.monotonic() + limits.timeout_seconds)
        upload = await self._thread(restoring.examine, path, limits, options.audio_track)
        target = restoring.answer_format(upload.info, options.format)
        restored = restoring.restoration(upload.info, options, models, name="the upload", target=target)
        return upload, options, target, restored


class _Answer:
    """An answer's bytes, which one thread gets and another one may stop."""

    def __init__(self, answer: Iterator[bytes], kept: contextlib.ExitStack) -> None:
        self._answer = answer
        self._kept = kept
        self._lock = threading.Lock()

    def next(self) -> bytes | None:
        """The next bytes; None at the end."""
        with self._lock:
            return next(self._answer, None)

    def close(self) -> None:
        """Take back what the models were asked, and remove the upload."""
        with self._lock, self._kept:
            self._answer.close()  # type: ignore[attr-defined]


_POLICY = 1008
"""WebSocket's status for what is refused."""
_LARGEST_MESSAGE = 1_000_000
_WIDTHS = {"s16": 2, "f32": 4}


def _live_settings(given: Mapping[str, str]) -> tuple[int, str]:
    """Rate and encoding of a stream."""
    try:
        rate = int(given.get("sample_rate", "48000"))
    except ValueError as error:
        raise RequestError(400, "config_invalid", "sample_rate: expected a whole number") from error
    encoding = given.get("encoding", "s16")
    if not 8000 <= rate <= 96_000 or encoding not in _WIDTHS:
        raise RequestError(400, "config_invalid", "expected sample_rate 8000 to 96000, encoding s16 or f32")
    return rate, encoding


def _samples(data: bytes, encoding: str) -> NDArray[np.float32]:
    if encoding == "f32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


async def _send_samples(socket: WebSocket, blocks: list[NDArray[np.float32]], encoding: str) -> None:
    for block in blocks:
        await socket.send_bytes(packed(block[None], encoding))
