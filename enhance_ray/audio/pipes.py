"""Sound that comes through a pipe: read once, in order, without a temporary file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from enhance_ray.audio.formats import AudioInfo, Block
from enhance_ray.audio.libav import (
    ToPacked,
    check_sense,
    choose_track,
    container_name,
    open_container,
    regroup,
    stored_as,
    tags_of,
    videos_of,
)
from enhance_ray.audio.storage import LIBAV_ERRORS
from enhance_ray.errors import AudioReadError, ConfigError, explain


@dataclass(frozen=True, slots=True)
class RawFormat:
    """Samples without a header, channels interleaved."""

    sample_format: str
    """As ffmpeg calls it: s16le, s24le, s32be, f32le, u8 ..."""
    sample_rate: int
    channels: int

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """Of "s16le:48000:2"; rate and channels may be left out, and are then 44100 and 1.

        Raises:
            ConfigError: it says something else.
        """
        parts = text.split(":")
        kind = parts[0].lower()
        numbers = [int(part) for part in parts[1:] if part.isdecimal()]
        if kind not in _TYPES or len(numbers) != len(parts) - 1 or len(parts) > 3:
            raise ConfigError(
                "raw",
                f"expected format:rate:channels such as s16le:48000:2, got '{text}' ({', '.join(_TYPES)})",
            )
        rate, channels = [*numbers, *(44_100, 1)[len(numbers) :]]
        check_sense("raw", rate, channels)
        return cls(kind, rate, channels)

    @property
    def bytes(self) -> int:
        """Of one sample of all channels."""
        return int(re.sub(r"\D", "", self.sample_format)) // 8 * self.channels


_TYPES = {
    "u8": "u1", "s8": "i1", "s16le": "<i2", "s16be": ">i2", "s24le": "<i3", "s24be": ">i3", "s32le": "<i4",
    "s32be": ">i4", "f32le": "<f4", "f32be": ">f4", "f64le": "<f8", "f64be": ">f8",
}  # fmt: skip


class PipeDecoder:
    """Blocks of float32 (channel, time) of what a pipe brings; of one second each but for the last."""

    info: AudioInfo

    def __init__(
        self, pipe: BinaryIO, name: str, *, raw: RawFormat | None = None, track: int | str | None = None
    ) -> None:
        """Read what stands in front of the sound.

        Args:
            pipe: of which nothing was read.
            name: what errors call it.
            raw: how samples are stored that come without a header.
            track: as for `decode`.

        Raises:
            AudioReadError: it is not audio, or of a kind that cannot be read in order.
        """
        self._pipe, self._name, self._raw = pipe, name, raw
        self.warning: str | None = None
        self._container: Any = None
        if raw is not None:
            self.info = _describe_raw(raw, name)
            return
        try:
            self._container = open_container(_InOrder(pipe))
        except LIBAV_ERRORS as error:
            raise AudioReadError(
                name,
                "it is not audio that can be read from a pipe: an mp4 or m4a may have its index at its end, "
                "and samples without a header need --raw",
            ) from error
        self._stream, self.warning = choose_track(self._container, name, track)
        context = self._stream.codec_context
        if context is None:
            raise AudioReadError(name, "its audio codec is unknown")
        check_sense(name, context.sample_rate, context.channels)
        metadata = self._container.metadata
        codec, sample_format = stored_as(context)
        self.info = AudioInfo(
            path=name,
            container=container_name(self._container.format.name, metadata.get("major_brand", ""), b""),
            codec=codec,
            sample_format=sample_format,
            sample_rate=context.sample_rate,
            channels=context.channels,
            frames=None,
            seconds=None,
            bit_rate=self._stream.bit_rate or None,
            tags=tags_of(metadata, self._stream.metadata),
            has_video=False,  # it cannot be read twice
        )
        if videos_of(self._container):
            lost = "its video is left out: what comes through a pipe is read once"
            self.warning = f"{self.warning}; {lost}" if self.warning else lost

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks.

        Raises:
            AudioReadError: what comes is damaged, or nothing comes.
        """
        pieces = self._decoded() if self._raw is None else self._unpacked(self._raw)
        empty = True
        for block in regroup(pieces, self.info.sample_rate):
            empty = False
            yield block
        if empty:
            raise AudioReadError(self._name, "it has no samples")

    def close(self) -> None:
        """Let libav go; the pipe stays open."""
        if self._container is not None:
            self._container.close()

    def _decoded(self) -> Iterator[Block]:
        seconds, info = 0.0, self.info
        packed = ToPacked()
        try:
            for frame in self._container.decode(self._stream):
                if (frame.sample_rate, frame.layout.nb_channels) != (info.sample_rate, info.channels):
                    raise AudioReadError(self._name, f"its sample rate or channels change at {seconds:.1f} s")
                seconds += frame.samples / frame.sample_rate
                yield packed(frame)
        except LIBAV_ERRORS as error:
            raise AudioReadError(
                self._name, f"it is damaged at {seconds:.1f} s ({explain(error)})"
            ) from error

    def _unpacked(self, raw: RawFormat) -> Iterator[Block]:
        rest = b""
        while data := self._pipe.read(2**16):
            data = rest + data
            whole = len(data) - len(data) % raw.bytes
            data, rest = data[:whole], data[whole:]
            yield unpack(data, raw)
        if rest:
            self.warning = f"{len(rest)} bytes behind the last whole sample were left out"


class _InOrder:
    """What libav may ask of a pipe: the next bytes."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, as soon as there are some."""
        read = getattr(self._pipe, "read1", self._pipe.read)
        return bytes(read(size))


def unpack(data: bytes, raw: RawFormat) -> Block:
    """Whole samples of all channels as float32 (channel, time), full scale at 1."""
    kind = _TYPES[raw.sample_format]
    if kind[1:] == "i3":
        triples = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(triples), 4), np.uint8)  # the upper three bytes of 32-bit integers
        wide[:, 1:] = triples if kind[0] == "<" else triples[:, ::-1]
        values = wide.view("<i4")[:, 0] / np.float32(2**31)
    else:
        values = np.frombuffer(data, kind)
        if raw.sample_format == "u8":
            values = (values.astype(np.float32) - 128) / 128
        elif values.dtype.kind == "i":
            values = values / np.float32(2 ** (8 * values.itemsize - 1))
    return np.ascontiguousarray(values.astype(np.float32).reshape(-1, raw.channels).T)


def _describe_raw(raw: RawFormat, name: str) -> AudioInfo:
    stored = raw.sample_format.removesuffix("le").removesuffix("be")
    return AudioInfo(
        path=name,
        container="wav",
        codec="pcm",
        sample_format=stored,
        sample_rate=raw.sample_rate,
        channels=raw.channels,
        frames=None,
        seconds=None,
        bit_rate=None,
        tags={},
        has_video=False,
    )
