"""Audio files as streams of blocks: `probe`, `decode` and `encode`, for local paths and fsspec URIs.

Reading goes by content, not by name. libsndfile (through soundfile) decodes plain wav, aiff,
caf, flac and Ogg Vorbis, where it is exact and fast; libav (through PyAV) decodes everything else,
and writes every format but Ogg Vorbis, for which it lacks a good encoder.

Damage is found here, because decoders are built to play on: the header's length is compared with
what was there, decoding errors and holes are counted, NaN and Inf are refused. Damage is an
`AudioReadError`, or, with ``partial=True``, a `Decoder.warning` beside what could be decoded.

Integer outputs are rounded to nearest and clipped, without dither: samples that were not changed
come back bit for bit, and denoised speech keeps noise of its own well above the last of 16 bits.
"""

from enhance_ray.audio.decoding import Decoder, decode, probe
from enhance_ray.audio.encoding import Encoder, encode, remove_leftovers
from enhance_ray.audio.formats import (
    KNOWN_EXTENSIONS,
    AudioInfo,
    Block,
    Chapter,
    Cover,
    OutputFormat,
    container_format,
    output_format,
)
from enhance_ray.audio.libav import list_tracks
from enhance_ray.audio.storage import Patience, copy_times, exists, find_audio, is_known, is_remote

__all__ = [
    "KNOWN_EXTENSIONS",
    "AudioInfo",
    "Block",
    "Chapter",
    "Cover",
    "Decoder",
    "Encoder",
    "OutputFormat",
    "Patience",
    "container_format",
    "copy_times",
    "decode",
    "encode",
    "exists",
    "find_audio",
    "is_known",
    "is_remote",
    "list_tracks",
    "output_format",
    "probe",
    "remove_leftovers",
]
