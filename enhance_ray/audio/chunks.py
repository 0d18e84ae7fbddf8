"""Where the samples of a wav, aiff, caf, w64 or au file stand, and how many of those told are not there."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from enhance_ray.audio.storage import CallbackFile
from enhance_ray.errors import AudioReadError


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkHeader:
    """What stands around the samples of a wav, aiff, caf, w64 or au file."""

    container: str
    sample_rate: float
    channels: int
    coding: int | bytes
    """Format tag of wav and w64, compression type of aiff, format id of caf; of au only if it is plain."""
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
_BEHIND = (
    b"TAG",
    b"ID3",
    b"APETAGEX",
    b"LIST",
    b"list",
    b"id3 ",
    b"RIFF",
    b"RIFX",
    b"FORM",
    b"caff",
    b".snd",
)
"""What stands behind the samples, be it a proper chunk or not; or zeros, up to `_PADDING`."""
_PADDING = 2**20


def read_chunk_header(file: CallbackFile, path: str) -> ChunkHeader | None:
    """Read the structure of a wav, aiff, caf, w64 or au file; None for anything else.

    libsndfile corrects in silence a header that announces more than there is, so that a file which
    breaks off looks whole: hence this second look. Formats: RIFF/WAVE (Microsoft 1991), RF64 (EBU
    Tech 3306), BW64 (ITU-R BS.2088), AIFF(-C) (Apple 1989), CAF (Apple 2006), Wave64 (Sony 2006), AU (Sun).
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:] == b"WAVE":
        return _wav_header(file, path, ">" if head[:4] == b"RIFX" else "<")
    if head == b"riff" + _GUIDS[b"riff"][:8]:
        return _w64_header(file, path)
    if head[:4] == b".snd":
        return _au_header(file, path)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _aiff_header(file, path)
    if head[:4] == b"caff":
        return _caf_header(file, path)
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


def _missing(path: str, samples: _Chunk | None, size: int, there: int) -> int:
    if samples is None:
        raise AudioReadError(path, "it breaks off before the first sample")
    return max(0, size - there)


def _wav_header(file: CallbackFile, path: str, order: str) -> ChunkHeader:
    chunks = _chunks(file, 12, f"{order}4sI", b"data")
    data = chunks.get(b"data")
    size = data.size if data else 0
    if size == _OPEN_END and b"ds64" in chunks:  # RF64 keeps it elsewhere
        (size,) = struct.unpack_from("<8xQ", _described(path, chunks, b"ds64", 16))
    there = file.seek(0, os.SEEK_END) - data.start if data else 0
    says_nothing = bool(data and there and _says_nothing(file, data.start, size, there, f"{order}4sI"))
    return _described_as_wav(path, "wav", chunks, order, size, there, says_nothing=says_nothing)


def _described_as_wav(
    path: str,
    container: str,
    chunks: Mapping[bytes, _Chunk],
    order: str,
    size: int,
    there: int,
    *,
    says_nothing: bool,
) -> ChunkHeader:
    """Of a file whose samples are described as in a wav: ``size`` bytes are announced, and ``there`` are."""
    body = _described(path, chunks, b"fmt ", 16)
    coding, channels, rate, _, frame_bytes, bits = struct.unpack_from(f"{order}HHIIHH", body)
    if coding == _EXTENSIBLE and len(body) >= 26:
        (coding,) = struct.unpack_from(f"{order}H", body, 24)
    data = chunks.get(b"data")
    remark = _remark(size, there) if says_nothing else None
    size = there if says_nothing else size
    subtype = _RAW_SUBTYPES.get((coding, frame_bytes // max(channels, 1)))
    raw = None
    is_misleading = says_nothing or order == ">"
    # Where libraries refuse the rest of the header, its description of the samples has to be in order.
    if data and subtype and (is_misleading or bits * channels == 8 * frame_bytes):
        whole = min(size, there) // frame_bytes * frame_bytes
        raw = RawSamples(
            start=data.start, size=whole, subtype=subtype, is_big_endian=order == ">", remark=remark
        )
    elif order == ">":
        raise AudioReadError(path, "it is a big-endian wav (RIFX) of a coding that is not supported")
    return ChunkHeader(
        container=container,
        sample_rate=rate,
        channels=channels,
        coding=coding,
        missing_bytes=_missing(path, data, size, there),
        block_bytes=frame_bytes,
        raw=raw,
        is_misleading=is_misleading,
    )


def _remark(size: int, there: int) -> str:
    return f"its header announces {size:,} bytes of samples, and {there:,} are there: all were read"


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
        head = file.read(length := struct.calcsize(prefix))
        if head.startswith(_BEHIND) or (size and behind <= _PADDING and not any(head)):
            return False
        if len(head) == length:
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
        remark = _remark(announced, found)
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
        missing_bytes=_missing(path, samples, size, there),
        raw=raw,
        is_misleading=raw is not None,
    )


_AIFF_SUBTYPES = {
    b"fl32": "FLOAT", b"FL32": "FLOAT", b"fl64": "DOUBLE", b"FL64": "DOUBLE", b"in24": "PCM_24",
    b"ulaw": "ULAW", b"ULAW": "ULAW", b"alaw": "ALAW", b"ALAW": "ALAW",
}  # fmt: skip


_CAF_FLOAT, _CAF_LITTLE = 1, 2  # flags of plain samples in a caf


def _caf_header(file: CallbackFile, path: str) -> ChunkHeader:
    chunks = _chunks(file, 8, ">4sq", b"data")
    body = _described(path, chunks, b"desc", 32)
    rate, coding, flags, frame_bytes, _, channels, bits = struct.unpack_from(">d4s5I", body)
    data = chunks.get(b"data")
    start = data.start + _EDIT_COUNT if data else 0
    there = max(0, file.seek(0, os.SEEK_END) - start)
    # -1 is what is in order there for samples that go on to the end of the file.
    size = max(0, data.size - _EDIT_COUNT) if data and data.size >= 0 else there
    says_nothing = bool(data and there and _says_nothing(file, start, size, there, ">4sq"))
    raw = None
    # libsndfile reads none of these.
    is_misleading = says_nothing or size > there or bool(data and data.size < 0)
    kind = 3 if flags & _CAF_FLOAT else 1
    subtype = "PCM_S8" if (kind, bits) == (1, 8) else _RAW_SUBTYPES.get((kind, bits // 8))
    if is_misleading and coding == b"lpcm" and subtype and frame_bytes == channels * bits // 8:
        raw = RawSamples(
            start=start,
            size=there // frame_bytes * frame_bytes,
            subtype=subtype,
            is_big_endian=not flags & _CAF_LITTLE,
            remark=_remark(size, there) if says_nothing else None,
        )
    return ChunkHeader(
        container="caf",
        sample_rate=rate,
        channels=channels,
        coding=coding,
        missing_bytes=_missing(path, data, there if says_nothing else size, there),
        raw=raw,
        is_misleading=raw is not None,
    )


_EDIT_COUNT = 4
"""Bytes of a caf's chunk of samples before them."""
_GUIDS = {
    b"riff": bytes.fromhex("2e91cf11a5d628db04c10000"),
    **dict.fromkeys((b"wave", b"fmt ", b"data"), bytes.fromhex("f3acd3118cd100c04f8edb8a")),
}
"""What follows the names of chunks in a w64."""
_W64_OPEN = 2**62  # bytes: a size beyond it is what programs write that do not know it


def _w64_header(file: CallbackFile, path: str) -> ChunkHeader:
    chunks: dict[bytes, _Chunk] = {}
    position = 40  # behind the size of all and the name of the form
    while not chunks.keys() >= {b"fmt ", b"data"}:
        file.seek(position)
        head = file.read(24 + 64)
        if len(head) < 24:
            break
        (size,) = struct.unpack_from("<q", head, 16)
        chunks[head[:4]] = _Chunk(position + 24, size - 24, head[24:])
        if size < 24 or size >= _W64_OPEN:
            break
        position += size + -size % 8
    data = chunks.get(b"data")
    size = max(0, data.size) if data else 0
    there = file.seek(0, os.SEEK_END) - data.start if data else 0
    says_nothing = there > 0 and (size == 0 or size >= _W64_OPEN)
    header = _described_as_wav(path, "w64", chunks, "<", size, there, says_nothing=says_nothing)
    # libsndfile reads on to the end of the file, whatever is there.
    return dataclasses.replace(header, is_misleading=header.raw is not None)


_AU_SUBTYPES = {
    1: "ULAW", 2: "PCM_S8", 3: "PCM_16", 4: "PCM_24", 5: "PCM_32", 6: "FLOAT", 7: "DOUBLE", 27: "ALAW",
}  # fmt: skip


def _au_header(file: CallbackFile, path: str) -> ChunkHeader | None:
    file.seek(4)
    head = file.read(20)
    if len(head) < 20:
        raise AudioReadError(path, "its header is cut short, or does not describe the samples")
    start, size, coding, rate, channels = struct.unpack(">5I", head)
    if (subtype := _AU_SUBTYPES.get(coding)) is None or not 1 <= channels <= _MOST_CHANNELS:
        return None  # libav knows more of them
    there = max(0, file.seek(0, os.SEEK_END) - start)
    is_open = size == _OPEN_END  # which is in order there
    says_nothing = not is_open and there > 0 and _says_nothing(file, start, size, there, ">4sI")
    width = channels * _WIDTHS[subtype]
    whole = (there if is_open or says_nothing else min(size, there)) // width * width
    return ChunkHeader(
        container="au",
        sample_rate=rate,
        channels=channels,
        coding=b"NONE",
        missing_bytes=0 if is_open or says_nothing else max(0, size - there),
        raw=RawSamples(
            start=start,
            size=whole,
            subtype=subtype,
            is_big_endian=True,
            remark=_remark(size, there) if says_nothing else None,
        ),
        is_misleading=True,  # libraries do not look at the size
    )


_MOST_CHANNELS = 255
_WIDTHS = {
    "ULAW": 1, "ALAW": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
"""Bytes of a sample."""
