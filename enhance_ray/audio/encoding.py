"""Encoding: blocks in, a complete file or none out."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from enhance_ray.audio.covers import add_cover
from enhance_ray.audio.formats import MAX_CHANNELS, AudioInfo, Block, Chapter, OutputFormat
from enhance_ray.audio.libav import open_container, readable
from enhance_ray.audio.storage import (
    FILE_ERRORS,
    LIBAV_ERRORS,
    CallbackFile,
    Patience,
    exists,
    explain,
    is_remote,
    local_path,
    open_input,
    publish,
    write_error,
)
from enhance_ray.errors import AudioWriteError

if sys.platform != "win32":
    import fcntl


def encode(
    path: str,
    *,
    sample_rate: int,
    channels: int,
    target: OutputFormat,
    tags: Mapping[str, str] | None = None,
    source: AudioInfo | None = None,
    force: bool = False,
    patience: Patience | None = None,
) -> Encoder:
    """Open ``path``, a local path or an fsspec URI, for writing; it appears when it is complete.

        with encode("clean.flac", sample_rate=44_100, channels=1, target=target) as output:
            output.write(block)

    Args:
        path: where the file goes; folders that lack are made. Its name does not choose the format.
        sample_rate: of the blocks, in Hz. Where the codec does not have it (Opus is at 48 kHz, mp3
            ends there), the file is resampled to the next rate that it has; its duration stays.
        channels: of the blocks.
        target: container, codec, sample format, bit rate.
        tags: written where the container has a place for them; by default those of ``source``.
        source: what the recording is made of. Its tags, chapters and cover are kept where the container has
            a place for them, and in a video container its picture, subtitles and other sounds are copied as
            they are; `Encoder.remark` says what was not.
        force: replace a file that exists.
        patience: with a remote storage that fails; by default none.

    Raises:
        AudioWriteError: it exists and ``force`` is not set, it cannot be written, or the codec does
            not take so many channels.
    """
    return Encoder(
        path,
        sample_rate=sample_rate,
        channels=channels,
        target=target,
        tags=source.tags if tags is None and source is not None else tags or {},
        source=source,
        force=force,
        patience=patience or Patience(),
    )


_TEMPORARY_PREFIX = ".enhance-ray-"


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete what killed processes left half written in a local ``folder`` and below it.

    What a living process writes is locked, and stays.
    """
    removed = []
    for path in Path(folder).rglob(f"{_TEMPORARY_PREFIX}*.part.*"):
        with path.open("rb") as file:
            if _lock(file):
                path.unlink()
                removed.append(path)
    return removed


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file for this process until it is closed; False if another one has it locked."""
    if sys.platform == "win32":  # an open file cannot be deleted there in the first place
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Encoder:
    """Takes the blocks of one file; made by `encode`.

    Leaving the ``with`` completes the file and renames it into place; an exception removes it.
    """

    def __init__(
        self,
        path: str,
        *,
        sample_rate: int,
        channels: int,
        target: OutputFormat,
        tags: Mapping[str, str],
        source: AudioInfo | None,
        force: bool,
        patience: Patience,
    ) -> None:
        most = 2 if target.codec in ("mp3", "vorbis") else MAX_CHANNELS
        if not 1 <= channels <= most:
            raise AudioWriteError(path, f"{target.codec} holds 1 to {most} channels, not {channels}")
        self._path = path
        self._target_path = local_path(path)
        self._channels = channels
        self._force = force
        self._patience = patience
        self._frames = 0
        self.bytes: int | None = None
        """Size of the file; known when it is complete."""
        self._refuse_existing()
        self._temporary = self._name_temporary(target.extension)
        try:
            self._raw = self._temporary.open("w+b")
            _lock(self._raw)  # says that somebody is at it; see remove_leftovers
        except OSError as error:
            raise AudioWriteError(path, explain(error)) from error
        self._file = CallbackFile(self._raw, path, write_error)
        self._cover = source.cover if source is not None else None
        self._container = target.container
        self.remark: str | None = None
        """What of the source has no place in the output; known when it is complete."""
        try:
            self._sink: _Sink = (
                _VorbisSink(self._file, sample_rate, channels, tags)
                if target.codec == "vorbis"
                else _LibavSink(self._file, sample_rate, channels, target, tags, source, patience)
            )
        except BaseException as error:
            self._raw.close()
            self._temporary.unlink()
            if isinstance(error, _ENCODING_ERRORS):
                raise AudioWriteError(path, f"it cannot be encoded so: {explain(error)}") from error
            raise

    def _name_temporary(self, extension: str) -> Path:
        """A hidden name beside a local target, and among this machine's temporary files for a remote one.

        Makes the folder of a local target.
        """
        name = f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}.part{extension}"
        if is_remote(self._target_path):
            return Path(tempfile.gettempdir()) / name
        folder = Path(self._target_path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AudioWriteError(self._path, f"its folder cannot be made: {explain(error)}") from error
        return folder / name

    def _refuse_existing(self) -> None:
        if self._force:
            return
        try:
            if is_remote(self._target_path):
                is_there = exists(self._target_path, self._patience)
            else:  # a link that leads nowhere is there, too
                is_there = os.path.lexists(self._target_path)
        except FILE_ERRORS as error:
            raise write_error(self._path, f"it cannot be looked up: {explain(error)}", error) from error
        if is_there:
            raise AudioWriteError(self._path, "it exists (--force overwrites it)")

    def write(self, block: Block) -> None:
        """Append float32 samples of shape (channel, time), full scale at 1, where integers are clipped.

        Raises:
            AudioWriteError: the disk is full or gone, or the codec does not take rate or channels.
            ValueError: the shape is wrong, or the samples are not finite.
        """
        if block.ndim != 2 or block.shape[0] != self._channels:
            raise ValueError(f"a block must be of shape ({self._channels}, time), got {block.shape}")
        if not np.isfinite(block).all():
            raise ValueError("a block holds NaN or infinite samples")
        try:
            self._sink.write(block.astype(np.float32, copy=False))
        except _ENCODING_ERRORS as error:
            raise AudioWriteError(self._path, explain(error)) from error
        self._frames += block.shape[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._complete()
                self._publish()
        finally:
            self._discard()

    def _complete(self) -> None:
        if not self._frames:
            raise AudioWriteError(self._path, "there are no samples to write")
        try:
            self._sink.finish()
            self._raw.flush()
            self.remark = self._sink.remark
            if self._cover is not None:
                add_cover(self._temporary, self._container, self._cover)
            self.bytes = self._raw.seek(0, os.SEEK_END)
            os.fsync(self._raw.fileno())
            self._raw.close()
        except _ENCODING_ERRORS as error:
            raise AudioWriteError(self._path, explain(error)) from error

    def _publish(self) -> None:
        self._refuse_existing()  # another process may have been faster
        try:
            publish(self._temporary, self._target_path, self._patience)
        except FILE_ERRORS as error:
            raise write_error(self._path, explain(error), error) from error

    def _discard(self) -> None:
        """Leave nothing behind but what was published."""
        with contextlib.suppress(*_ENCODING_ERRORS):  # of a file that is thrown away
            self._sink.close()
            self._raw.close()
        self._temporary.unlink(missing_ok=True)


class _Sink(Protocol):
    @property
    def remark(self) -> str | None:
        """What of the source has no place here; known when all is written."""
        ...

    def write(self, block: Block) -> None: ...

    def finish(self) -> None:
        """Write what is held back, and the header."""
        ...

    def close(self) -> None: ...


# fmt: off
_MUXERS = {
    "wav": "wav", "aiff": "aiff", "caf": "caf", "flac": "flac", "mp3": "mp3", "ogg": "ogg", "m4a": "ipod",
    "mp4": "mp4", "mov": "mov", "mkv": "matroska", "webm": "webm",
}
# fmt: on
_MUXER_OPTIONS = {
    "wav": {"rf64": "auto"},  # beyond 4 GiB the header becomes that of RF64
    "aiff": {"write_id3v2": "1"},  # AIFF's own text chunks have no place for album and date
    # Else the stream gets a random number, and no two runs are equal.
    **{name: {"fflags": "+bitexact"} for name in ("ogg", "mkv", "webm")},
}
_CLOCKED_CONTAINERS = ("m4a", "mp4", "mov")
"""Where the length would be rounded to milliseconds."""
_LOSSY_ENCODERS = {"mp3": ("libmp3lame", "fltp"), "aac": ("aac", "fltp"), "opus": ("libopus", "flt")}
"""libav's encoder of a codec, and the sample format that it takes."""
_STORED_FORMATS = {"s16": "s16", "s24": "s32", "s32": "s32", "f32": "flt"}
"""libav's sample format for ours; 24 bits stand in the upper part of 32."""
_MP3_BIT_RATES = [
    1000 * k for k in (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
]
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_CODEC_LAYOUTS = {
    "opus": {4: "quad"},
    "flac": {4: "quad"},
    "alac": {7: "6.1(back)", 8: "7.1(wide)"},
}
"""What a codec takes instead. Layouts name the channels; their order and number stay."""


class _LibavSink:
    """Every format but Ogg Vorbis."""

    def __init__(
        self,
        file: CallbackFile,
        sample_rate: int,
        channels: int,
        target: OutputFormat,
        tags: Mapping[str, str],
        source: AudioInfo | None = None,
        patience: Patience | None = None,
    ) -> None:
        encoder, encoder_format = _encoder(target)
        self._packed_format = encoder_format.removesuffix("p")
        self._sample_format = target.sample_format
        self._layout = _CODEC_LAYOUTS.get(target.codec, {}).get(channels) or _LAYOUTS[channels]
        self._rate, self._channels = sample_rate, channels
        self._file = file
        file_rate = _file_rate(target.codec, encoder, sample_rate)
        options = dict(_MUXER_OPTIONS.get(target.container, {}))
        if target.container in _CLOCKED_CONTAINERS:
            options["movie_timescale"] = str(file_rate)
        muxer = _MUXERS[target.container]
        container: Any = av.open(file, "w", format=muxer, container_options=options)
        self._container = container
        # By default libav's Opus encoder mixes up the order of five and seven channels.
        surround = {"mapping_family": "1"} if target.codec == "opus" and channels > 2 else {}
        self._stream = container.add_stream(encoder, rate=file_rate, layout=self._layout, options=surround)
        self._stream.codec_context.format = encoder_format
        if target.bit_rate is not None:
            self._stream.bit_rate = _allowed_bit_rate(target.codec, target.bit_rate, file_rate)
        has_clock = source is not None and source.has_video and target.is_video
        self._start = source.start if source is not None and has_clock else 0.0
        self._copy: _Copy | None = None
        container.metadata.update(tags)
        if source is not None:
            _set_chapters(container, source.chapters)
            if target.is_video and source.has_video:
                self._copy = _Copy(container, source, patience)
        self._resampler = None
        if file_rate != sample_rate:
            self._resampler = av.AudioResampler("flt", self._layout, file_rate)
        self._file_rate = file_rate
        self._taken = self._given = 0

    def write(self, block: Block) -> None:
        for start in range(0, block.shape[1], self._rate):
            piece = block[:, start : start + self._rate]
            frame = self._frame(piece, self._rate, self._taken)
            self._taken += piece.shape[1]
            if self._resampler is None:
                self._encode(frame)
            else:
                self._encode_resampled(self._resampler.resample(frame))

    def finish(self) -> None:
        if self._resampler is not None:
            self._encode_resampled(self._resampler.resample(None))
            lacking = self._length_at_file_rate() - self._given
            if lacking > 0:
                silence = np.zeros((self._channels, lacking), np.float32)
                self._encode(self._frame(silence, self._file_rate, self._given))
        self._encode(None)
        if self._copy is not None:
            self._copy.until(math.inf)
            self._copy.close()
        try:
            self._container.close()
        finally:
            self._file.raise_error()

    @property
    def remark(self) -> str | None:
        return self._copy.remark if self._copy is not None else None

    def _encode_resampled(self, frames: Iterable[Any]) -> None:
        """Encode up to the length that the whole shall have: libav may give a sample more or less."""
        for frame in frames:
            piece = frame.to_ndarray().reshape(-1, self._channels).T
            piece = piece[:, : self._length_at_file_rate() - self._given]
            if piece.shape[1]:
                self._encode(self._frame(piece, self._file_rate, self._given))
                self._given += piece.shape[1]

    def _length_at_file_rate(self) -> int:
        return round(Fraction(self._taken * self._file_rate, self._rate))

    def _frame(self, piece: Block, rate: int, position: int) -> Any:
        # Packed also where the encoder takes planes: PyAV (18.1) fails on 8 of them, and converts by itself.
        samples = np.ascontiguousarray(_quantize(piece, self._sample_format).T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format=self._packed_format, layout=self._layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = position + round(self._start * rate)
        return frame

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                if self._copy is not None and packet.pts is not None:
                    self._copy.until(float(packet.pts * packet.time_base))
                self._container.mux(packet)
        finally:
            self._file.raise_error()  # it says more than libav's error

    def close(self) -> None:
        if self._copy is not None:
            self._copy.close()
        self._container.close()


class _Copy:
    """Picture, subtitles and other sounds of a recording, on their way to another container as they are."""

    def __init__(self, output: Any, source: AudioInfo, patience: Patience | None) -> None:
        """Give ``output`` a stream for each of them."""
        self._output = output
        self._file = open_input(source.path, patience)
        self._container: Any = None
        self._streams: dict[int, Any] = {}
        lost, places = [], output.supported_codecs
        try:
            self._file.seek(0)
            self._container = open_container(self._file)
            restored = self._container.streams.audio[source.track - 1]
            for stream in self._container.streams:
                if stream is restored or stream.type not in ("video", "audio", "subtitle"):
                    continue  # data: an index of chapters, which is made anew, or a camera's log
                if stream.codec_context is None or stream.codec_context.codec.canonical_name not in places:
                    lost.append(f"a track of {stream.type}")
                    continue
                copied = output.add_stream_from_template(stream, opaque=True)
                copied.metadata.update({k: readable(value) for k, value in stream.metadata.items()})
                copied.disposition = stream.disposition
                self._streams[stream.index] = copied
        except BaseException:
            self.close()
            raise
        self.remark: str | None = None
        if lost:
            self.remark = (
                f"{' and '.join(lost)} could not be copied: the container of the output has no place"
            )
        chosen = [self._container.streams[index] for index in self._streams]
        self._packets = self._container.demux(*chosen) if chosen else iter(())
        self._waiting: Any = None

    def until(self, seconds: float) -> None:
        """Copy what stands before ``seconds`` on the clock of the source."""
        while (packet := self._waiting or self._next()) is not None:
            self._waiting = packet
            at = packet.dts if packet.dts is not None else packet.pts
            if at is not None and float(at * packet.time_base) > seconds:
                return
            self._waiting = None
            packet.stream = self._streams[packet.stream.index]
            self._output.mux(packet)

    def _next(self) -> Any:
        try:
            while (packet := next(self._packets, None)) is not None:
                if packet.size:  # the last of a stream is empty
                    return packet
        except LIBAV_ERRORS as error:
            self._file.raise_error()
            self.remark = f"its picture breaks off ({explain(error)})"
            self._packets = iter(())
        return None

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._file.close()


def _set_chapters(container: Any, chapters: Sequence[Chapter]) -> None:
    if chapters:
        container.set_chapters(
            [
                {
                    "id": number,
                    "start": round(1000 * chapter.start),
                    "end": round(1000 * chapter.end),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": chapter.title},
                }
                for number, chapter in enumerate(chapters)
            ]
        )


def _encoder(target: OutputFormat) -> tuple[str, str]:
    """libav's encoder and its sample format."""
    if target.codec in _LOSSY_ENCODERS:
        return _LOSSY_ENCODERS[target.codec]
    sample_format = _STORED_FORMATS[target.sample_format]
    if target.codec == "alac":
        return "alac", f"{sample_format}p"
    if target.codec == "flac":
        return "flac", sample_format
    return f"pcm_{target.sample_format}{'be' if target.container == 'aiff' else 'le'}", sample_format


def _file_rate(codec: str, encoder: str, sample_rate: int) -> int:
    """``sample_rate``, or the next one above (else the highest) that the codec has."""
    rates = [48_000] if codec == "opus" else sorted(av.codec.Codec(encoder, "w").audio_rates or [sample_rate])
    return rates[min(bisect_left(rates, sample_rate), len(rates) - 1)]


def _allowed_bit_rate(codec: str, bit_rate: int, file_rate: int) -> int:
    """The next bit rate above (else the highest) that the codec has at this sample rate."""
    if codec != "mp3":
        return bit_rate
    highest = 320_000 if file_rate >= 32_000 else 160_000 if file_rate >= 16_000 else 64_000
    return min(_MP3_BIT_RATES[bisect_left(_MP3_BIT_RATES, min(bit_rate, 320_000))], highest)


def _quantize(block: Block, sample_format: str) -> NDArray[Any]:
    """Float samples as libav takes them: integers are rounded and clipped."""
    if sample_format == "f32":
        return block
    bits = int(sample_format[1:])
    scale = 2.0 ** (bits - 1)
    values = np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1)
    if bits == 16:
        return values.astype(np.int16)
    return values.astype(np.int32) << (32 - bits)


class _VorbisSink:
    """Ogg Vorbis through libsndfile."""

    remark: str | None = None
    # libsndfile puts a whole write on the stack.
    WRITE_FRAMES = 4096

    def __init__(
        self,
        file: CallbackFile,
        sample_rate: int,
        channels: int,
        tags: Mapping[str, str],
    ) -> None:
        self._file = file
        self._sound = soundfile.SoundFile(
            self._file, "w", sample_rate, channels, format="OGG", subtype="VORBIS", compression_level=0.3
        )
        for name in ("title", "copyright", "artist", "comment", "date", "album", "license", "genre"):
            if name in tags:
                setattr(self._sound, name, tags[name])

    def write(self, block: Block) -> None:
        for start in range(0, block.shape[1], self.WRITE_FRAMES):
            samples = np.ascontiguousarray(block[:, start : start + self.WRITE_FRAMES].T)
            try:
                self._sound.write(samples)
            finally:
                self._file.raise_error()  # soundfile asserts that all was written

    def finish(self) -> None:
        self._sound.close()
        self._file.raise_error()

    def close(self) -> None:
        self._sound.close()


_ENCODING_ERRORS = (*LIBAV_ERRORS, OSError, soundfile.LibsndfileError)
