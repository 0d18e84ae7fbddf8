"""What a file is and what it becomes: the words of `probe` and `encode`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]
"""Samples of shape (channel, time), full scale at 1; float files may go beyond it."""

OnDamage = Callable[[str], None]
"""Called with a reason; raises it, or notes it where partial results are wanted."""

LOSSLESS = frozenset({"alac", "flac", "wavpack", "tta", "ape", "tak", "wmalossless"})
"""Codecs that give every sample back."""

MIN_RATE, MAX_RATE = 4_000, 384_000
"""Sample rates in Hz that are believed."""
MAX_CHANNELS = 8
MAX_SAMPLE = 2.0**31
"""Largest absolute value of a sample that is believed: float files that hold unscaled 32-bit integers."""

# fmt: off
KNOWN_EXTENSIONS = frozenset({
    ".3g2", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".asf", ".au", ".avi", ".awb",
    ".caf", ".dsf", ".eac3", ".flac", ".flv", ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2",
    ".mp3", ".mp4", ".mpeg", ".mpg", ".oga", ".ogg", ".ogv", ".opus", ".snd", ".tak", ".ts", ".tta", ".w64",
    ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wv",
})
# fmt: on
"""Names that `find_audio` takes for audio, lower case. `probe` and `decode` ignore the name."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A named stretch of a recording."""

    start: float
    """Seconds."""
    end: float
    title: str


@dataclass(frozen=True, slots=True)
class Cover:
    """The picture that a recording shows for itself."""

    kind: str
    """image/png or image/jpeg."""
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header of a file says, checked for sense."""

    path: str
    container: str
    """wav, aiff, caf, flac, mp3, ogg, m4a, mp4, mov, mkv, webm, asf, amr, aac (ADTS), or libav's name."""
    codec: str
    """pcm, flac, alac, mp3, aac, opus, vorbis, or libav's name (wmav2, amrnb, pcm_mulaw, ...)."""
    sample_format: str
    """u8, s8, s16, s24, s32, f32 or f64 where samples are stored as such; f32 for lossy codecs."""
    sample_rate: int
    """Hz."""
    channels: int
    frames: int | None
    """Samples per channel where the header counts them."""
    seconds: float | None
    """Exact if ``frames`` is known, else the container's estimate."""
    bit_rate: int | None
    """Bits per second of the audio, all channels together."""
    tags: Mapping[str, str]
    """title, artist, album, date, comment, ...: lower-case names."""
    has_video: bool
    """Whether there is a moving picture (a cover is none)."""
    chapters: tuple[Chapter, ...] = ()
    cover: Cover | None = None
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)
    """What a wav holds beside samples and tags: see `wavs`."""
    track: int = 1
    """Number of this sound among those of the file."""
    tracks: int = 1
    """How many sounds the file has."""
    start: float = 0.0
    """Seconds on the file's clock at which the first of the samples stands. Where the picture comes before
    the sound, the samples begin with the silence in between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFormat:
    """How an output is stored; the words are those of `AudioInfo`."""

    container: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    """Bits per second of a lossy codec, all channels together; None for the others."""

    @property
    def is_video(self) -> bool:
        """Whether a moving picture has a place in it."""
        return self.container in VIDEO_CONTAINERS

    @property
    def holds_tracks(self) -> bool:
        """Whether several sounds have a place in it."""
        return self.container in TRACK_CONTAINERS

    @property
    def is_bounded(self) -> bool:
        """Whether what is above full scale is clipped there, or where it is played."""
        return self.codec in _BIT_RATES or not self.sample_format.startswith("f")

    @property
    def extension(self) -> str:
        """The usual ending of a file's name, with its dot."""
        return ".opus" if self.codec == "opus" else f".{self.container}"


def output_format(info: AudioInfo, wanted: str) -> OutputFormat:
    """The format of the output for an input.

    Args:
        info: the input.
        wanted: ``keep``, ``wav``, ``flac``, ``mp3``, ``opus`` or ``m4a``. ``keep`` takes container, codec
            and sample format of the input; what cannot be written (wma, amr, ...) becomes wav, a video
            container becomes the audio codec's own. 8-bit and companded samples become 16-bit: their
            quantisation noise would be louder than what was removed.

    Returns:
        A lossy format at a bit rate at which speech is transparent, or at the input's where that is higher.

    Raises:
        ValueError: ``wanted`` is none of these.
    """
    if wanted == "keep":
        wanted = _kept_format(info)
    if wanted not in _FORMATS:
        raise ValueError(f"wanted must be keep or one of {', '.join(_FORMATS)}, got {wanted!r}")
    container, codec = _FORMATS[wanted]
    if codec in _BIT_RATES:
        low, high = (rate * info.channels for rate in _BIT_RATES[codec])
        source = info.bit_rate or 0 if info.codec in _BIT_RATES else 0
        return OutputFormat(
            container=container, codec=codec, sample_format="f32", bit_rate=min(max(low, source), high)
        )
    stored = info.sample_format if info.codec in ("pcm", *LOSSLESS) else "s16"
    kept = {"s24": "s24", "s32": "s32", "f32": "f32", "f64": "f32"}.get(stored, "s16")
    if codec in ("flac", "alac") and kept != "s16":
        kept = "s24"
    return OutputFormat(container=container, codec=codec, sample_format=kept)


def container_format(info: AudioInfo, container: str) -> OutputFormat:
    """The format of an output in a container that holds several codecs: the input's, where it is usual there.

    Args:
        info: the input.
        container: one of `VIDEO_CONTAINERS`, or mka, which is mkv without a picture.
    """
    codecs = _CONTAINED_CODECS[container]
    wanted = info.codec if info.codec in codecs else codecs[0]
    if info.codec in LOSSLESS and info.codec not in codecs and "flac" in codecs:
        wanted = "flac"
    if wanted == "pcm":
        return dataclasses.replace(output_format(info, "wav"), container=container)
    return dataclasses.replace(output_format(info, _BY_CODEC[wanted]), container=container)


VIDEO_CONTAINERS = frozenset({"mp4", "mov", "mkv", "webm"})
TRACK_CONTAINERS = VIDEO_CONTAINERS | {"mka"}
_CONTAINED_CODECS: Mapping[str, tuple[str, ...]] = {
    "mp4": ("aac", "mp3", "alac"),
    "mov": ("aac", "mp3", "alac", "pcm"),
    "mkv": ("aac", "mp3", "opus", "flac", "pcm"),
    "mka": ("aac", "mp3", "opus", "flac", "pcm"),
    "webm": ("opus",),
}
"""Codecs of sound that players expect there; where the input has another one, the first."""
_BY_CODEC = {"aac": "m4a", "mp3": "mp3", "alac": "alac", "opus": "opus", "flac": "flac"}
_FORMATS = {
    "wav": ("wav", "pcm"),
    "flac": ("flac", "flac"),
    "mp3": ("mp3", "mp3"),
    "opus": ("ogg", "opus"),
    "m4a": ("m4a", "aac"),
    # Reached by `keep` alone.
    "aiff": ("aiff", "pcm"),
    "caf": ("caf", "pcm"),
    "vorbis": ("ogg", "vorbis"),
    "alac": ("m4a", "alac"),
    "flac in ogg": ("ogg", "flac"),
}
# Bits per second and channel: where speech at 44.1 kHz is transparent, and where more is a waste.
_BIT_RATES = {
    "mp3": (96_000, 160_000),
    "aac": (80_000, 160_000),
    "opus": (64_000, 128_000),
    "vorbis": (80_000, 160_000),
}


def _kept_format(info: AudioInfo) -> str:
    if info.codec == "pcm":
        return info.container if info.container in ("aiff", "caf") else "wav"
    if info.codec == "vorbis" and info.channels > 2:
        return "opus"  # libsndfile and libav order the channels of Vorbis surround differently
    if info.codec == "flac" and info.container == "ogg":
        return "flac in ogg"
    by_codec = {
        "flac": "flac",
        "mp3": "mp3",
        "aac": "m4a",
        "opus": "opus",
        "vorbis": "vorbis",
        "alac": "alac",
    }
    return by_codec.get(info.codec, "wav")
