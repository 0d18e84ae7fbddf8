"""What a request says, checked: its token, its options, its recording, the format that it wants back."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fastapi import Request
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import HTTPConnection

from enhance_ray.audio.streaming import STREAMED
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.cluster.serve.settings import TOKENS_VARIABLE, ServeConfig
from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.settings.options import ALIASES, EnhanceOptions, refuse_all_tracks

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}
"""By `EnhanceOptions.format`."""
_OTHER_TYPES = {"audio/x-wav": "wav", "audio/wave": "wav", "audio/x-flac": "flac", "audio/opus": "opus"}
_COPIED_BYTES = 2**20


def tokens_of(settings: ServeConfig) -> list[str]:
    """The tokens that let a client in; none lets everyone in.

    Raises:
        ConfigError: the variable is set and holds none: a secret that is empty is not to open the door.
    """
    variable = os.environ.get(TOKENS_VARIABLE)
    named = [token for token in map(str.strip, (variable or "").split(",")) if token]
    if variable is not None and not named:
        raise ConfigError(TOKENS_VARIABLE, "it is set and holds no token: give tokens, or unset it")
    return [*settings.tokens, *named]


def check_token(settings: ServeConfig, headers: Mapping[str, str]) -> str | None:
    """The token of a request; None where none is needed.

    Raises:
        RequestError: it has none, or one that is unknown.
    """
    tokens = tokens_of(settings)
    if not tokens:
        return None
    scheme, _, given = headers.get("authorization", "").partition(" ")
    matches = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    if scheme.lower() != "bearer" or not any(matches):
        raise RequestError(401, "unauthorized", "send a token: Authorization: Bearer TOKEN")
    return given


def client_of(settings: ServeConfig, connection: HTTPConnection) -> str:
    """Whose requests are counted together: by token, or else by address; behind a proxy, its client's.

    Raises:
        RequestError: a token is needed, and lacks or is unknown.
    """
    if (token := check_token(settings, connection.headers)) is not None:
        return token
    proxies = [ipaddress.ip_network(proxy) for proxy in settings.proxies]
    # Each proxy appends whom it heard: the last one that is none of ours is the client.
    heard = connection.headers.get("x-forwarded-for", "") if proxies else ""
    address = connection.client.host if connection.client else "unknown"
    for before in reversed([part.strip() for part in heard.split(",") if part.strip()]):
        if not _is_among(address, proxies):
            break
        address = before
    return address


def _is_among(address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def options_of(given: Mapping[str, str], mode: str, settings: ServeConfig) -> EnhanceOptions:
    """Options of a request, named as in `EnhanceOptions`.

    Raises:
        RequestError: one is unknown, of the wrong type, or out of its range.
    """
    tree = {}
    for name, text in given.items():
        try:
            tree[name] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-13-45 looks like a date
            raise RequestError(400, "config_invalid", f"{name}: expected a plain value") from error
    return options_from(tree, mode, settings)


def options_from(given: Mapping[str, Any], mode: str, settings: ServeConfig) -> EnhanceOptions:
    """The same, from values that have their types.

    Raises:
        RequestError: one is unknown, of the wrong type, or out of its range.
    """
    tree = {ALIASES.get(name, name): value for name, value in given.items()}
    if "mode" in tree:
        raise RequestError(400, "config_invalid", "mode: it is not one of the options here")
    try:
        options = trees.from_tree(EnhanceOptions, {**tree, "mode": mode}, where="options")
        refuse_all_tracks(options, "requests")
    except ConfigError as error:
        raise RequestError(400, error.code, str(error)) from error
    if options.nfe is not None and options.nfe > settings.limits.nfe:
        raise RequestError(400, "config_invalid", f"nfe: at most {settings.limits.nfe} here")
    return options


async def read_body(request: Request, path: str, settings: ServeConfig) -> dict[str, str]:
    """Write the recording in a request's body to the file at ``path``; what else is in the body, if a form.

    Raises:
        RequestError: there is no recording, or more than one; it is larger than allowed, or comes too slowly.
    """
    content = _limited(request, settings)
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        async with asyncio.timeout(settings.limits.timeout_seconds):
            if is_form:
                return await _read_form(request, content, path)
            await _spool(content, path)
            return {}
    except TimeoutError as error:
        raise RequestError(408, "too_slow", "the body did not come in time") from error


async def _limited(request: Request, settings: ServeConfig) -> AsyncIterator[bytes]:
    """The body, as long as it is not too large; refused before it comes where it says its length."""
    most = settings.limits.body_megabytes
    told = request.headers.get("content-length", "")
    size = int(told) if told.isdecimal() else 0
    refusal = RequestError(413, "too_large", f"the body may have {most:g} MB")
    if size > most * 1e6:
        raise refusal
    size = 0
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(settings.limits.idle_seconds):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        size += len(chunk)
        if size > most * 1e6:
            raise refusal
        yield chunk


async def _spool(content: AsyncIterator[bytes], path: str) -> None:
    size = 0
    with Path(path).open("wb") as file:
        async for chunk in content:
            size += len(chunk)
            file.write(chunk)  # of 64 kB, to the page cache: a thread would take longer
    if not size:
        raise RequestError(400, "empty", "the body is empty: send a recording")


async def _read_form(request: Request, content: AsyncIterator[bytes], path: str) -> dict[str, str]:
    parser = MultiPartParser(request.headers, content, max_files=1, max_fields=50)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise RequestError(400, "form_invalid", "the form cannot be read") from error
    try:
        files = [value for value in form.values() if not isinstance(value, str)]
        if len(files) != 1:
            raise RequestError(400, "form_invalid", "expected one file in the form")
        with Path(path).open("wb") as file:
            while chunk := await files[0].read(_COPIED_BYTES):
                file.write(chunk)
        return {name: value for name, value in form.items() if isinstance(value, str)}
    finally:
        await form.close()


def wanted_format(given: Mapping[str, str], accept: str) -> str:
    """What the ``format`` of a request or its Accept header asks for.

    Raises:
        RequestError: it is none that is streamed, or none of what is accepted can be given.
    """
    if "format" in given:
        if given["format"] not in ("keep", *STREAMED):
            raise RequestError(
                415, "format_unknown", f"format: expected keep or one of {', '.join(STREAMED)} for a request"
            )
        return given["format"]
    accepted = [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    by_type = {kind: name for name, kind in MEDIA_TYPES.items()} | _OTHER_TYPES
    for kind in accepted:
        if kind in by_type:
            return by_type[kind]
    if not accepted or any(kind in ("*/*", "audio/*", "application/octet-stream") for kind in accepted):
        return "keep"
    raise RequestError(415, "format_unknown", f"expected one of {', '.join(by_type)} in Accept")
