"""What libsndfile decodes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import soundfile

from enhance_ray.audio.chunks import ChunkHeader, RawSamples
from enhance_ray.audio.formats import AudioInfo, Block, OnDamage
from enhance_ray.audio.libav import check_sense, read_belongings
from enhance_ray.audio.storage import CallbackFile, Window
from enhance_ray.errors import AudioReadError

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


class SoundfileSource:
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
        Window(file, raw.start, raw.size),
        format="RAW",
        subtype=raw.subtype,
        samplerate=round(header.sample_rate),
        channels=header.channels,
        endian="BIG" if raw.is_big_endian else "LITTLE",
    )


def _sndfile_reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")
