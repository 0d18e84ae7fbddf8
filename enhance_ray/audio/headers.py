"""What libsndfile and libav keep to themselves: how much of a file is missing, which page of it is broken."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from enhance_ray.audio.storage import CallbackFile

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class OggPages:
    """What the pages of an Ogg file say, of which decoders say nothing (RFC 3533)."""

    links: tuple[int, ...]
    """First bytes of the recordings that were put one behind the other, as radio streams are."""
    fault: str | None
    """The first one: decoders skip pages that are damaged."""


def read_ogg_pages(file: CallbackFile) -> OggPages:
    """Go through all pages of an Ogg file, up to the first fault."""
    links: list[int] = []
    return OggPages(fault=_find_ogg_fault(file, links), links=tuple(links))


def _find_ogg_fault(file: CallbackFile, links: list[int]) -> str | None:
    file.seek(0)
    following: dict[int, int] = {}  # the number of the next page of each stream
    position = 0
    has_begun = False  # streams that sound together all begin before one of them goes on
    while header := file.read(27):
        if header[:4] != b"OggS":
            return f"it is damaged: no Ogg page at byte {position}"
        lengths = file.read(header[26]) if len(header) == 27 else b""
        body = file.read(sum(lengths))
        if len(header) < 27 or len(lengths) < header[26] or len(body) < sum(lengths):
            return "it breaks off within an Ogg page"
        serial, number, checksum = struct.unpack_from("<III", header, 14)
        # Ogg's CRC-32 is zlib's polynomial with the bits the other way round and no inversions.
        page = b"".join((header[:22], bytes(4), header[26:], lengths, body)).translate(_REVERSED_BITS)
        crc = int(f"{zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)
        if crc != checksum:
            return f"it is damaged: wrong checksum of the Ogg page at byte {position}"
        if begins := bool(header[5] & 2):
            following.pop(serial, None)
            if has_begun or not links:
                links.append(position)
        has_begun = not begins
        if number != following.get(serial, number):
            return f"it is damaged: Ogg pages are missing at byte {position}"
        following[serial] = number + 1
        position += len(header) + len(lengths) + len(body)
    return None


def flac_length_is_open(head: bytes) -> bool:
    """Whether a flac file does not say how long it is, as one that was written to a pipe.

    STREAMINFO keeps the number of samples in 36 bits, 0 for unknown (RFC 9639, 8.2).
    """
    return len(head) >= 26 and not head[21] & 0x0F and not any(head[22:26])


def mp3_length(first: bytes, sample_rate: int) -> int | None:
    """Samples per channel that an mp3 announces in its ``first`` bytes; None where they have no such tag.

    With a LAME tag the encoder's delay and padding are taken off, and the length is exact (Xing's
    and LAME's tags: gabriel.mp3-tech.org/mp3infotag.html). Not libav's duration, which becomes a guess as
    soon as a file is longer or shorter than the tag says.
    """
    frame_length = 1152 if sample_rate >= 32_000 else 576
    if (vbri := first.find(b"VBRI")) >= 0 and len(first) >= vbri + 18:
        return frame_length * int(struct.unpack_from(">I", first, vbri + 14)[0])
    start = max(first.find(b"Xing"), first.find(b"Info"))
    if start < 0 or len(first) < start + 12:
        return None
    flags, frames = struct.unpack_from(">II", first, start + 4)
    if not flags & 1:
        return None
    lame = start + 8 + sum(size for bit, size in ((1, 4), (2, 4), (4, 100), (8, 4)) if flags & bit)
    delay_and_padding = int.from_bytes(first[lame + 21 : lame + 24])
    length = frame_length * frames - (delay_and_padding >> 12) - (delay_and_padding & 0xFFF)
    return length if length > 0 else None


def end_of_id3(file: CallbackFile) -> int:
    """The first byte behind the ID3v2 tags that a file begins with; 0 where there are none."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            return start
        shifts = (21, 14, 7, 0)
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], shifts, strict=True))


def read_behind_id3(file: CallbackFile) -> bytes:
    """The first kilobyte, or the first behind an ID3v2 tag: where the frames of an mp3 begin."""
    file.seek(end_of_id3(file))
    return file.read(1024)


TAGGED_BEFORE = (b"RIFF", b"RF64", b"BW64", b"RIFX", b"FORM", b"caff", b"fLaC", b"OggS")
"""What files begin with that have a header of their own, before which some programs put ID3 tags."""


# What is often found under an audio name. The first bytes tell it.
_NOT_AUDIO = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite": "a database",
    b"#EXTM3U": "a playlist",
}
# Audio by its first bytes, yet libav cannot open it.
_DAMAGED_AUDIO = {
    b"OggS": "an Ogg file",
    b"fLaC": "a FLAC file",
    b"RIFF": "a wav file",
    b"\x1a\x45\xdf\xa3": "a Matroska or WebM file",
    b"\x30\x26\xb2\x75": "a wma file",
    b"#!AMR": "an AMR file",
    b"ID3": "an mp3 file",
}


def why_not_audio(head: bytes) -> str:
    """What to say of a file that libav cannot open, by its first bytes."""
    for magic, name in _NOT_AUDIO.items():
        if head.startswith(magic):
            return f"it is not audio ({name}?)"
    for magic, name in _DAMAGED_AUDIO.items():
        if head.startswith(magic):
            return f"its header is damaged, or it breaks off within it ({name}?)"
    if head[4:8] in (b"ftyp", b"mdat", b"wide", b"free"):
        return "its index is missing or damaged: an mp4 file that breaks off, or was never finished"
    if not head.strip(b"\0"):
        return "it is not audio (it begins with zeros)"
    text = head.decode("utf-8", errors="ignore")
    printable = sum(character.isprintable() or character.isspace() for character in text)
    if len(head) > 1 and len(text) > 0.9 * len(head) and printable > 0.95 * len(text):
        return "it is not audio (text?)"
    return "it is not audio, or its header is damaged"
