"""Restoring from a pipe, or into one: blocks in, bytes out, nothing in between."""

from __future__ import annotations

import contextlib
import functools
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from enhance_ray import audio
from enhance_ray.audio import AudioInfo, Block
from enhance_ray.audio.belongings import lost_in_stream
from enhance_ray.audio.pipes import PipeDecoder, RawFormat
from enhance_ray.audio.streaming import STREAMED, StreamEncoder, streamed_format
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.restore import Facts, Restoration
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioWriteError, ConfigError
from enhance_ray.files.plan import target_format
from enhance_ray.settings.options import EnhanceOptions, Input, refuse_all_tracks

STANDARD = "-"
"""What standard input and output are called."""


def is_pipe(name: str) -> bool:
    """Whether ``name`` is standard input or output, or a named pipe."""
    if name == STANDARD:
        return True
    try:
        return not audio.is_remote(name) and stat.S_ISFIFO(Path(name).stat().st_mode)
    except OSError:
        return False


def enhance_pipe(
    source: str,
    target: str,
    enhancer: Enhancer,
    options: EnhanceOptions,
    *,
    raw: RawFormat | None = None,
    partial: bool = False,
    force: bool = False,
) -> Facts:
    """Restore one recording, of which at least one side is a pipe; a segment is written when it is done.

    Args:
        source: where it comes from: a path, a named pipe or "-".
        target: where it goes, likewise.
        enhancer: the model.
        options: what to do.
        raw: how samples are stored that come without a header.
        partial: keep what could be decoded of a damaged file (a pipe's is an error).
        force: replace a file that exists.

    Raises:
        AudioError: the recording cannot be read, or its restored self cannot be written.
        ConfigError: the model cannot do what the options ask for, or a format does not suit a pipe.
    """
    enhancer.check(options)
    refuse_all_tracks(options, "pipes")
    with contextlib.ExitStack() as stack:
        decoder: Any = stack.enter_context(_reading(source, raw, options, partial=partial))
        info: AudioInfo = decoder.info
        batcher: Batcher[None] = Batcher(enhancer, options, enhancer.batch_size)
        is_stream = is_pipe(target)
        wanted = _streamed(info, options.format) if is_stream else target_format(info, target, options.format)
        restoration = Restoration(
            enhancer.framing,
            functools.partial(batcher.results, None),
            info.sample_rate,
            info.channels,
            options,
            name=source,
            levels=True,
            is_bounded=wanted.is_bounded,
        )
        blocks = (block.numpy() for block in restoration.blocks(map(torch.from_numpy, decoder)))
        if is_stream:
            sink = StreamEncoder(
                sample_rate=restoration.rate,
                channels=restoration.channels,
                frames=None,
                target=wanted,
                tags=info.tags,
            )
            _pour(_bytes(sink, blocks), stack.enter_context(_writing(target)), target)
            lost = lost_in_stream(info, wanted.container)
        else:
            with audio.encode(
                target,
                sample_rate=restoration.rate,
                channels=restoration.channels,
                target=wanted,
                source=info,
                force=force,
            ) as encoder:
                for block in blocks:
                    encoder.write(block)
            lost = encoder.remark
        return restoration.facts(decoder.warning, lost)


@contextlib.contextmanager
def _reading(source: str, raw: RawFormat | None, options: Input, *, partial: bool) -> Iterator[Any]:
    if not is_pipe(source) and raw is None:
        with audio.decode(source, partial=partial, track=options.audio_track) as decoder:
            yield decoder
        return
    with contextlib.ExitStack() as stack:
        pipe = sys.stdin.buffer if source == STANDARD else stack.enter_context(_opened(source, "rb"))
        name = "standard input" if source == STANDARD else source
        piped = stack.enter_context(
            contextlib.closing(PipeDecoder(pipe, name, raw=raw, track=options.audio_track))
        )
        yield piped


@contextlib.contextmanager
def _writing(target: str) -> Iterator[BinaryIO]:
    if target == STANDARD:
        yield sys.stdout.buffer
        return
    with _opened(target, "wb") as file:
        yield file


def _opened(path: str, mode: str) -> Any:
    try:
        return Path(path).open(mode)
    except OSError as error:
        raise ConfigError(path, f"cannot be opened: {error.strerror}") from error


def _streamed(info: AudioInfo, wanted: str) -> audio.OutputFormat:
    """The input's format or the one that is asked for, where it can be written in order; else wav."""
    if wanted not in ("keep", *STREAMED):
        raise ConfigError("format", f"a pipe takes {', '.join(STREAMED)}: an {wanted} has its index in front")
    return streamed_format(info, wanted, otherwise="wav")


def _bytes(encoder: StreamEncoder, blocks: Iterable[Block]) -> Iterator[bytes]:
    for block in blocks:
        yield encoder.write(block)
    yield encoder.finish()


def _pour(data: Iterable[bytes], file: BinaryIO, target: str) -> None:
    for part in data:
        try:
            file.write(part)
            file.flush()
        except BrokenPipeError:  # whoever read has left, which is no fault
            raise
        except OSError as error:
            raise AudioWriteError(target, str(error.strerror)) from error
