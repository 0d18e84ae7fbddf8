"""HTTP: what comes in is checked here, and what goes wrong leaves as ``{"error": code, "reason": text}``."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import logging
import os
import tempfile
import threading
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import ray
import yaml
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from torch import nn

from enhance_ray import __version__, config
from enhance_ray.audio import OutputFormat
from enhance_ray.audio.streaming import packed
from enhance_ray.cluster.serve import restoring
from enhance_ray.cluster.serve.models import Work
from enhance_ray.cluster.serve.restoring import LimitError, TimedOutError
from enhance_ray.cluster.serve.settings import TOKENS_VARIABLE, ServeConfig
from enhance_ray.errors import AudioError, ConfigError, EnhanceRayError
from enhance_ray.options import EnhanceOptions
from enhance_ray.pipeline import Enhancer

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}
"""By `EnhanceOptions.format`."""
_COPIED_BYTES = 2**20
_RETRY_SECONDS = 2


class RequestError(EnhanceRayError):
    """A request is refused: with an HTTP status, a stable code and a reason."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(status, code, reason)
        self.status = status
        self.code = code
        self.reason = reason


_REFUSALS: list[tuple[type[BaseException], int, str | None, str | None]] = [
    (LimitError, 413, None, None),
    (TimedOutError, 504, None, None),
    (restoring.ModelsLostError, 503, None, None),
    (AudioError, 422, None, None),
    (ConfigError, 400, None, None),
    (ClientDisconnect, 499, "gone", "the client went away"),
    (BackPressureError, 503, "busy", "too many segments wait for the models; try again"),
    (ray.exceptions.RayActorError, 503, "unavailable", "the models are not there; try again"),
]
"""HTTP's status, code and reason of what may go wrong; None is the error's own."""


class Metrics:
    """What Prometheus sees of an ingress; Ray has metrics of every deployment besides."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
    """How many requests are under way, in all and by client."""

    def __init__(self, settings: ServeConfig) -> None:
        self._limits = settings.limits
        self._lock = threading.Lock()  # left from a thread
        self._clients: Tally[str] = Tally()

    @contextlib.contextmanager
    def __call__(self, client: str) -> Iterator[None]:
        """Let ``client`` in for the time of the block.

        Raises:
            RequestError: it has too many requests under way, or all have.
        """
        with self._lock:
            own, limits = self._clients[client], self._limits
            if own >= limits.requests_per_client:
                raise RequestError(429, "too_many_requests", f"{own} requests of yours are under way")
            if self._clients.total() >= limits.requests:
                raise RequestError(503, "busy", "all places are taken; try again")
            self._clients[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]


def create_api() -> FastAPI:
    """An application whose errors all have one form."""
    api = FastAPI(
        title="enhance_ray",
        version=__version__,
        docs_url=None,  # its scripts come from another host
        redoc_url=None,
        description='Restores speech recordings. Errors are `{"error": code, "reason": text}`.',
    )

    @api.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return answer_error(error)

    @api.exception_handler(StarletteHTTPException)
    async def unknown(_: Request, error: StarletteHTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        return answer_error(
            RequestError(error.status_code, codes.get(error.status_code, "refused"), str(error.detail))
        )

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return answer_error(RequestError(422, "request_invalid", f"{where}: {first['msg']}"))

    return api


def answer_error(error: RequestError) -> JSONResponse:
    """An error as clients get it; where another try may help, it says when."""
    headers = {"Retry-After": str(_RETRY_SECONDS)} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.code, "reason": error.reason}, error.status, headers)


def as_request_error(error: BaseException) -> RequestError:
    """What a client is told of ``error``; what it is not to know is not in it."""
    if isinstance(error, RequestError):
        return error
    for kind, status, code, reason in _REFUSALS:
        if isinstance(error, kind):
            own: str = str(error) if kind is ConfigError else getattr(error, "reason", "")
            return RequestError(status, code or str(getattr(error, "code", "")), reason or own)
    logger.error("a request failed", exc_info=error)
    return RequestError(500, "internal", "something went wrong here; it has been logged")


def check_token(settings: ServeConfig, headers: Mapping[str, str]) -> str | None:
    """The token of a request; None where none is needed.

    Raises:
        RequestError: it has none, or one that is unknown.
    """
    tokens = [*settings.tokens, *filter(None, os.environ.get(TOKENS_VARIABLE, "").split(","))]
    if not tokens:
        return None
    scheme, _, given = headers.get("authorization", "").partition(" ")
    matches = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    if scheme.lower() != "bearer" or not any(matches):
        raise RequestError(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
    return given


def options_of(given: Mapping[str, str], mode: str, settings: ServeConfig) -> EnhanceOptions:
    """Options of a request, named as in `EnhanceOptions`.

    Raises:
        RequestError: one is unknown, of the wrong type, or out of its range.
    """
    names = {field.name: field.metadata["alias"] for field in dataclasses.fields(EnhanceOptions)}
    aliases = {alias: name for name, alias in names.items() if alias}
    tree: dict[str, Any] = {"mode": mode}
    for given_name, text in given.items():
        name = aliases.get(given_name, given_name)
        if name == "mode":
            raise RequestError(400, "config_invalid", "mode: it is said by the path")
        try:
            tree[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RequestError(400, "config_invalid", f"{name}: expected a plain value") from error
    try:
        options = config.from_tree(EnhanceOptions, tree, where="options")
    except ConfigError as error:
        raise RequestError(400, error.code, str(error)) from error
    if options.nfe is not None and options.nfe > settings.limits.nfe:
        raise RequestError(400, "config_invalid", f"nfe: at most {settings.limits.nfe} here")
    return options


def _check_size(size: float, settings: ServeConfig) -> None:
    most = settings.limits.body_megabytes
    if size > most * 1e6:
        raise RequestError(413, "too_large", f"the body may have {most:g} MB")


async def spool(request: Request, path: str, settings: ServeConfig) -> None:
    """Write the body of a request to the file at ``path``.

    Raises:
        RequestError: it is empty, or larger than allowed.
    """
    size = 0
    with Path(path).open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            _check_size(size, settings)
            await asyncio.to_thread(file.write, chunk)
    if not size:
        raise RequestError(400, "empty", "the body is empty: send a recording")


async def read_form(request: Request, path: str, settings: ServeConfig) -> dict[str, str]:
    """Write the file of a multipart body to ``path``; its other fields.

    Raises:
        RequestError: there is no file, or more than one, or it is larger than allowed.
    """
    try:
        form = await request.form(max_files=1, max_fields=50)
    except HTTPException as error:
        raise RequestError(400, "form_invalid", f"the form cannot be read: {error.detail}") from error
    try:
        files = [value for value in form.values() if not isinstance(value, str)]
        if len(files) != 1:
            raise RequestError(400, "form_invalid", "expected one file in the form")
        _check_size(files[0].size or 0, settings)
        with Path(path).open("wb") as file:
            while chunk := await files[0].read(_COPIED_BYTES):
                await asyncio.to_thread(file.write, chunk)
        return {name: value for name, value in form.items() if isinstance(value, str)}
    finally:
        await form.close()


def wanted_format(given: Mapping[str, str], accept: str) -> str:
    """What the ``format`` of a request or its Accept header asks for.

    Raises:
        RequestError: none of what is accepted can be given.
    """
    if "format" in given:
        return given["format"]
    accepted = [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    by_type = {kind: name for name, kind in MEDIA_TYPES.items()} | _OTHER_TYPES
    for kind in accepted:
        if kind in by_type:
            return by_type[kind]
    if not accepted or any(kind in ("*/*", "audio/*", "application/octet-stream") for kind in accepted):
        return "keep"
    raise RequestError(415, "format_unknown", f"expected one of {', '.join(by_type)} in Accept")


_OTHER_TYPES = {"audio/x-wav": "wav", "audio/wave": "wav", "audio/x-flac": "flac", "audio/opus": "opus"}


class Ingress:
    """Takes requests: decodes, cuts, asks the models, joins, encodes."""

    def __init__(self, settings: ServeConfig, denoiser: Any, enhancer: Any | None) -> None:
        self._settings = settings
        self._denoiser = denoiser
        self._enhancer = enhancer
        self._gate = Gate(settings)
        self._metrics = Metrics()
        # One for each request: it waits for the models most of the time.
        self._threads = ThreadPoolExecutor(settings.limits.requests + 4, thread_name_prefix="request")
        self._shape: Enhancer | None = None
        self._facts: dict[str, Any] = {}

    async def facts(self) -> dict[str, Any]:
        """What the models are; asked of them once."""
        if not self._facts:
            stages = {"denoise": self._denoiser, "enhance": self._enhancer}
            facts = {mode: await stage.facts.remote() for mode, stage in stages.items() if stage is not None}
            denoiser = facts["denoise"]
            self._shape = Enhancer(
                nn.Identity(),
                hop=denoiser["hop"],
                shortest=denoiser["shortest"],
                device="cpu",
                precision="fp32",
            )
            self._facts = facts
        return self._facts

    async def restore(self, request: Request, mode: Literal["denoise", "enhance"]) -> Response:
        """Answer a request with the restored recording, as it comes."""
        token = check_token(self._settings, request.headers)
        client = token or (request.client.host if request.client else "unknown")
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._gate(client))
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="enhance-ray-serve-"))
                answer, headers, target = await self._begin(request, mode, f"{folder}/upload")
                started = time.monotonic()
                # Headers are sent when something is there to be heard: until then an error has a status.
                first = await self._thread(next, answer, b"")
                headers["X-RTF"] = f"{(time.monotonic() - started) / float(headers['X-Audio-Seconds']):.4f}"
                kept = stack.pop_all()  # until the answer is sent
        except Exception as error:
            refused = as_request_error(error)
            self._metrics.requests.labels(mode, str(refused.status)).inc()
            raise refused from error
        self._metrics.requests.labels(mode, "200").inc()
        self._metrics.audio.labels(mode).inc(float(headers["X-Audio-Seconds"]))
        self._metrics.first.labels(mode).observe(time.monotonic() - started)
        media = "audio/ogg" if target.container == "ogg" else MEDIA_TYPES[target.container]
        stream = self._stream(first, _Closing(answer, kept))
        return StreamingResponse(stream, media_type=media, headers=headers)

    async def _thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _stream(self, first: bytes, answer: _Closing) -> AsyncIterator[bytes]:
        """The answer's bytes; where the client goes away, what the models were asked is taken back."""
        try:
            yield first
            while (data := await self._thread(answer.next)) is not None:
                yield data
        finally:
            # Not awaited: in a request that is cancelled every wait is cut short.
            self._threads.submit(answer.close)

    async def live(self, socket: WebSocket) -> None:
        """Denoise sound while it arrives: PCM in, PCM at 44.1 kHz out; the text "end" ends it."""
        try:
            token = check_token(self._settings, socket.headers)
            sample_rate, encoding = _live_settings(socket.query_params)
            await self.facts()
        except Exception as error:
            refused = as_request_error(error)
            await socket.close(_POLICY, f"{refused.code}: {refused.reason}"[:120])
            return
        client = token or (socket.client.host if socket.client else "unknown")
        try:
            with self._gate(client):
                await socket.accept()
                await self._converse(socket, sample_rate, encoding)
        except WebSocketDisconnect:
            return
        except Exception as error:
            refused = as_request_error(error)
            await socket.close(_POLICY, f"{refused.code}: {refused.reason}"[:120])

    async def _converse(self, socket: WebSocket, sample_rate: int, encoding: str) -> None:
        assert self._shape is not None
        live = restoring.Live(sample_rate, self._shape, self._ask("denoise"), self._settings.limits)
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
        self, request: Request, mode: Literal["denoise", "enhance"], path: str
    ) -> tuple[Iterator[bytes], dict[str, str], OutputFormat]:
        with contextlib.suppress(ValueError):
            _check_size(int(request.headers.get("content-length", 0)), self._settings)
        given = dict(request.query_params)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            given |= await read_form(request, path, self._settings)
        else:
            await spool(request, path, self._settings)
        given["format"] = wanted_format(given, request.headers.get("accept", ""))
        options = options_of(given, mode, self._settings)
        facts = await self.facts()
        if mode not in facts:
            raise RequestError(409, "not_served", "this endpoint has a denoiser alone")
        started = time.monotonic()
        limits = self._settings.limits
        upload = await self._thread(restoring.examine, path, limits)
        target = restoring.answer_format(upload.info, options.format)
        assert self._shape is not None
        answer = restoring.restore(
            upload, options, self._shape, self._ask(mode), started + limits.timeout_seconds, target
        )
        headers = {
            "X-Audio-Seconds": f"{upload.seconds:.6f}",
            "X-Channels": str(1 if options.channels == "mono" else upload.info.channels),
            "X-Model": facts[mode]["fingerprint"],
        }
        return answer, headers, target

    def _ask(self, mode: Literal["denoise", "enhance"]) -> restoring.Ask:
        if mode == "denoise":
            ask: restoring.Ask = self._denoiser.denoise.remote
            return ask
        enhancer = self._enhancer
        assert enhancer is not None

        def chained(work: Work) -> Any:
            if not work.options.denoise_strength:
                return enhancer.enhance.remote(work)
            # A promise: the rows go from the denoiser to the enhancer, and not through here.
            return enhancer.enhance.remote(self._denoiser.forward.remote(work))

        return chained


class _Closing:
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
