"""What libav makes of a file, in the words of this package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import av
import numpy as np
from av.stream import Disposition

from enhance_ray.audio.formats import LOSSLESS, MAX_CHANNELS, MAX_RATE, MIN_RATE, Block, Chapter, Cover
from enhance_ray.audio.storage import LIBAV_ERRORS, CallbackFile, Patience, open_input
from enhance_ray.errors import AudioReadError

# What libav may open: streams of samples, and no playlists, which would make it read other files.
_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,asf,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,w64,wav,au,ape,wv,tta,tak,dsf,gsm"
)
# fmt: off
_TECHNICAL_TAGS = frozenset({
    "encoder", "major_brand", "minor_version", "compatible_brands", "handler_name", "vendor_id", "language",
    "duration", "creation_time", "isvbr", "software",
})
# fmt: on


class Readable(Protocol):
    """All that is needed of a file; what has `seek`, too, can hold an index at its end."""

    def read(self, size: int) -> bytes:
        """The next bytes."""
        ...


def open_container(file: Readable, **options: str) -> Any:
    """What libav makes of ``file``, by itself: it reads no other file, whatever this one says.

    Raises:
        one of `storage.LIBAV_ERRORS`: it makes nothing of it.
    """
    return av.open(
        file,
        container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "none", **options},
        metadata_errors="surrogateescape",  # see `readable`
    )


def readable(text: str) -> str:
    """A tag that is no UTF-8 as Windows wrote it for decades, in its code page 1252."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return text


def tags_of(*metadata: Mapping[str, str]) -> dict[str, str]:
    """Tags that people gave, by lower-case names; of two of one name the last counts."""
    merged = {readable(name).lower(): readable(value) for each in metadata for name, value in each.items()}
    return {name: value for name, value in merged.items() if value and name not in _TECHNICAL_TAGS}


def check_sense(path: str, sample_rate: float, channels: int) -> None:
    """Refuse what no recording has, before anything is allocated by it."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioReadError(path, f"its header claims a sample rate of {sample_rate:g} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioReadError(
            path, f"its header claims {channels} channels (1 to {MAX_CHANNELS} are supported)"
        )


def regroup(pieces: Iterable[Block], size: int) -> Iterator[Block]:
    """Cut and join ``pieces`` to blocks of ``size`` samples; the last is what is left."""
    waiting: list[Block] = []
    length = 0
    for piece in pieces:
        waiting.append(piece)
        length += piece.shape[1]
        if length < size:
            continue
        joined = np.concatenate(waiting, axis=1)
        whole = length - length % size
        for start in range(0, whole, size):
            yield np.ascontiguousarray(joined[:, start : start + size])
        waiting, length = [joined[:, whole:]], length - whole
    if length:
        yield np.ascontiguousarray(np.concatenate(waiting, axis=1))


def choose_track(container: Any, path: str, track: int | str | None) -> tuple[Any, str | None]:
    """The stream that is asked for, by its number among the sounds or by its language; and a word where none
    is asked for, and there are several.

    Raises:
        AudioReadError: there is none, or not that one.
    """
    streams = container.streams
    tracks = list(streams.audio)
    if not tracks:
        raise AudioReadError(path, "it holds no audio")
    languages = [_language(stream) for stream in tracks]
    names = ", ".join(
        f"{number}: {language}" if language else str(number) for number, language in enumerate(languages, 1)
    )
    chosen = streams.best("audio")
    if len(tracks) == 1 or chosen is None:
        return chosen or tracks[0], None
    if track is None:
        number = tracks.index(chosen) + 1
        kinds = f"{len(tracks)} audio tracks ({names})"
        return chosen, f"it has {kinds}: number {number} is taken where none is asked for"
    if isinstance(track, int) and 1 <= track <= len(tracks):
        return tracks[track - 1], None
    if isinstance(track, str):
        for stream, language in zip(tracks, languages, strict=True):
            if language and language.lower().startswith(track.lower()):
                return stream, None
    raise AudioReadError(path, f"it has no audio track {track}, but {len(tracks)} others ({names})")


def list_tracks(path: str, patience: Patience | None = None) -> list[str]:
    """Languages of the sounds of a file, empty where unknown; of a file that libav cannot read one, unknown.

    Raises:
        AudioReadError: it cannot be opened.
    """
    with contextlib.closing(open_input(path, patience)) as file:
        file.seek(0)
        try:
            with open_container(file) as container:
                streams = container.streams.audio
                return [_language(stream) for stream in streams] or [""]
        except LIBAV_ERRORS:
            file.raise_error()
            return [""]


def _language(stream: Any) -> str:
    language: str = stream.language or stream.metadata.get("language", "")
    return "" if language == "und" else language


def stored_as(context: Any) -> tuple[str, str]:
    """Codec and sample format of a stream, in the words of `AudioInfo`."""
    codec = context.codec.canonical_name
    if plain := re.fullmatch(r"pcm_([usf]\d+)([lb]e)?", codec):
        return "pcm", plain[1]
    if codec in LOSSLESS:
        return codec, "s16" if context.format.name.startswith("s16") else "s24"
    return codec, "f32"


Belongings = tuple[dict[str, str], tuple[Chapter, ...], Cover | None]
"""Tags, chapters and cover."""


def read_belongings(file: CallbackFile) -> Belongings:
    """Tags, chapters and cover by libav, which knows more kinds of them than libsndfile; none where it cannot
    read the file."""
    file.seek(0)
    try:
        # Of a wav it would read megabytes, in search of other codecs among the samples.
        with open_container(file, probesize="4096") as container:
            streams = [stream.metadata for stream in container.streams.audio]  # where Ogg has them
            return tags_of(container.metadata, *streams), chapters_of(container), cover_of(container)
    except LIBAV_ERRORS:
        return {}, (), None


def chapters_of(container: Any) -> tuple[Chapter, ...]:
    """The chapters of a recording."""
    found = []
    for chapter in container.chapters():
        start, end = (float(chapter[side] * chapter["time_base"]) for side in ("start", "end"))
        found.append(Chapter(start, end, readable(chapter["metadata"].get("title", ""))))
    return tuple(found)


def videos_of(container: Any) -> list[Any]:
    """The streams of moving pictures; a cover is none."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def cover_of(container: Any) -> Cover | None:
    """The first picture that is no video; the container is read on, and of no more use for its sound."""
    pictures = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
    if not pictures:
        return None
    data = bytes(next(container.demux(pictures[0]), b""))
    kind = {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg"}.get(data[:2])
    return Cover(kind, data) if kind else None


class ToPacked:
    """A libav frame of any sample format as float32 (channel, time).

    Not by frame.to_ndarray() alone: of 8 planar channels PyAV (18.1) reads a ninth, which is not there.
    """

    def __init__(self) -> None:
        self._converters: dict[tuple[str, str], av.AudioResampler] = {}  # a stream may change in its middle

    def __call__(self, frame: Any) -> Block:
        kind = (frame.format.name, frame.layout.name)
        if kind not in self._converters:
            self._converters[kind] = av.AudioResampler("flt", frame.layout, frame.sample_rate)
        (packed,) = self._converters[kind].resample(frame)
        return np.asarray(packed.to_ndarray(), np.float32).reshape(-1, frame.layout.nb_channels).T


def container_name(libav_name: str, brand: str, head: bytes) -> str:
    """The container of `AudioInfo`, by libav's name of it, its brand and its first bytes."""
    if libav_name.startswith("mov,"):
        return {"M4A ": "m4a", "M4B ": "m4a", "qt  ": "mov"}.get(brand, "mp4")
    if libav_name.startswith("matroska"):
        return "webm" if b"webm" in head[:64] else "mkv"
    return libav_name.removesuffix("nb").removesuffix("wb") if libav_name.startswith("amr") else libav_name
