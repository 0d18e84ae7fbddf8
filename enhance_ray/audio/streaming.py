"""Encoding to a stream that cannot be wound back: bytes come out as samples go in.

Containers that put lengths at their start get them at once, because the length is known beforehand.
"""

from __future__ import annotations

import struct
import typing
from collections.abc import Mapping

import numpy as np

from enhance_ray.audio.formats import AudioInfo, Block, OutputFormat, output_format
from enhance_ray.audio.sinks import ENCODING_ERRORS, LibavSink, quantize
from enhance_ray.audio.storage import CallbackFile
from enhance_ray.errors import AudioWriteError, explain

STREAMED = ("wav", "flac", "mp3", "opus")
"""Values of `EnhanceOptions.format` that can be streamed; an m4a has its index in front of what it lists."""


def streamed_format(info: AudioInfo, wanted: str, *, otherwise: str) -> OutputFormat:
    """`output_format`, or that of ``otherwise`` where it cannot be written in order."""
    target = output_format(info, wanted)
    is_streamed = target.container in ("wav", "flac", "mp3") or target.codec == "opus"
    return target if is_streamed else output_format(info, otherwise)


class StreamEncoder:
    """Takes the blocks of one file and gives its bytes.

    The same samples as `encode` writes; headers differ where that one comes back to them at the end.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        channels: int,
        frames: int | None,
        target: OutputFormat,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Begin a file.

        Args:
            sample_rate: of the blocks, in Hz.
            channels: of the blocks.
            frames: samples per channel that will come; None where nobody knows.
            target: wav, flac, mp3 or opus.
            tags: written where the container has a place for them.

        Raises:
            AudioWriteError: it cannot be encoded so.
        """
        self._waiting = bytearray()
        self._target = target
        self._frames = frames
        self._size = 0
        self._rate, self._channels = sample_rate, channels
        self._sink: LibavSink | None = None
        self._is_patched = target.codec != "flac" or frames is None
        if target.container == "wav":
            self._waiting += _wav_header(sample_rate, channels, frames, target.sample_format)
            return
        try:
            pipe = typing.cast(CallbackFile, _Pipe(self._waiting))
            self._sink = LibavSink(pipe, sample_rate, channels, target, tags or {})
        except ENCODING_ERRORS as error:
            raise AudioWriteError("the answer", f"it cannot be encoded so: {explain(error)}") from error

    def write(self, block: Block) -> bytes:
        """Take float32 samples (channel, time); the bytes that are ready, perhaps none."""
        if self._sink is None:
            data = packed(block, self._target.sample_format)
            self._size += len(data)
            self._waiting += data
        else:
            self._sink.write(block)
        return self._ready()

    def finish(self) -> bytes:
        """The rest."""
        if self._sink is not None:
            self._sink.finish()
        elif self._size % 2:
            self._waiting += b"\0"  # chunks of RIFF are of even length
        return self._ready()

    def _ready(self) -> bytes:
        if not self._is_patched:
            if len(self._waiting) < _FLAC_START:
                return b""
            _write_flac_length(self._waiting, self._frames or 0)
            self._is_patched = True
        data = bytes(self._waiting)
        self._waiting.clear()
        return data


class _Pipe:
    """What libav writes to, in place of a `CallbackFile`; it has no `seek`."""

    def __init__(self, waiting: bytearray) -> None:
        self._waiting = waiting

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def raise_error(self) -> None:
        """Nothing goes wrong in memory."""


_FLAC_START = 42  # "fLaC", a block's header, STREAMINFO


def _write_flac_length(data: bytearray, frames: int) -> None:
    """Put the number of samples into STREAMINFO (RFC 9639, section 8.2): 36 bits behind 28 of others."""
    place = 4 + 4 + 10 + 3
    value = int.from_bytes(data[place : place + 5], "big")
    mask = (1 << 36) - 1
    data[place : place + 5] = ((value & ~mask) | (frames & mask)).to_bytes(5, "big")


def packed(block: Block, sample_format: str) -> bytes:
    """Samples (channel, time) as wav files hold them: channels interleaved, little-endian, clipped."""
    values = np.ascontiguousarray(quantize(block, sample_format).T)
    if sample_format == "s24":
        return values.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


_OPEN_END = 0xFFFFFFFF
"""The size of what has no end yet, which readers of pipes know."""


def _wav_header(rate: int, channels: int, frames: int | None, sample_format: str) -> bytes:
    width = {"s16": 2, "s24": 3, "s32": 4, "f32": 4}[sample_format]
    size = _OPEN_END if frames is None else frames * channels * width
    kind = 3 if sample_format == "f32" else 1
    layout = struct.pack(
        "<HHIIHH", kind, channels, rate, rate * channels * width, channels * width, 8 * width
    )
    head = b"WAVE" + b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(len(head) + size + size % 2, _OPEN_END)) + head
