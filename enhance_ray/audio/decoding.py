"""Decoding: two libraries behind one stream of blocks, and the search for damage."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol, Self

import numpy as np
import soundfile
from av.stream import Disposition

from enhance_ray.audio.covers import read_id3_tags
from enhance_ray.audio.formats import (
    MAX_SAMPLE,
    AudioInfo,
    Block,
)
from enhance_ray.audio.headers import (
    TAGGED_BEFORE,
    ChunkHeader,
    RawSamples,
    end_of_id3,
    flac_length_is_open,
    mp3_length,
    read_behind_id3,
    read_chunk_header,
    read_ogg_pages,
    why_not_audio,
)
from enhance_ray.audio.libav import (
    ToPacked,
    chapters_of,
    check_sense,
    choose_track,
    container_name,
    cover_of,
    open_container,
    read_belongings,
    regroup,
    stored_as,
    tags_of,
)
from enhance_ray.audio.storage import (
    LIBAV_ERRORS,
    CallbackFile,
    Patience,
    explain,
    open_input,
    read_error,
)
from enhance_ray.errors import AudioReadError

OnDamage = Callable[[str], None]
"""Called with a reason; raises it, or notes it where partial results are wanted."""


class _Source(Protocol):
    info: AudioInfo
    remark: str | None
    """What is odd about the file, and does no harm."""

    def pieces(self, on_damage: OnDamage) -> Iterator[Block]:
        """Samples in order, in pieces of any length."""
        ...

    def close(self) -> None: ...


def probe(path: str) -> AudioInfo:
    """Read the header of ``path``, a local path or an fsspec URI.

    Raises:
        AudioReadError: it cannot be read, is not audio, is empty, or its header makes no sense.
    """
    with decode(path, partial=True) as decoder:
        return decoder.info


def decode(
    path: str,
    *,
    block_seconds: float = 10.0,
    partial: bool = False,
    data: bytes | None = None,
    patience: Patience | None = None,
    track: int | str | None = None,
) -> Decoder:
    """Open ``path``, a local path or an fsspec URI, for one pass over its samples in bounded memory.

        with decode("talk.mp3") as blocks:
            for block in blocks: ...

    Args:
        path: what to read; remote files are read by ranges.
        block_seconds: length of every block but the last.
        partial: keep what a damaged file still gives, and say so in `Decoder.warning`. Without it
            damage is an error, raised where it is found: blocks may have been yielded before.
        data: the file's content, where it is in memory; ``path`` is then what it is called.
        patience: with a remote storage that fails; by default none.
        track: of several sounds in one file, the number of one, from 1, or the language of one; by default
            the one that players choose, with a word in `Decoder.warning`.

    Raises:
        AudioReadError: as `probe`; there is no such track; and while iterating, where the file is damaged.
    """
    return Decoder(
        path, block_seconds=block_seconds, partial=partial, data=data, patience=patience, track=track
    )


class Decoder:
    """Blocks of one file, once, in order; made by `decode`.

    Iterating yields float32 arrays (channel, time) at the file's rate, all of the same length but the last.
    """

    info: AudioInfo

    def __init__(
        self,
        path: str,
        *,
        block_seconds: float,
        partial: bool,
        data: bytes | None = None,
        patience: Patience | None = None,
        track: int | str | None = None,
    ) -> None:
        if block_seconds <= 0:
            raise ValueError(f"block_seconds must be positive, got {block_seconds}")
        self._path = path
        self._partial = partial
        self._track = track
        self._before: dict[str, str] = {}
        self._damage: list[str] = []
        self._file = (
            open_input(path, patience) if data is None else CallbackFile(io.BytesIO(data), path, read_error)
        )
        try:
            self._source = self._open()
        except BaseException:
            self._file.close()
            raise
        info = self._source.info
        self.info = dataclasses.replace(info, tags={**self._before, **info.tags})
        self._block_frames = max(1, round(block_seconds * self.info.sample_rate))

    def _leave_id3_out(self) -> None:
        """Where ID3 tags stand before a header that libraries look for at the start, begin behind them."""
        start = end_of_id3(self._file)
        self._file.seek(start)
        if not start or self._file.read(4) not in TAGGED_BEFORE:
            return
        self._file.seek(0)
        self._before = read_id3_tags(self._file)
        window: Any = _Window(self._file, start, self._file.seek(0, os.SEEK_END) - start)
        self._file = CallbackFile(window, self._path, read_error)

    def _open(self) -> _Source:
        if not self._file.seek(0, os.SEEK_END):
            raise AudioReadError(self._path, "it is empty (0 bytes)")
        self._leave_id3_out()
        try:
            source = _open_source(self._file, self._path, self._track)
        except AudioReadError:
            self._file.raise_error()  # if there is one, it is the reason for the other
            raise
        if source.info.frames == 0:
            source.close()
            raise AudioReadError(self._path, "it has no samples")
        return source

    @property
    def warning(self) -> str | None:
        """What is odd about the file; with ``partial`` also what is wrong with it, as far as it was read.
        None where nothing is."""
        more = f" (and {len(self._damage) - 1} more places)" if len(self._damage) > 1 else ""
        damage = self._damage[0] + more if self._damage else None
        return "; ".join(filter(None, [self._source.remark, damage])) or None

    def __iter__(self) -> Iterator[Block]:
        if self.info.container == "ogg":
            self._check_ogg()
        empty = True
        for block in regroup(self._checked(), self._block_frames):
            empty = False
            yield block
        if empty:
            raise AudioReadError(self._path, "nothing in it could be decoded")

    def _check_ogg(self) -> None:
        position = self._file.tell()  # which the library takes for granted
        pages = read_ogg_pages(self._file)
        self._file.raise_error()
        self._file.seek(position)
        if pages.fault is not None:
            self._on_damage(pages.fault)
        if len(pages.links) > 1:
            self._source.close()
            self._source = _Chain(self._file, self._path, pages.links, is_whole=pages.fault is None)

    def _checked(self) -> Iterator[Block]:
        position = 0
        for piece in self._source.pieces(self._on_damage):
            believed = np.abs(piece) <= MAX_SAMPLE  # false for NaN
            if believed.all():
                yield piece
            else:
                first = int(np.argmin(believed.all(axis=0)))
                seconds = (position + first) / self.info.sample_rate
                self._on_damage(f"it holds NaN, infinite or absurdly large samples at {seconds:.1f} s")
                yield np.where(believed, piece, np.float32(0))
            position += piece.shape[1]

    def _on_damage(self, reason: str) -> None:
        if not self._partial:
            raise AudioReadError(self._path, f"{reason} (--partial keeps what could be decoded)")
        self._damage.append(reason)

    def close(self) -> None:
        self._source.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_source(file: CallbackFile, path: str, track: int | str | None = None) -> _Source:
    """libsndfile where the content suits it, libav for the rest."""
    source = _opened_source(file, path, track)
    # A file with one sound has no choice, and often no language.
    if isinstance(track, int) and track != source.info.track:
        source.close()
        raise AudioReadError(path, f"it has one audio track, and not number {track}")
    return source


def _opened_source(file: CallbackFile, path: str, track: int | str | None) -> _Source:
    header = read_chunk_header(file, path)
    if header is not None:
        check_sense(path, header.sample_rate, header.channels)
        # libsndfile reads a wav or aiff that breaks off, and refuses a caf.
        if header.is_plain and not (header.container == "caf" and header.missing_bytes):
            return _SoundfileSource(file, path, header)
        return _LibavSource(file, path, header.missing_bytes, trailing_bytes=header.block_bytes - 1)
    file.seek(0)
    head = file.read(64)
    if head.startswith(b"fLaC") and not flac_length_is_open(head):
        return _SoundfileSource(file, path, None)
    if head.startswith(b"OggS") and b"\x01vorbis" in head:
        source = _SoundfileSource(file, path, None)
        if source.info.frames:
            return source
        source.close()  # libsndfile finds no length in a file that breaks off
    return _LibavSource(file, path, track=track)


_SUBTYPES = {
    "PCM_S8": ("pcm", "s8"),
    "PCM_U8": ("pcm", "u8"),
    "PCM_16": ("pcm", "s16"),
    "PCM_24": ("pcm", "s24"),
    "PCM_32": ("pcm", "s32"),
    "FLOAT": ("pcm", "f32"),
    "DOUBLE": ("pcm", "f64"),
    "ULAW": ("pcm_mulaw", "s16"),
    "ALAW": ("pcm_alaw", "s16"),
    "VORBIS": ("vorbis", "f32"),
}


class _SoundfileSource:
    """wav, aiff and caf with plain samples, flac and Ogg Vorbis, through libsndfile."""

    def __init__(self, file: CallbackFile, path: str, header: ChunkHeader | None) -> None:
        self._file = file
        self._missing_bytes = header.missing_bytes if header is not None else 0
        raw = header.raw if header is not None else None
        misleading = header is not None and header.is_misleading
        self.remark = raw.remark if raw is not None else None
        file_bytes = file.seek(0, os.SEEK_END)
        tags, chapters, cover = read_belongings(file)
        file.seek(0)
        try:
            self._sound = (
                _open_raw(file, header, raw) if header and raw and misleading else soundfile.SoundFile(file)
            )
        except soundfile.LibsndfileError as error:
            if not (header and raw):
                raise AudioReadError(path, f"its header is damaged ({_sndfile_reason(error)})") from error
            # What lies around the samples is odd; where they are is known all the same.
            self._sound = _open_raw(file, header, raw)
        sound = self._sound
        check_sense(path, sound.samplerate, sound.channels)
        codec, sample_format = _SUBTYPES[sound.subtype]
        container = header.container if header is not None else sound.format.lower()
        seconds = sound.frames / sound.samplerate
        self.info = AudioInfo(
            path=path,
            container=container,
            codec="flac" if container == "flac" else codec,
            sample_format=sample_format,
            sample_rate=sound.samplerate,
            channels=sound.channels,
            frames=sound.frames,
            seconds=seconds,
            bit_rate=round(8 * file_bytes / seconds) if seconds else None,
            tags=tags,
            has_video=False,
            chapters=chapters,
            cover=cover,
        )

    def pieces(self, on_damage: OnDamage) -> Iterator[Block]:
        rate, expected = self.info.sample_rate, self._sound.frames
        if self._missing_bytes:
            on_damage(f"it breaks off after {expected / rate:.1f} s: {self._missing_bytes} bytes are missing")
        position = 0
        step = max(1, rate // 10)  # what is lost before a damaged place
        while True:
            try:
                piece = self._sound.read(step, dtype="float32", always_2d=True).T
            except soundfile.LibsndfileError as error:
                self._file.raise_error()
                on_damage(f"it is damaged at {position / rate:.1f} s ({_sndfile_reason(error)})")
                return
            self._file.raise_error()
            if not piece.shape[1]:
                break
            position += piece.shape[1]
            yield piece
        if position < expected:
            on_damage(f"it breaks off after {position / rate:.1f} s of {expected / rate:.1f} s")

    def close(self) -> None:
        self._sound.close()


def _open_raw(file: CallbackFile, header: ChunkHeader, raw: RawSamples) -> soundfile.SoundFile:
    return soundfile.SoundFile(
        _Window(file, raw.start, raw.size),
        format="RAW",
        subtype=raw.subtype,
        samplerate=round(header.sample_rate),
        channels=header.channels,
        endian="BIG" if raw.is_big_endian else "LITTLE",
    )


class _Window:
    """A part of a file, as a file; as much of one as soundfile asks for."""

    def __init__(self, file: CallbackFile, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data


def _sndfile_reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")


_BARE_STREAMS = frozenset({"mp3", "aac", "amr", "ac3", "mp2"})
"""Frames without a container. That the first or last one is broken, or tags follow, is everyday life."""
_TRAILING_BYTES = 16_384
"""How much behind the last frame of a bare stream may be something else."""
_GAP_SECONDS = 0.2
"""Longest hole in the time stamps that passes: some recorders leave smaller ones."""


class _Chain:
    """Recordings of one file that stand one behind the other, of which libraries give the first, or less."""

    remark: str | None = None

    def __init__(self, file: CallbackFile, path: str, starts: Sequence[int], *, is_whole: bool) -> None:
        """Open them all; if the file is not whole, perhaps without the last one.

        Raises:
            AudioReadError: one cannot be read, or they differ in what one output has one of.
        """
        stops = (*starts[1:], file.seek(0, os.SEEK_END))
        self._links: list[_Source] = []
        for start, stop in zip(starts, stops, strict=True):
            window: Any = _Window(file, start, stop - start)
            try:
                self._links.append(_open_source(CallbackFile(window, path, read_error), path))
            except AudioReadError:
                if is_whole or start != starts[-1]:
                    raise
        kinds = {(link.info.sample_rate, link.info.channels) for link in self._links}
        if len(kinds) > 1:
            texts = " and ".join(f"{rate} Hz with {channels} channels" for rate, channels in sorted(kinds))
            self.close()
            raise AudioReadError(
                path, f"it is a chain of {len(starts)} recordings of {texts}: cut it up at their beginnings"
            )
        self.info = self._links[0].info

    def pieces(self, on_damage: OnDamage) -> Iterator[Block]:
        for link in self._links:
            yield from link.pieces(on_damage)

    def close(self) -> None:
        for link in self._links:
            link.close()


class _LibavSource:
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
            for stream in self._container.streams.video
            if stream.start_time is not None and not stream.disposition & Disposition.attached_pic
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
            start=float(start) - self._lead / context.sample_rate,
            bit_rate=stream.bit_rate or (container.bit_rate if alone else None) or None,
            tags=tags_of(container.metadata, stream.metadata),
            has_video=any(not s.disposition & Disposition.attached_pic for s in container.streams.video),
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
            return float(self._container.duration / 1e6)
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
        for packet in self._packets(on_damage):
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

    def _packets(self, on_damage: OnDamage) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except LIBAV_ERRORS as error:
                self._file.raise_error()
                on_damage(f"it breaks off ({explain(error)})")
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
