"""What libav demuxes and decodes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from enhance_ray.audio.formats import AudioInfo, Block, OnDamage
from enhance_ray.audio.headers import mp3_length, read_behind_id3, why_not_audio
from enhance_ray.audio.libav import (
    ToPacked,
    chapters_of,
    check_sense,
    choose_track,
    container_name,
    cover_of,
    open_container,
    stored_as,
    tags_of,
    videos_of,
)
from enhance_ray.audio.storage import LIBAV_ERRORS, CallbackFile
from enhance_ray.errors import AudioReadError, explain

_BARE_STREAMS = frozenset({"mp3", "aac", "amr", "ac3", "mp2"})
"""Frames without a container. That the first or last one is broken, or tags follow, is everyday life."""
_TRAILING_BYTES = 16_384
"""How much behind the last frame of a bare stream may be something else."""
_GAP_SECONDS = 0.2
"""Longest hole in the time stamps that passes: some recorders leave smaller ones."""


class LibavSource:
    """Everything that libav can demux and decode."""

    remark: str | None = None

    def __init__(
        self,
        file: CallbackFile,
        path: str,
        missing_bytes: int = 0,
        *,
        trailing_bytes: int = 0,
        track: int | str | None = None,
    ) -> None:
        self._missing_bytes, self._trailing_bytes = missing_bytes, trailing_bytes
        file.seek(0)
        head = file.read(4096)
        self._first_bytes = read_behind_id3(file)
        self._file = file
        file.seek(0)
        try:
            self._container = open_container(file)
            self._cover = cover_of(self._container)
            if self._cover is not None:  # for which packets were taken
                self._container.close()
                file.seek(0)
                self._container = open_container(file)
        except LIBAV_ERRORS as error:
            raise AudioReadError(path, why_not_audio(head)) from error
        self._stream, self.remark = choose_track(self._container, path, track)
        context = self._stream.codec_context
        if context is None:
            raise AudioReadError(path, "its audio codec is unknown")
        check_sense(path, context.sample_rate, context.channels)
        self._lead: int = round(self._seconds_of_picture_before() * context.sample_rate)
        self.info = self._describe(path, head)

    def _seconds_of_picture_before(self) -> float:
        """By how much the sound starts later than the picture."""
        starts = [
            stream.start_time * stream.time_base
            for stream in videos_of(self._container)
            if stream.start_time is not None
        ]
        if not starts or self._stream.start_time is None:
            return 0.0
        return max(0.0, float(self._stream.start_time * self._stream.time_base - min(starts)))

    def _describe(self, path: str, head: bytes) -> AudioInfo:
        stream, container = self._stream, self._container
        context = stream.codec_context
        codec, sample_format = stored_as(context)
        frames, seconds = self._header_frames(), self._header_seconds()
        start = stream.start_time * stream.time_base if stream.start_time is not None else 0
        alone = len(container.streams) == 1
        return AudioInfo(
            path=path,
            container=container_name(container.format.name, container.metadata.get("major_brand", ""), head),
            codec=codec,
            sample_format=sample_format,
            sample_rate=context.sample_rate,
            channels=context.channels,
            frames=frames,
            seconds=seconds if frames is None else frames / context.sample_rate,
            chapters=chapters_of(container),
            cover=self._cover,
            track=list(container.streams.audio).index(stream) + 1,
            tracks=len(container.streams.audio),
            start=float(start) - self._lead / context.sample_rate,
            bit_rate=stream.bit_rate or (container.bit_rate if alone else None) or None,
            tags=tags_of(container.metadata, stream.metadata),
            has_video=bool(videos_of(container)),
        )

    def _header_frames(self) -> int | None:
        """Samples per channel, where container and codec count them."""
        context, frames = self._stream.codec_context, self._stream.duration
        if self._container.format.name == "mp3":
            return mp3_length(self._first_bytes, context.sample_rate)
        if self._container.format.name in _BARE_STREAMS:  # libav guesses by the bit rate
            return None
        if frames is None or self._stream.time_base != Fraction(1, context.sample_rate):
            return None
        if context.codec.canonical_name == "opus" and self._container.format.name == "ogg":
            # The granule position counts the pre-skip of the identification header too (RFC 7845, 4.5).
            frames -= struct.unpack_from("<H", context.extradata, 10)[0]
        return max(0, int(frames)) + self._lead

    def _header_seconds(self) -> float | None:
        if self._stream.duration is not None:
            seconds = self._stream.duration * self._stream.time_base
            return float(seconds + self._lead / self._stream.codec_context.sample_rate)
        if self._container.duration is not None:
            # A clock that does not begin with this sound counts what is before it.
            start = self._stream.start_time * self._stream.time_base if self._stream.start_time else 0
            before: float = float(start) - self._lead / self._stream.codec_context.sample_rate
            return float(self._container.duration / 1e6) - max(0.0, before)
        return None

    def pieces(self, on_damage: OnDamage) -> Iterator[Block]:
        position, longest = 0, 0
        held: Block | None = None
        for start in range(0, self._lead, self.info.sample_rate):
            silent = min(self.info.sample_rate, self._lead - start)
            position += silent
            yield np.zeros((self.info.channels, silent), np.float32)
        for piece in self._decoded(on_damage):
            if held is not None:
                yield held
            held = piece
            position += piece.shape[1]
            longest = max(longest, piece.shape[1])
        if held is None:
            return
        # Where within its last frame the audio ends, libav leaves to the caller (mp4, sometimes mp3).
        surplus = position - self.info.frames if self.info.frames is not None else 0
        yield held[:, :-surplus] if 0 < surplus < held.shape[1] else held
        self._check_length(position, longest, on_damage)

    def _decoded(self, on_damage: OnDamage) -> Iterator[Block]:
        """Samples frame by frame. Damage is a frame that libav rejects or marks, and a hole in time."""
        info = self.info
        bare = info.container in _BARE_STREAMS
        position, rejected_bytes, expected_time = 0, 0, None
        to_packed = ToPacked()
        for packet in self.demux(lambda error: on_damage(f"it breaks off ({explain(error)})")):
            try:
                frames = packet.decode()
            except LIBAV_ERRORS:
                if not (bare and bytes(packet).startswith((b"ID3", b"TAG", b"APETAGEX"))):
                    rejected_bytes += packet.size or 1
                continue
            for frame in frames:
                at = f"at {position / info.sample_rate:.1f} s"
                if (frame.sample_rate, frame.layout.nb_channels) != (info.sample_rate, info.channels):
                    on_damage(f"its sample rate or channels change {at}")
                    return
                rejected = rejected_bytes and (position or not bare)  # a bare stream may begin anywhere
                gap = _seconds_between(expected_time, frame.time)
                if rejected or frame.is_corrupt or packet.is_corrupt:
                    on_damage(f"it is damaged {at}")
                elif gap > _GAP_SECONDS:
                    on_damage(f"{gap:.1f} s are missing {at}")
                rejected_bytes = 0
                expected_time = None if frame.time is None else frame.time + frame.samples / info.sample_rate
                position += frame.samples
                yield to_packed(frame)
        if rejected_bytes > (_TRAILING_BYTES if bare else self._trailing_bytes):
            on_damage(f"it is damaged at {position / info.sample_rate:.1f} s")

    def demux(self, on_error: Callable[[Exception], None]) -> Iterator[Any]:
        """Packets of the sound as they are, to its end or to an error, of which `on_error` is told."""
        packets: Iterator[Any] = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except LIBAV_ERRORS as error:
                self._file.raise_error()
                on_error(error)
                return
            self._file.raise_error()
            yield packet

    def _check_length(self, position: int, longest: int, on_damage: OnDamage) -> None:
        """Compare what was decoded with what the header announced, where that is no guess of libav's."""
        info = self.info
        seconds = position / info.sample_rate
        if self._missing_bytes:
            on_damage(f"it breaks off after {seconds:.1f} s: {self._missing_bytes} bytes are missing")
            return
        guessed = info.frames is None and (info.has_video or info.container in _BARE_STREAMS)
        if info.seconds is None or guessed:
            return
        # A decoder may keep some frames to itself: wma's last, AAC's first.
        slack = max(0.1, 3 * longest / info.sample_rate)
        if seconds < info.seconds - slack:
            on_damage(f"it breaks off after {seconds:.1f} s of {info.seconds:.1f} s")

    def close(self) -> None:
        self._container.close()


def _seconds_between(expected: float | None, actual: float | None) -> float:
    return 0.0 if expected is None or actual is None else actual - expected
