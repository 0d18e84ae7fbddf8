"""Talking to an endpoint of this package from Python.

    from enhance_ray.client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.denoise("noisy.mp3", "clean.mp3", loudness=-16)

Needs httpx: pip install 'enhance-ray[client]'.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from enhance_ray.errors import EnhanceRayError

logger = logging.getLogger(__name__)

_PATIENT = (429, 503)


class EndpointError(EnhanceRayError):
    """An endpoint refused a request. ``status`` is HTTP's, ``code`` a stable word, ``reason`` a sentence."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(status, code, reason)
        self.status = status
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} ({self.code}, HTTP {self.status})"


class Client:
    """One endpoint; may be shared by threads."""

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 600.0, tries: int = 5) -> None:
        """Name the endpoint.

        Args:
            url: of it, such as http://127.0.0.1:8000.
            token: that it asks for.
            timeout: seconds for an answer.
            tries: of a request that is refused because the endpoint is busy.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._tries = tries

    def denoise(self, source: str | Path | bytes, target: str | Path | None = None, **options: Any) -> bytes:
        """Take the noise out of a recording.

        Args:
            source: a file, or its content.
            target: a file to write as the answer comes; its name does not choose the format.
            options: of `EnhanceOptions`.

        What the endpoint warns of, such as a loudness that was missed, is logged.

        Returns:
            The answer; empty where it went to ``target``.

        Raises:
            EndpointError: the endpoint refused.
            httpx.TransportError: it cannot be reached, or broke off.
        """
        return self._restore("denoise", source, target, options)

    def enhance(self, source: str | Path | bytes, target: str | Path | None = None, **options: Any) -> bytes:
        """Restore a recording; as `denoise`."""
        return self._restore("enhance", source, target, options)

    def models(self) -> list[dict[str, Any]]:
        """What is served.

        Raises:
            EndpointError: the endpoint refused.
        """
        found: list[dict[str, Any]] = _json(self._http.get("/v1/models"))["models"]
        return found

    def submit(self, recordings: Iterable[Mapping[str, str]], **order: Any) -> dict[str, Any]:
        """Begin a job, for recordings that are longer than a request may be.

        Args:
            recordings: {"input": URI, "output": URI} each, below prefixes that the endpoint allows.
            order: mode ("denoise"), options (a mapping), replace (False).

        Returns:
            The job: its "id", "status", "progress" from 0 to 1, and the same of each of its "recordings".

        Raises:
            EndpointError: the endpoint refused.
        """
        # Named here: an order that is sent again because an answer was lost makes no second job.
        named = {"id": secrets.token_urlsafe(12), "recordings": [dict(each) for each in recordings], **order}
        for _ in range(self._tries - 1):
            try:
                response = self._http.post("/v1/jobs", json=named)
                if response.status_code not in _PATIENT:
                    return _json(response)
                wait = float(response.headers.get("Retry-After", 1))
            except httpx.TransportError as error:
                logger.warning("the order is sent again: %s", error)
                wait = 1.0
            time.sleep(wait)
        return _json(self._http.post("/v1/jobs", json=named))

    def job(self, name: str) -> dict[str, Any]:
        """How far the job with this id is.

        Raises:
            EndpointError: the endpoint does not know it.
        """
        return _json(self._http.get(f"/v1/jobs/{name}"))

    def wait(
        self,
        name: str,
        *,
        progress: Callable[[dict[str, Any]], None] | None = None,
        poll_seconds: float = 2.0,
    ) -> dict[str, Any]:
        """The job with this id when it is done or failed.

        Args:
            name: its id.
            progress: called with the job whenever it was asked for.
            poll_seconds: between two questions.

        Raises:
            EndpointError: the endpoint does not know it.
        """
        while True:
            job = self.job(name)
            if progress is not None:
                progress(job)
            if job["status"] in ("done", "failed"):
                return job
            time.sleep(poll_seconds)

    def delete(self, name: str) -> None:
        """Stop a job if it is open, and forget it; outputs that are complete stay.

        Raises:
            EndpointError: the endpoint does not know it.
        """
        _check(self._http.delete(f"/v1/jobs/{name}"))

    def _restore(
        self, mode: str, source: str | Path | bytes, target: str | Path | None, options: dict[str, Any]
    ) -> bytes:
        name = "the recording" if isinstance(source, bytes) else str(source)
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        parameters = {option: str(value) for option, value in options.items()}
        for attempt in range(self._tries):
            with self._http.stream("POST", f"/v1/{mode}", params=parameters, content=content) as response:
                if response.status_code in _PATIENT and attempt + 1 < self._tries:
                    time.sleep(float(response.headers.get("Retry-After", 1)))
                    continue
                if response.is_error:
                    response.read()
                _check(response)
                if warning := response.headers.get("X-Warning"):
                    logger.warning("%s: %s", name, warning)
                if target is None:
                    return response.read()
                _write(Path(target), response.iter_bytes)
                return b""
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(target: Path, chunks: Callable[[], Iterator[bytes]]) -> None:
    """The whole answer, or nothing under that name."""
    temporary = target.with_name(f".{target.name}.part")
    try:
        with temporary.open("wb") as file:
            file.writelines(chunks())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _json(response: httpx.Response) -> dict[str, Any]:
    _check(response)
    tree: dict[str, Any] = response.json()
    return tree


def _check(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        tree = response.json()
        code, reason = str(tree["error"]), str(tree["reason"])
    except (ValueError, KeyError, TypeError):
        code, reason = "unknown", response.reason_phrase
    raise EndpointError(response.status_code, code, reason)
