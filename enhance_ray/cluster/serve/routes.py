"""The HTTP API and its description, which `/openapi.json` gives out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict
from ray import serve
from starlette.exceptions import HTTPException

from enhance_ray import __version__
from enhance_ray.audio.streaming import STREAMED
from enhance_ray.cluster.serve import reading, refusals
from enhance_ray.cluster.serve.api import Ingress
from enhance_ray.cluster.serve.jobs import JobReport, Order
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.settings.options import EnhanceOptions
from enhance_ray.settings.schema import adapter

WEB = Path(__file__).parent / "web"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src blob:; img-src data: blob:; worker-src blob:; "
    "connect-src 'self' blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
}
"""The page asks nobody else for anything."""


class Error(BaseModel):
    """Why a request is refused."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    error: str
    """A stable word."""
    reason: str
    """A sentence."""


_HEADERS = {
    "X-Audio-Seconds": "length of the recording",
    "X-Channels": "of the answer",
    "X-Model": "fingerprint of the model",
    "X-RTF": "seconds for each second of the first segment",
    "X-Warning": "what is not as it should be all the same, such as a loudness that was missed",
    "X-Guard": "where the guard kept another version, as JSON: start, stop (s), kept, reason; an answer with "
    "`guard` begins when all of it is restored",
}

_MEANINGS: dict[int, str] = {
    400: "an option is wrong, the body is empty, or the form cannot be read",
    401: "a token is needed",
    404: "there is no such thing",
    408: "the body came too slowly",
    409: "what is asked for is not served here, or would replace something",
    413: "the recording is larger or longer than one request may be",
    415: "the format asked for cannot be given",
    422: "the recording cannot be read, or the body is not of this form",
    429: "too many requests of this client are under way; Retry-After says when to come again",
    500: "the model fails on this recording, or something went wrong here",
    503: "too busy or not ready; Retry-After says when to come again",
    504: "it took longer than allowed",
}


def create_api(ingress: Ingress) -> FastAPI:
    """The application whose work ``ingress`` does."""
    settings = ingress.settings
    api = FastAPI(
        title="enhance_ray",
        version=__version__,
        docs_url=None,  # its scripts come from another host
        redoc_url=None,
        description="Restores speech recordings.",
    )
    api.add_exception_handler(RequestError, refusals.answer_request_error)
    api.add_exception_handler(HTTPException, refusals.answer_http_error)
    api.add_exception_handler(RequestValidationError, refusals.answer_invalid)
    if settings.origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[*_HEADERS, "Retry-After", "Location"],
        )
    api.mount("/web", StaticFiles(directory=WEB))
    _add_restoring(api, ingress)
    _add_jobs(api, ingress)
    _add_state(api, ingress)
    return api


def _add_restoring(api: FastAPI, ingress: Ingress) -> None:
    @api.post("/v1/enhance", **_restoring_description())
    async def enhance(request: Request) -> Response:
        """Restore a recording: noise, distortion, band."""
        return await ingress.restore(request, "enhance")

    @api.post("/v1/denoise", **_restoring_description())
    async def denoise(request: Request) -> Response:
        """Take the noise out of a recording."""
        return await ingress.restore(request, "denoise")

    @api.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await ingress.live(socket)


def _add_jobs(api: FastAPI, ingress: Ingress) -> None:
    def described(*statuses: int) -> dict[str, Any]:
        return {"tags": ["jobs"], "responses": _responses(401, 503, *statuses)}

    @api.post("/v1/jobs", status_code=202, **described(400, 409, 413, 422))
    async def submit(order: Order, request: Request, response: Response) -> JobReport:
        """Restore recordings that are longer than a request may be: URIs in, URIs out."""
        job: JobReport = await ingress.ask_jobs(request, "submit", order)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return job

    @api.get("/v1/jobs/{name}", **described(404))
    async def look(name: str, request: Request) -> JobReport:
        """How far a job is."""
        job: JobReport = await ingress.ask_jobs(request, "look", name)
        return job

    @api.delete("/v1/jobs/{name}", status_code=204, **described(404))
    async def delete(name: str, request: Request) -> None:
        """Stop a job if it is open, and forget it; outputs that are complete stay."""
        await ingress.ask_jobs(request, "delete", name)


def _add_state(api: FastAPI, ingress: Ingress) -> None:
    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse((WEB / "index.html").read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @api.get("/v1/models", tags=["state"])
    async def models() -> dict[str, Any]:
        """What is served, and what one request may have."""
        limits = ingress.settings.limits
        return {
            "models": [{"mode": mode, **facts} for mode, facts in (await ingress.facts()).items()],
            "limits": {
                "seconds": limits.seconds,
                "megabytes": limits.body_megabytes,
                "channels": limits.channels,
            },
        }

    @api.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """For Prometheus: of this process."""
        return ingress.metrics.text()

    @api.get("/healthz", tags=["state"])
    async def alive() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @api.get("/readyz", tags=["state"], responses={503: {"description": "not yet"}})
    async def ready() -> Response:
        """Whether each model has a replica that runs."""
        if await asyncio.to_thread(_is_ready):
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "starting"}, 503, refusals.RETRY_LATER)


def _is_ready() -> bool:
    name = serve.get_replica_context().app_name
    deployments = serve.status().applications[name].deployments.values()
    return all(each.status == "HEALTHY" or _running(each.replica_states) for each in deployments)


def _running(states: Mapping[Any, int]) -> int:
    return states.get("RUNNING", 0)


# ---------------------------------------------------------------- the description


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Error, "description": _MEANINGS[status]} for status in sorted(statuses)}


def _restoring_description() -> dict[str, Any]:
    """What FastAPI cannot see: a body that is a recording, options in the query, sound in the answer."""
    sound = {"schema": {"type": "string", "format": "binary"}}
    options = {name: option for name, option in _options().items() if name != "mode"}
    fields = {"file": sound["schema"], **{name: option["schema"] for name, option in options.items()}}
    form = {"type": "object", "required": ["file"], "properties": fields}
    answer = {
        "description": "the restored recording, sent as it comes",
        "content": dict.fromkeys(reading.MEDIA_TYPES.values(), sound),
        "headers": {
            name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
        },
    }
    return {
        "tags": ["recordings"],
        "response_class": Response,
        "responses": {200: answer, **_responses(*(status for status in _MEANINGS if status != 404))},
        "openapi_extra": {
            "parameters": [{"name": name, "in": "query", **option} for name, option in options.items()],
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": sound,
                    "audio/*": sound,
                    "multipart/form-data": {"schema": form},
                },
            },
        },
    }


_EXAMPLES: dict[str, Any] = {"loudness": -16, "format": "flac", "strength": 0.9}


def _options() -> dict[str, dict[str, Any]]:
    """`EnhanceOptions` as OpenAPI's parameters, by name."""
    found: dict[str, dict[str, Any]] = {}
    for name, schema in adapter(EnhanceOptions).json_schema()["properties"].items():
        found[name] = {"description": schema.pop("description"), "schema": schema}
        if name in _EXAMPLES:
            found[name]["example"] = _EXAMPLES[name]
        del schema["title"]
        if schema["default"] is None:  # who wants none leaves the option out
            del schema["default"]
            schema["anyOf"].remove({"type": "null"})
    found["format"]["schema"] = {"enum": ["keep", *STREAMED], "default": "keep"}
    return found
