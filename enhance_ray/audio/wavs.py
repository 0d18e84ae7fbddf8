"""What a wav holds beside samples and tags: Broadcast Wave's description, markers with labels, iXML.

bext: EBU Tech 3285; iXML: ixml.info; cue and adtl: Microsoft's Multimedia Programming Interface (1991).
Positions in them count samples, and are scaled where the rate changes.
"""

from __future__ import annotations

import functools
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import IO

from enhance_ray.audio.formats import Chapter
from enhance_ray.audio.storage import CallbackFile

NAMES = {
    b"bext": "its Broadcast Wave data (bext)",
    b"iXML": "its iXML",
    b"cue ": "its markers",
    b"adtl": "the labels of its markers",
}
"""Chunks that are kept, and what people are told that they are; the last is a LIST of that kind."""
_MOST_BYTES = 4 * 2**20
"""Of one of them."""
_TIME_REFERENCE = 338
"""Place in bext of the samples since midnight at which the recording begins."""


def read_chunks(file: CallbackFile) -> dict[bytes, bytes]:
    """What is there of `NAMES` in a wav, by name; nothing of other files."""
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return {}
    found: dict[bytes, bytes] = {}
    position, end, long_size = 12, file.seek(0, os.SEEK_END), 0
    while position + 8 <= end:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if not (name.isascii() and name.decode("ascii").isprintable()):
            break  # samples, behind a size that says nothing
        if name == b"ds64":
            (long_size,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
        if name == b"data" and size == 0xFFFFFFFF:
            size = long_size
        if (name in NAMES or name == b"LIST") and size <= min(_MOST_BYTES, end - position - 8):
            body = file.read(size)
            if name != b"LIST":
                found.setdefault(name, body)
            elif body[:4] == b"adtl":
                found.setdefault(b"adtl", body[4:])
        position += 8 + size + size % 2
    return found


def markers_of(chapters: Sequence[Chapter], sample_rate: int) -> dict[bytes, bytes]:
    """Chunks that have the chapters of a recording for markers, with their titles for labels."""
    if not chapters:
        return {}
    points, labels = [struct.pack("<I", len(chapters))], []
    for number, chapter in enumerate(chapters, 1):
        place = min(round(chapter.start * sample_rate), 2**32 - 1)
        points.append(struct.pack("<II4sIII", number, place, b"data", 0, 0, place))
        labels.append(_chunk(b"labl", struct.pack("<I", number) + chapter.title.encode() + b"\0"))
    return {b"cue ": b"".join(points), b"adtl": b"".join(labels)}


def append_chunks(file: IO[bytes], chunks: Mapping[bytes, bytes], ratio: Fraction, bits: int) -> bool:
    """Write ``chunks`` behind the samples of a complete wav.

    Args:
        file: open for reading and writing.
        chunks: of `read_chunks`.
        ratio: of the rate of ``file`` to the rate at which their positions count.
        bits: of a sample of ``file``.

    Returns:
        Whether they have a place: a wav of almost 4 GiB that is no RF64 has none.
    """
    rest = b"".join(_chunk(name, _scaled(name, body, ratio, bits)) for name, body in chunks.items())
    file.seek(0)
    magic = file.read(4)
    end = file.seek(0, os.SEEK_END)
    rest = b"\0" * (end % 2) + rest
    if magic == b"RIFF":
        if end + len(rest) - 8 > 0xFFFFFFFF:
            return False
        file.write(rest)
        file.seek(4)
        file.write(struct.pack("<I", end + len(rest) - 8))
        return True
    file.write(rest)
    file.seek(20)  # the first of ds64's sizes
    file.write(struct.pack("<Q", end + len(rest) - 8))
    return True


def _chunk(name: bytes, body: bytes) -> bytes:
    if name == b"adtl":
        name, body = b"LIST", b"adtl" + body
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _scaled(name: bytes, body: bytes, ratio: Fraction, bits: int) -> bytes:
    if name == b"iXML":
        return _scaled_xml(body, ratio, bits)
    if ratio == 1:
        return body
    data = bytearray(body)
    if name == b"bext" and len(data) >= _TIME_REFERENCE + 8:
        (samples,) = struct.unpack_from("<Q", data, _TIME_REFERENCE)
        struct.pack_into("<Q", data, _TIME_REFERENCE, min(round(samples * ratio), 2**64 - 1))
    elif name == b"cue ":
        for start in range(4, len(data) - 23, 24):
            for place in (start + 4, start + 20):  # in the order of playing, and in the chunk of samples
                _scale(data, place, ratio)
    elif name == b"adtl":
        position = 0
        while position + 8 <= len(data):
            kind, size = struct.unpack_from("<4sI", data, position)
            if kind == b"ltxt" and position + 16 <= len(data):
                _scale(data, position + 12, ratio)  # how long what is marked is
            position += 8 + size + size % 2
    return bytes(data)


def _scale(data: bytearray, place: int, ratio: Fraction) -> None:
    (samples,) = struct.unpack_from("<I", data, place)
    struct.pack_into("<I", data, place, min(round(samples * ratio), 2**32 - 1))


def _scaled_xml(body: bytes, ratio: Fraction, bits: int) -> bytes:
    for name in (b"FILE_SAMPLE_RATE", b"TIMESTAMP_SAMPLE_RATE", b"DIGITIZER_SAMPLE_RATE"):
        body = _with_number(body, name, lambda value: round(value * ratio))
    body = _with_number(body, b"AUDIO_BIT_DEPTH", functools.partial(_always, bits))
    for high, low in (
        (b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI", b"TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO"),
        (b"BWF_TIME_REFERENCE_HIGH", b"BWF_TIME_REFERENCE_LOW"),
    ):
        parts = [re.search(rb"<%s>\s*(\d+)\s*<" % name, body) for name in (high, low)]
        if parts[0] and parts[1]:
            samples = round(((int(parts[0][1]) << 32) + int(parts[1][1])) * ratio)
            for name, value in ((high, samples >> 32), (low, samples & 0xFFFFFFFF)):
                body = _with_number(body, name, functools.partial(_always, value))
    return body


def _always(value: int, _: int) -> int:
    return value


def _with_number(body: bytes, name: bytes, change: Callable[[int], int]) -> bytes:
    pattern = rb"(<%s>\s*)(\d+)(\s*<)" % name
    return re.sub(pattern, lambda found: found[1] + b"%d" % change(int(found[2])) + found[3], body)
