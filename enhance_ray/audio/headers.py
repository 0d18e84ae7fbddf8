"""What libsndfile and libav keep to themselves: how much of a file is missing, which page of it is broken."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from enhance_ray.audio.storage import CallbackFile
from enhance_ray.errors import AudioReadError


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkHeader:
    """What the chunks around the samples of a wav, aiff or caf file say."""

    container: str
    sample_rate: float
    channels: int
    coding: int | bytes
    """Format tag of wav, compression type of aiff, format id of caf."""
    missing_bytes: int
    """Bytes of samples that are announced and not there."""
    block_bytes: int = 1
    """Of a wav: what its coding makes at a time; a rest behind the last one is padding."""
    raw: RawSamples | None = None
    """Where they are, if that is known: for where no library finds all of them by this header."""
    is_misleading: bool = False
    """Whether libraries would find something else than `raw`."""

    @property
    def is_plain(self) -> bool:
        """Whether samples are stored as such, which libsndfile decodes."""
        return self.coding in _PLAIN_CODINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class RawSamples:
    """Plain samples without a header."""

    start: int
    """Their first byte."""
    size: int
    """In bytes."""
    subtype: str
    """As libsndfile calls it."""
    is_big_endian: bool
    remark: str | None
    """What is wrong with the header, for people."""


# Integers, floats, A-law and mu-law.
_PLAIN_CODINGS = frozenset([1, 3, 6, 7, b"lpcm", b"alaw", b"ulaw", b"ALAW", b"ULAW"]) | frozenset(
    [b"NONE", b"twos", b"sowt", b"raw ", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64"]
)
_EXTENSIBLE = 0xFFFE  # the format tag that says: look further back
_OPEN_END = 0xFFFFFFFF  # the size that a program writes which cannot go back to correct it
# Others write the largest that a signed number holds, less what their headers and buffers take.
_OPEN_ENDS = (range(0x7FFF_0000, 0x8000_0010), range(0xFFFF_0000, 0x1_0000_0000))
_RAW_SUBTYPES = {
    (1, 1): "PCM_U8", (1, 2): "PCM_16", (1, 3): "PCM_24", (1, 4): "PCM_32", (3, 4): "FLOAT", (3, 8): "DOUBLE",
    (6, 1): "ALAW", (7, 1): "ULAW",
}  # fmt: skip
"""By format tag of wav and bytes of a sample."""
_BEHIND = (b"TAG", b"ID3", b"APETAGEX", b"LIST", b"list", b"id3 ")
"""What programs leave behind the samples, be it a proper chunk or not; or zeros, up to `_PADDING`."""
_PADDING = 2**20


def read_chunk_header(file: CallbackFile, path: str) -> ChunkHeader | None:
    """Read the structure of a wav, aiff or caf file; None for anything else.

    libsndfile corrects in silence a header that announces more than there is, so that a file which
    breaks off looks whole: hence this second look. Formats: RIFF/WAVE (Microsoft 1991), RF64 (EBU
    Tech 3306), AIFF(-C) (Apple 1989), CAF (Apple 2006).
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:] == b"WAVE":
        return _wav_header(file, path, ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _aiff_header(file, path)
    if head[:4] == b"caff":
        return _caf_header(path, _chunks(file, 8, ">4sq", b"data"), file.seek(0, os.SEEK_END))
    return None


@dataclass(frozen=True, slots=True)
class _Chunk:
    start: int
    size: int
    body: bytes
    """The first 64 bytes."""


def _chunks(file: CallbackFile, position: int, prefix: str, samples: bytes) -> dict[bytes, _Chunk]:
    """The chunks of a file by name, up to the last that is needed: the samples and what describes them."""
    chunks: dict[bytes, _Chunk] = {}
    size_of_prefix = struct.calcsize(prefix)
    while samples not in chunks or not chunks.keys() & {b"fmt ", b"COMM", b"desc"}:
        file.seek(position)
        start = position + size_of_prefix
        data = file.read(size_of_prefix + 64)
        if len(data) < size_of_prefix:
            break
        name, size = struct.unpack_from(prefix, data)
        chunks[name] = _Chunk(start, size, data[size_of_prefix:][: max(size, 0)])
        if size < 0 or size == _OPEN_END:
            break
        position = start + size + (0 if prefix.endswith("q") else size % 2)
    return chunks


def _described(path: str, chunks: Mapping[bytes, _Chunk], name: bytes, size: int) -> bytes:
    if name not in chunks or len(chunks[name].body) < size:
        raise AudioReadError(path, "its header is cut short, or does not describe the samples")
    return chunks[name].body


def _missing(path: str, samples: _Chunk | None, size: int, file_bytes: int) -> int:
    if samples is None:
        raise AudioReadError(path, "it breaks off before the first sample")
    return max(0, samples.start + size - file_bytes)


def _wav_header(file: CallbackFile, path: str, order: str) -> ChunkHeader:
    chunks = _chunks(file, 12, f"{order}4sI", b"data")
    file_bytes = file.seek(0, os.SEEK_END)
    body = _described(path, chunks, b"fmt ", 16)
    coding, channels, rate, _, frame_bytes, bits = struct.unpack_from(f"{order}HHIIHH", body)
    if coding == _EXTENSIBLE and len(body) >= 26:
        (coding,) = struct.unpack_from(f"{order}H", body, 24)
    data = chunks.get(b"data")
    size = data.size if data else 0
    if size == _OPEN_END and b"ds64" in chunks:  # RF64 keeps it elsewhere
        (size,) = struct.unpack_from("<8xQ", _described(path, chunks, b"ds64", 16))
    there = file_bytes - data.start if data else 0
    remark = None
    if data and there and _says_nothing(file, data.start, size, there, f"{order}4sI"):
        remark = f"its header announces {size:,} bytes of samples, and {there:,} are there: all were read"
        size = there
    subtype = _RAW_SUBTYPES.get((coding, frame_bytes // max(channels, 1)))
    raw = None
    is_misleading = remark is not None or order == ">"
    # Where libraries refuse the rest of the header, its description of the samples has to be in order.
    if data and subtype and (is_misleading or bits * channels == 8 * frame_bytes):
        whole = min(size, there) // frame_bytes * frame_bytes
        raw = RawSamples(
            start=data.start, size=whole, subtype=subtype, is_big_endian=order == ">", remark=remark
        )
    elif order == ">":
        raise AudioReadError(path, "it is a big-endian wav (RIFX) of a coding that is not supported")
    return ChunkHeader(
        container="wav",
        sample_rate=rate,
        channels=channels,
        coding=coding,
        missing_bytes=_missing(path, data, size, file_bytes),
        block_bytes=frame_bytes,
        raw=raw,
        is_misleading=is_misleading,
    )


def _says_nothing(file: CallbackFile, start: int, size: int, there: int, prefix: str) -> bool:
    """Whether the ``size`` of samples that ``there`` bytes begin with at ``start`` is no size of theirs.

    Who cannot go back, or was killed before, leaves 0 or a largest number; of more than 4 GiB a size is what
    is left after as many whole ones. A recording that was cut off announces what it had.
    """
    if size >= there:
        return size > there and any(size in sizes for sizes in _OPEN_ENDS)
    behind = there - size
    if size and behind <= size:
        return False
    for position in (start + size, start + size + 1):  # a pad byte may be there or lack
        file.seek(position)
        head = file.read(8)
        if head.startswith(_BEHIND) or (size and behind <= _PADDING and not any(head)):
            return False
        if len(head) == 8:
            name, following = struct.unpack(prefix, head)
            is_name = name.isascii() and name.decode("ascii").isprintable()
            if is_name and following <= behind:
                return False
    return True


_SSND_HEAD = 8
"""Bytes of the chunk before the samples: an offset and a block's size."""


def _aiff_header(file: CallbackFile, path: str) -> ChunkHeader:
    chunks = _chunks(file, 12, ">4sI", b"SSND")
    file_bytes = file.seek(0, os.SEEK_END)
    body = _described(path, chunks, b"COMM", 18)
    # The rate is an 80-bit IEEE 754 number: sign and exponent, then the mantissa with its leading one.
    channels, frames, bits, exponent, mantissa = struct.unpack_from(">HIHHQ", body)
    coding = body[18:22] or b"NONE"
    samples = chunks.get(b"SSND")
    size = samples.size if samples else 0
    there = file_bytes - samples.start if samples else 0
    remark = raw = None
    told = 0 if size <= _SSND_HEAD else size
    if samples and there > _SSND_HEAD and _says_nothing(file, samples.start, told, there, ">4sI"):
        announced, found = max(0, size - _SSND_HEAD), there - _SSND_HEAD
        # Another chunk may still say how many they are.
        described = frames * channels * -(-bits // 8)
        found = described if 0 < described < found else found
        remark = (
            f"its header announces {announced:,} bytes of samples, and {found:,} are there: all were read"
        )
        size = found + _SSND_HEAD
    subtype = _AIFF_SUBTYPES.get(coding) or f"PCM_{'S' if bits <= 8 else ''}{-(-bits // 8) * 8}"
    if remark and channels and (coding in _AIFF_SUBTYPES or coding in (b"NONE", b"twos", b"sowt")):
        start = samples.start + _SSND_HEAD if samples else 0
        raw = RawSamples(
            start=start,
            size=size - _SSND_HEAD,
            subtype=subtype,
            is_big_endian=coding != b"sowt",
            remark=remark,
        )
    return ChunkHeader(
        container="aiff",
        sample_rate=mantissa * 2.0 ** min((exponent & 0x7FFF) - 16383 - 63, 64),
        channels=channels,
        coding=coding,
        missing_bytes=_missing(path, samples, size, file_bytes),
        raw=raw,
        is_misleading=raw is not None,
    )


_AIFF_SUBTYPES = {
    b"fl32": "FLOAT", b"FL32": "FLOAT", b"fl64": "DOUBLE", b"FL64": "DOUBLE", b"in24": "PCM_24",
    b"ulaw": "ULAW", b"ULAW": "ULAW", b"alaw": "ALAW", b"ALAW": "ALAW",
}  # fmt: skip


def _caf_header(path: str, chunks: Mapping[bytes, _Chunk], file_bytes: int) -> ChunkHeader:
    rate, coding, channels = struct.unpack_from(">d4s12xI", _described(path, chunks, b"desc", 32))
    samples = chunks.get(b"data")
    return ChunkHeader(
        container="caf",
        sample_rate=rate,
        channels=channels,
        coding=coding,
        missing_bytes=_missing(path, samples, samples.size if samples else 0, file_bytes),
    )


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


TAGGED_BEFORE = (b"RIFF", b"RF64", b"RIFX", b"FORM", b"caff", b"fLaC", b"OggS")
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
