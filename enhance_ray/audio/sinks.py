"""What blocks are encoded by: libav, and libsndfile for Ogg Vorbis."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from enhance_ray.audio.copying import Copy
from enhance_ray.audio.formats import AudioInfo, Block, Chapter, OutputFormat
from enhance_ray.audio.storage import LIBAV_ERRORS, CallbackFile, Patience

ENCODING_ERRORS = (*LIBAV_ERRORS, OSError, soundfile.LibsndfileError)


class Sink(Protocol):
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
    "mp4": "mp4", "mov": "mov", "mkv": "matroska", "mka": "matroska", "webm": "webm",
}
# fmt: on
_MUXER_OPTIONS = {
    "wav": {"rf64": "auto"},  # beyond 4 GiB the header becomes that of RF64
    "aiff": {"write_id3v2": "1"},  # AIFF's own text chunks have no place for album and date
    # Else the stream gets a random number, and no two runs are equal.
    **{name: {"fflags": "+bitexact"} for name in ("ogg", "mkv", "mka", "webm")},
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


class LibavSink:
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

        def add_stream() -> Any:
            stream = container.add_stream(encoder, rate=file_rate, layout=self._layout, options=surround)
            stream.codec_context.format = encoder_format
            if target.bit_rate is not None:
                stream.bit_rate = _allowed_bit_rate(target.codec, target.bit_rate, file_rate)
            return stream

        self._start = 0.0
        self._copy: Copy | None = None
        container.metadata.update(tags)
        if source is not None:
            _set_chapters(container, source.chapters)
        if source is not None and (
            (source.has_video and target.is_video) or (source.tracks > 1 and target.holds_tracks)
        ):
            self._start = source.start
            self._copy = Copy(container, source, patience, add_stream, has_picture=target.is_video)
        self._stream = self._copy.restored if self._copy is not None else add_stream()
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
        samples = np.ascontiguousarray(quantize(piece, self._sample_format).T).reshape(1, -1)
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


def quantize(block: Block, sample_format: str) -> NDArray[Any]:
    """Float samples as libav takes them: integers are rounded and clipped."""
    if sample_format == "f32":
        return block
    bits = int(sample_format[1:])
    scale = 2.0 ** (bits - 1)
    values = np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1)
    if bits == 16:
        return values.astype(np.int16)
    return values.astype(np.int32) << (32 - bits)


class VorbisSink:
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
