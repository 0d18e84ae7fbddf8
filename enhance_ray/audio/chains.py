"""Where a file that is several recordings, one behind the other, has its seams: libraries read one alone.

`cat a.wav b.wav` makes such files, and so do recorders that append. Of Ogg, where that is in order,
`headers.read_ogg_pages` finds the seams.
"""

from __future__ import annotations

import os
import struct

from enhance_ray.audio.storage import CallbackFile

_CHUNKED = {
    b"RIFF": (12, "<4sI", 2),
    b"RIFX": (12, ">4sI", 2),
    b"FORM": (12, ">4sI", 2),
    b"caff": (8, ">4sq", 1),
}
"""Bytes before the first chunk, what stands before each, and the length of which they are multiples."""
_W64, _AU, _TTA = b"riff", b".snd", b"TTA1"
_BEGINNINGS = (*_CHUNKED, _W64, _AU, _TTA)
_FLAC = b"fLaC\0\0\0\x22"
"""How a flac begins: with STREAMINFO, which has 34 bytes."""
_SCANNED = 2**20


def find_links(file: CallbackFile) -> list[int]:
    """First bytes of all recordings of a wav, aiff, caf, w64, au, tta or mp4 file; the first is 0.

    No more is read than a few bytes of each chunk, and nothing where nothing is behind the samples.
    """
    links, size = [0], file.seek(0, os.SEEK_END)
    while (start := _next_link(file, links[-1], size)) is not None:
        links.append(start)
    return links


def find_flacs(file: CallbackFile, position: int) -> list[int]:
    """First bytes of the flacs that begin behind ``position``."""
    links = []
    file.seek(position)
    held = b""
    while data := file.read(_SCANNED):
        held += data
        start = 0
        while (found := held.find(_FLAC, start)) >= 0:
            links.append(position + found)
            start = found + len(_FLAC)
        kept = max(0, len(held) - len(_FLAC) + 1)
        position, held = position + kept, held[kept:]
    return [link for link in dict.fromkeys(links) if link]


def _next_link(file: CallbackFile, start: int, end: int) -> int | None:
    file.seek(start)
    head = file.read(24)
    if head[:4] in _CHUNKED:
        first, prefix, multiple = _CHUNKED[head[:4]]
        return _behind_chunks(file, start + first, end, prefix, multiple)
    if head[4:8] == b"ftyp":
        return _behind_boxes(file, start, end)
    behind = {_AU: _behind_au, _W64: _behind_w64, _TTA: _behind_tta}.get(head[:4])
    return behind(file, start, end) if behind is not None and len(head) == 24 else None


def _behind_au(file: CallbackFile, start: int, end: int) -> int | None:
    file.seek(start + 4)
    offset, size = struct.unpack(">II", file.read(8))
    return None if offset < 24 else _beginning(file, start + offset + size, end)


def _behind_w64(file: CallbackFile, start: int, end: int) -> int | None:
    file.seek(start + 16)
    (size,) = struct.unpack("<Q", file.read(8))
    if size < 24:
        return None
    return _beginning(file, start + size, end) or _beginning(file, start + size + -size % 8, end)


def _behind_chunks(file: CallbackFile, position: int, end: int, prefix: str, multiple: int) -> int | None:
    length = struct.calcsize(prefix)
    while position + length <= end:
        file.seek(position)
        name, size = struct.unpack(prefix, file.read(length))
        if size < 0 or not (name.isascii() and name.decode("ascii").isprintable()):
            return None  # samples, behind a size that says nothing
        position += length + size
        padded = position + -size % multiple
        for behind in {position, padded}:  # some programs leave the pad byte out
            if (found := _beginning(file, behind, end)) is not None:
                return found
        position = padded
    return None


def _behind_tta(file: CallbackFile, start: int, end: int) -> int | None:
    """By the table of the frames' sizes: "TTA Lossless Audio Codec: Format Description", True Audio, 2007."""
    file.seek(start + 10)
    rate, samples, _ = struct.unpack("<III", file.read(12))
    frames = -(-samples // max(1, 256 * rate // 245))
    if start + 22 + 4 * frames > end:
        return None
    sizes = struct.unpack(f"<{frames}I", file.read(4 * frames))
    behind = start + 22 + 4 * frames + 4 + sum(sizes)
    file.seek(behind)
    tag = file.read(32)  # APEv2, where the size is without this header
    if len(tag) == 32 and tag.startswith(b"APETAGEX"):
        behind += 32 + int.from_bytes(tag[12:16], "little")
    return _beginning(file, behind, end)


def _behind_boxes(file: CallbackFile, position: int, end: int) -> int | None:
    begun = False
    while position + 16 <= end:
        file.seek(position)
        size, name, long_size = struct.unpack(">I4sQ", file.read(16))
        if name == b"ftyp" and begun:
            return position
        begun = True
        size = long_size if size == 1 else size
        if size < 8:  # 0: to the end
            return None
        position += size
    return None


def _beginning(file: CallbackFile, position: int, end: int) -> int | None:
    """``position``, where a recording begins there."""
    if position + 24 > end:
        return None
    file.seek(position)
    return position if file.read(4) in _BEGINNINGS else None
