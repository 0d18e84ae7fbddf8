"""What goes wrong leaves as ``{"error": code, "reason": text}``, and says nothing of the inside."""

from __future__ import annotations

import logging

import ray
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from enhance_ray.cluster.serve import restoring
from enhance_ray.errors import AudioError, ConfigError, EnhanceRayError, ModelFailedError

logger = logging.getLogger(__name__)

RETRY_LATER = {"Retry-After": "2"}
"""Header of an answer that may be another one soon; in seconds."""


class RequestError(EnhanceRayError):
    """A request is refused: with an HTTP status, a stable code and a reason."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(status, code, reason)
        self.status = status
        self.code = code
        self.reason = reason


_REFUSALS: list[tuple[type[BaseException], int, str | None, str | None]] = [
    (restoring.LimitError, 413, None, None),
    (restoring.TimedOutError, 504, None, None),
    (TimeoutError, 504, "timed_out", "the answer took longer than allowed"),
    (restoring.ModelsLostError, 503, None, None),
    (ModelFailedError, 500, None, None),
    (AudioError, 422, None, None),
    (ConfigError, 400, None, None),
    (ClientDisconnect, 499, "gone", "the client went away"),
    (BackPressureError, 503, "busy", "too many segments wait for the models; try again"),
    (ray.exceptions.RayActorError, 503, "unavailable", "the models are not there; try again"),
]
"""HTTP's status, code and reason of what may go wrong; None is the error's own."""


def answer_error(error: RequestError) -> JSONResponse:
    """An error as clients get it; where another try may help, it says when."""
    headers = dict(RETRY_LATER) if error.status in (429, 503) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.code, "reason": error.reason}, error.status, headers)


def as_request_error(error: BaseException) -> RequestError:
    """What a client is told of ``error``; what it is not to know is not in it."""
    if isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause  # as it was raised, in another process
    if isinstance(error, RequestError):
        return error
    for kind, status, code, reason in _REFUSALS:
        if isinstance(error, kind):
            own: str = str(error) if kind is ConfigError else getattr(error, "reason", "")
            return RequestError(status, code or str(getattr(error, "code", "")), reason or own)
    logger.error("a request failed", exc_info=error)
    return RequestError(500, "internal", "something went wrong here; it has been logged")


async def answer_request_error(_: Request, error: Exception) -> Response:
    """FastAPI's handler of `RequestError`."""
    return answer_error(as_request_error(error))


async def answer_http_error(_: Request, error: Exception) -> Response:
    """FastAPI's handler of what it refuses itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    refused = RequestError(error.status_code, codes.get(error.status_code, "refused"), str(error.detail))
    answer = answer_error(refused)
    answer.headers.update(error.headers or {})
    return answer


async def answer_invalid(_: Request, error: Exception) -> Response:
    """FastAPI's handler of a body that does not have the form that is expected."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return answer_error(RequestError(422, "request_invalid", f"{where or 'body'}: {first['msg']}"))
