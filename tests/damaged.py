"""Damaged audio files, made on purpose: what `decode` must refuse, and must survive.

Every file is one that a careful person would call damaged or not audio. What nobody could see is
left out: a flipped bit in plain samples, an mp3 that lost its last second together with the frame
count, a stream without checksums that decodes to other sounds.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import av
import numpy as np

from enhance_ray import audio

Mutation = Callable[[bytes, np.random.Generator], bytes]

RATE = 16_000
SECONDS = 2


def make_damaged(folder: Path, count: int = 300, seed: int = 0) -> list[Path]:
    """Write ``count`` damaged files into ``folder``.

    The same damage is done for the same ``seed``; only the identifiers that Ogg and Matroska draw differ.
    """
    good = {
        path.suffix[1:] if path.stem == "good" else path.stem: path for path in make_good(folder / "good")
    }
    content = {name: path.read_bytes() for name, path in good.items()}
    recipes = [(name, label, mutate) for name in content for label, mutate in _mutations(name).items()]
    recipes += [
        (suffix, label, mutate)
        for suffix in ("wav", "mp3", "m4a", "flac")
        for label, mutate in _IMPOSTORS.items()
    ]
    # Neighbours in the list differ in format and kind, so that a short count still has some of each.
    order = np.random.default_rng(seed).permutation(len(recipes))
    damaged = []
    for index in range(count):
        name, label, mutate = recipes[order[index % len(recipes)]]
        suffix = good[name].suffix if name in good else f".{name}"
        path = folder / f"{index:03d}_{name}_{label}{suffix}"
        path.write_bytes(mutate(content.get(name, b""), np.random.default_rng([seed, index])))
        damaged.append(path)
    for path in good.values():
        path.unlink()
    (folder / "good").rmdir()
    return damaged


def make_good(folder: Path) -> list[Path]:
    """Write two seconds of noise in every format, two channels where it has them."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(7).standard_normal((2, RATE * SECONDS)).cumsum(axis=1)
    noise = (0.5 * noise / np.abs(noise).max()).astype(np.float32)
    paths = []
    for name, target in _WRITTEN.items():
        path = folder / f"{name}{target.extension}"
        with audio.encode(str(path), sample_rate=RATE, channels=2, target=target) as output:
            output.write(noise)
        paths.append(path)
    for name, (muxer, codec, rate, channels, bit_rate) in _MUXED.items():
        path = folder / f"{name}.{name.split('_')[0]}"
        path.write_bytes(_mux(noise[:channels], muxer, codec, rate, bit_rate))
        paths.append(path)
    return paths


def _target(
    container: str, codec: str, sample_format: str = "f32", bit_rate: int | None = None
) -> audio.OutputFormat:
    return audio.OutputFormat(
        container=container, codec=codec, sample_format=sample_format, bit_rate=bit_rate
    )


_WRITTEN = {
    "wav": _target("wav", "pcm", "s16"),
    "wav_float": _target("wav", "pcm", "f32"),
    "aiff": _target("aiff", "pcm", "s16"),
    "aiff_float": _target("aiff", "pcm", "f32"),
    "caf": _target("caf", "pcm", "s24"),
    "caf_float": _target("caf", "pcm", "f32"),
    "flac": _target("flac", "flac", "s16"),
    "flac_24": _target("flac", "flac", "s24"),
    "mp3": _target("mp3", "mp3", bit_rate=128_000),
    "m4a": _target("m4a", "aac", bit_rate=128_000),
    "m4a_alac": _target("m4a", "alac", "s16"),
    "opus": _target("ogg", "opus", bit_rate=96_000),
    "ogg_vorbis": _target("ogg", "vorbis"),
}
# Formats that are read and not written: muxer, encoder, rate in Hz, channels, bits per second.
_MUXED = {
    "webm": ("webm", "libopus", 48_000, 2, 96_000),
    "mkv_aac": ("matroska", "aac", 44_100, 2, 128_000),
    "mov": ("mov", "pcm_s16le", 16_000, 2, 512_000),
    "mp4": ("mp4", "aac", 16_000, 2, 64_000),
    "wma": ("asf", "wmav2", 44_100, 2, 128_000),
    "amr": ("amr", "libopencore_amrnb", 8_000, 1, 12_200),
    "aac": ("adts", "aac", 16_000, 2, 64_000),
}


def _mux(samples: np.ndarray, muxer: str, codec: str, rate: int, bit_rate: int) -> bytes:
    file = io.BytesIO()
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(file, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout=layout)
        frame.sample_rate = RATE
        for resampled in av.AudioResampler(stream.codec_context.format, layout, rate).resample(frame):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return file.getvalue()


# ---- mutations: content, generator -> content


def _truncate(content: bytes, random: np.random.Generator, shares: tuple[float, float]) -> bytes:
    return content[: int(len(content) * random.uniform(*shares))]


def _tail_only(content: bytes, random: np.random.Generator) -> bytes:
    return content[int(len(content) * random.uniform(0.2, 0.7)) :]


def _cut_out(content: bytes, random: np.random.Generator) -> bytes:
    start = int(len(content) * random.uniform(0.2, 0.4))
    return content[:start] + content[start + int(len(content) * 0.35) :]


def _overwrite(content: bytes, random: np.random.Generator, fill: str) -> bytes:
    start, size = int(len(content) * random.uniform(0.2, 0.4)), int(len(content) * 0.35)
    middle = bytes(size) if fill == "zeros" else random.bytes(size)
    return content[:start] + middle + content[start + size :]


def _flip_bits(content: bytes, random: np.random.Generator) -> bytes:
    flipped = bytearray(content)
    for position in random.integers(len(content) // 4, len(content) - 1, size=8):
        flipped[position] ^= 1 << int(random.integers(8))
    return bytes(flipped)


def _destroy_header(content: bytes, random: np.random.Generator, fill: str) -> bytes:
    size = int(random.integers(32, 64))
    return (bytes(size) if fill == "zeros" else random.bytes(size)) + content[size:]


def _poison(content: bytes, random: np.random.Generator, value: float, order: str) -> bytes:
    position = len(content) // 2 // 4 * 4 + (_first_sample(content) % 4)
    return content[:position] + struct.pack(f"{order}f", value) * 8 + content[position + 32 :]


def _first_sample(content: bytes) -> int:
    """Offset of the samples in a wav, aiff or caf file."""
    chunk = next(name for name in (b"data", b"SSND") if name in content)
    return content.index(chunk) + {b"RIFF": 8, b"FORM": 16, b"caff": 16}[content[:4]]


def _patch(content: bytes, random: np.random.Generator, marker: bytes, offset: int, value: bytes) -> bytes:
    """Write ``value`` at ``offset`` bytes behind the end of ``marker``."""
    position = content.index(marker) + len(marker) + offset
    return content[:position] + value + content[position + len(value) :]


def _no_samples(content: bytes, random: np.random.Generator) -> bytes:
    """The header alone, and it says so."""
    start = _first_sample(content)
    size_width = {b"RIFF": "<I", b"FORM": ">I", b"caff": ">q"}[content[:4]]
    chunk = content[:start]
    marker = b"SSND" if content[:4] == b"FORM" else b"data"
    position = chunk.index(marker) + 4
    size = struct.pack(size_width, start - position - struct.calcsize(size_width))
    return chunk[:position] + size + chunk[position + len(size) :]


def _mutations(name: str) -> Mapping[str, Mutation]:
    """What can be done to a format so that the damage shows."""
    kinds: dict[str, Mutation] = {}
    container = name.split("_", maxsplit=1)[0]
    if container not in ("aac", "amr"):  # bare frames that nothing counts
        for low, high in ((0.02, 0.1), (0.1, 0.4), (0.4, 0.6), (0.6, 0.8)):
            kinds[f"truncated_{high:.0%}"[:-1]] = partial(_truncate, shares=(low, high))
        kinds["cut_out"] = _cut_out
    if container not in ("aac", "amr", "mp3"):  # those are resumed at the next frame
        kinds["tail_only"] = _tail_only
        kinds["header_zeros"] = partial(_destroy_header, fill="zeros")
        kinds["header_noise"] = partial(_destroy_header, fill="noise")
    if container not in ("wav", "aiff", "caf", "mov", "amr"):  # there, any bytes are samples
        kinds["zeros"] = partial(_overwrite, fill="zeros")
        kinds["noise"] = partial(_overwrite, fill="noise")
    if container in ("flac", "opus", "ogg"):  # they have checksums
        kinds["flipped"] = _flip_bits
    if name.endswith("_float"):
        order = ">" if container == "aiff" else "<"
        for label, value in (("nan", np.nan), ("inf", np.inf), ("minus_inf", -np.inf), ("huge", 1e30)):
            kinds[label] = partial(_poison, value=value, order=order)
    if container in ("wav", "aiff", "caf"):
        kinds["no_samples"] = _no_samples
    return kinds | {label: partial(_patch, **patch) for label, patch in _ABSURD.get(name, {}).items()}


_ABSURD: Mapping[str, Mapping[str, dict]] = {
    "wav": {
        "rate_zero": {"marker": b"fmt ", "offset": 8, "value": bytes(4)},
        "rate_1ghz": {"marker": b"fmt ", "offset": 8, "value": struct.pack("<I", 10**9)},
        "channels_zero": {"marker": b"fmt ", "offset": 6, "value": bytes(2)},
        "channels_65535": {"marker": b"fmt ", "offset": 6, "value": b"\xff\xff"},
        "bits_zero": {"marker": b"fmt ", "offset": 18, "value": bytes(2)},
        "bits_77": {"marker": b"fmt ", "offset": 18, "value": b"\x4d\x00"},
        "samples_4g": {"marker": b"data", "offset": 0, "value": b"\xfe\xff\xff\xff"},
        "fmt_huge": {"marker": b"fmt ", "offset": 0, "value": b"\xff\xff\xff\x7f"},
    },
    "aiff": {
        "rate_zero": {"marker": b"COMM", "offset": 12, "value": bytes(10)},
        "rate_huge": {"marker": b"COMM", "offset": 12, "value": b"\x7f\xfe" + b"\xff" * 8},
        "channels_zero": {"marker": b"COMM", "offset": 4, "value": bytes(2)},
        "channels_65535": {"marker": b"COMM", "offset": 4, "value": b"\xff\xff"},
        "samples_4g": {"marker": b"SSND", "offset": 0, "value": b"\xff\xff\xff\xf0"},
    },
    "caf": {
        "rate_zero": {"marker": b"desc", "offset": 8, "value": bytes(8)},
        "rate_nan": {"marker": b"desc", "offset": 8, "value": struct.pack(">d", np.nan)},
        "rate_negative": {"marker": b"desc", "offset": 8, "value": struct.pack(">d", -44100)},
        "channels_4g": {"marker": b"desc", "offset": 32, "value": b"\xff" * 4},
        "samples_huge": {"marker": b"data", "offset": 0, "value": struct.pack(">q", 2**62)},
    },
    "flac": {
        "rate_zero": {"marker": b"fLaC", "offset": 14, "value": b"\x00\x00\x02"},
        "samples_many": {"marker": b"fLaC", "offset": 17, "value": b"\xff\xff\xff\xff\xff"},
        "block_zero": {"marker": b"fLaC", "offset": 4, "value": bytes(4)},
    },
    "opus": {
        "channels_zero": {"marker": b"OpusHead", "offset": 1, "value": b"\x00"},
        "channels_255": {"marker": b"OpusHead", "offset": 1, "value": b"\xff"},
        "version_99": {"marker": b"OpusHead", "offset": 0, "value": b"\x63"},
    },
    "m4a": {
        "rate_zero": {"marker": b"mdhd", "offset": 12, "value": bytes(4)},
        "index_huge": {"marker": b"stsz", "offset": 8, "value": b"\x7f\xff\xff\xff"},
    },
    "webm": {"channels_200": {"marker": b"OpusHead", "offset": 1, "value": b"\xc8"}},
}

# What is no audio at all, whatever its name says.
_IMPOSTORS: Mapping[str, Mutation] = {
    "empty": lambda _, random: b"",
    "one_byte": lambda _, random: random.bytes(1),
    "text": lambda _, random: b"Minutes of the meeting.\n" * 400,
    "json": lambda _, random: b'{"error": "not found", "status": 404}',
    "html": lambda _, random: b"<!DOCTYPE html><html><body>Access denied</body></html>" * 20,
    "zip": lambda _, random: b"PK\x03\x04" + random.bytes(5000),
    "png": lambda _, random: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + random.bytes(5000),
    "pdf": lambda _, random: b"%PDF-1.7\n" + random.bytes(5000),
    "zeros": lambda _, random: bytes(20_000),
    "ones": lambda _, random: b"\xff" * 20_000,
    "noise": lambda _, random: random.bytes(20_000),
    "playlist": lambda _, random: b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\n/etc/passwd\n",
    "utf16": lambda _, random: "Protokoll der Sitzung. ".encode("utf-16") * 200,
    "riff_only": lambda _, random: b"RIFF\xff\xff\xff\xffWAVE",
    "id3_only": lambda _, random: b"ID3\x04\0\0\0\0\x10\0" + bytes(2048),
    "ftyp_only": lambda _, random: b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom",
}
