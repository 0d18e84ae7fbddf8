"""Sound whose description is lost, described by another file of the same device."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.packet import Packet

from enhance_ray.audio.formats import AudioInfo, Block
from enhance_ray.audio.libav import open_container, stored_as
from enhance_ray.audio.pipes import RawFormat, unpack
from enhance_ray.audio.recovery.salvage import Bytes, FrameReader, Loss
from enhance_ray.audio.storage import LIBAV_ERRORS, CallbackFile
from enhance_ray.errors import AudioReadError

_SURE = 3
"""Frames in a row that are no accident."""
_SCANNED = 2**16
_PADDING = 2**16
"""Bytes of zeros between frames that are nothing lost."""
_LEARNED = 200
"""Frames of the reference whose first bits are looked at."""


class UnindexedSalvage:
    """The frames of AAC in an mp4 or m4a that has no index: where each of them ends, the decoder finds.

    The index would say where frames begin. Of AAC a frame cannot be skipped without being decoded, so the
    shortest part that decodes is searched for by halving; a part that is too short is refused.
    """

    def __init__(self, file: CallbackFile, path: str, like: CallbackFile, like_path: str) -> None:
        """Read what ``like`` says of the sound.

        Raises:
            AudioReadError: ``like`` cannot be read, or its sound is no AAC; or no frame is found.
        """
        self._file = file
        self._regions = [Bytes(file, start, end) for start, end in find_media(file)]
        self.losses: list[Loss] = []
        self.remarks: list[str] = []
        self._reference = _described(like, like_path)
        self._probe = self._decoder()
        if all(self._next_sure(region, region.start) is None for region in self._regions):
            raise AudioReadError(path, f"no sound like that of {like_path} was found in it")
        self.info = AudioInfo(
            path=path,
            container="m4a",
            codec="aac",
            sample_format=stored_as(self._probe)[1],
            sample_rate=self._reference.sample_rate,
            channels=self._reference.channels,
            frames=None,
            seconds=None,
            bit_rate=None,
            tags={},
            has_video=False,
        )

    def pieces(self) -> Iterator[Block]:
        """Yield every frame that is found; what lies between them is lost."""
        decoder, read = self._decoder(), FrameReader(self.info)
        written = frames = size_of_all = passed = 0
        for region in self._regions:
            place = region.start
            while place < region.end:
                size = self._size(region, place)
                if size is None:
                    following = self._next_sure(region, place + 1)
                    following = region.end if following is None else following
                    passed += following - place
                    is_padding = following - place < _PADDING and not any(region(place, following - place))
                    if not is_padding and not self._reference.has_picture:
                        mean = size_of_all / frames if frames else 0
                        length = self._samples / self.info.sample_rate
                        loss = Loss(
                            at=written / self.info.sample_rate,
                            reason="no frame of sound begins there",
                            seconds=(following - place) / mean * length if mean else None,
                            bytes=following - place,
                        )
                        self.losses.append(loss)
                    place = following
                    continue
                decoded = []
                with contextlib.suppress(*LIBAV_ERRORS):  # what does not fit to the frame before
                    decoded = decoder.decode(Packet(region(place, size)))
                for piece in read(decoded):
                    written += piece.shape[1]
                    self._samples = piece.shape[1]
                    yield piece
                frames, size_of_all = frames + 1, size_of_all + size
                place += size
        if self._reference.has_picture and passed:
            self.remarks.append(
                f"{passed:,} bytes were taken for the picture; what sound is lost among them cannot be told"
            )

    _samples = 1024
    """Of a frame and channel; twice as many with a band that is made anew (HE-AAC)."""

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _decoder(self) -> Any:
        context: Any = av.CodecContext.create("aac", "r")
        context.extradata = self._reference.extra
        return context

    def _decodes(self, data: bytes) -> bool:
        try:
            frames = self._probe.decode(Packet(data))
        except LIBAV_ERRORS:
            return False
        kind = self._reference.sample_rate, self._reference.channels
        if frames and (frames[0].sample_rate, frames[0].layout.nb_channels) == kind:
            return True
        self._probe = self._decoder()  # which stays with what it was led to believe
        return False

    def _size(self, region: Bytes, position: int) -> int | None:
        """Bytes of the frame that begins at ``position``; None where none does."""
        # A decoder goes on with the frames behind, which takes time and tells nothing.
        data = region(position, self._reference.most_bytes)
        if not self._reference.beginning.match(data) or not self._decodes(data):
            return None
        too_few, enough = 0, len(data)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self._decodes(data[:middle]):
                enough = middle
            else:
                too_few = middle
        return enough if enough >= self._reference.least_bytes else None

    def _next_sure(self, region: Bytes, position: int) -> int | None:
        """Where the next of several frames in a row begins."""
        while data := region(position, _SCANNED):
            for match in self._reference.beginning.finditer(data):
                if self._is_sure(region, position + match.start()):
                    return position + match.start()
            position += len(data)
        return None

    def _is_sure(self, region: Bytes, position: int) -> bool:
        for _ in range(self._reference.in_a_row):
            size = self._size(region, position)
            if size is None:
                return False
            position += size
            if position >= region.end:
                break
        return True


@dataclass(frozen=True, slots=True)
class _Reference:
    """What another recording says of the sound."""

    extra: bytes
    """What decoders of AAC are told beforehand."""
    beginning: re.Pattern[bytes]
    """First bytes of frames: seven bits say what stands there, a channel, a pair of them or another thing."""
    least_bytes: int
    most_bytes: int
    """Of its frames, with some room."""
    in_a_row: int
    """Frames that stand together at least, before others of a picture."""
    has_picture: bool
    sample_rate: int
    channels: int


def _described(like: CallbackFile, path: str) -> _Reference:
    try:
        like.seek(0)
        with open_container(like) as container:
            stream = container.streams.audio[0]
            context = stream.codec_context
            if context.codec.canonical_name != "aac":
                codec = context.codec.canonical_name
                raise AudioReadError(path, f"it holds {codec}, and only AAC can be found without an index")
            packets = (packet for packet in container.demux(stream) if packet.size)
            learned = list(itertools.islice(packets, _LEARNED))
            frames = [frame for packet in learned for frame in packet.decode()]
            firsts = {bytes(packet)[0] & 0xFE for packet in learned}
            runs, end = [0], None
            for packet in learned:
                if packet.pos != end:
                    runs.append(0)
                runs[-1] += 1
                end = packet.pos + packet.size
            either = bytes(sorted(firsts | {first | 1 for first in firsts}))
            return _Reference(
                extra=bytes(context.extradata or b""),
                beginning=re.compile(b"[" + re.escape(either) + b"]"),
                least_bytes=min(packet.size for packet in learned) * 2 // 3,
                most_bytes=max(packet.size for packet in learned) * 3 // 2,
                in_a_row=min([_SURE, *runs[1:-1]]),
                has_picture=bool(container.streams.video),
                sample_rate=frames[-1].sample_rate,
                channels=frames[-1].layout.nb_channels,
            )
    except (IndexError, *LIBAV_ERRORS) as error:
        raise AudioReadError(path, "it cannot be read, and is to describe another file") from error


def find_media(file: CallbackFile) -> list[tuple[int, int]]:
    """First byte and end of what mp4's boxes of media hold; of what is left of them where it breaks off."""
    end, position, found = file.seek(0, os.SEEK_END), 0, []
    while position + 8 <= end:
        file.seek(position)
        head = file.read(16)
        size, name = struct.unpack_from(">I4s", head)
        start = position + 8
        if size == 1 and len(head) == 16:
            (size,), start = struct.unpack_from(">Q", head, 8), position + 16
        is_open = size < start - position or position + size > end
        if name == b"mdat":
            found.append((start, end if is_open else position + size))
        if is_open:
            break
        position += size
    return found


def has_index(file: CallbackFile) -> bool:
    """Whether an mp4 has a whole box that says where its frames are."""
    end, position = file.seek(0, os.SEEK_END), 0
    while position + 8 <= end:
        file.seek(position)
        head = file.read(16)
        size, name = struct.unpack_from(">I4s", head)
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack_from(">Q", head, 8)
        if size < 8 or position + size > end:
            return False
        if name in (b"moov", b"moof"):
            return True
        position += size
    return False


class HeadlessSalvage:
    """Plain samples whose header is lost: all that is there, stored as in another wav."""

    def __init__(self, file: CallbackFile, path: str, like: AudioInfo) -> None:
        """Find where the samples begin."""
        self._file = file
        stored = like.sample_format if like.sample_format in ("u8", "s8") else f"{like.sample_format}le"
        self._raw = RawFormat(stored, like.sample_rate, like.channels)
        file.seek(0)
        mark = file.read(2**16).find(b"data")
        self._start = mark + 8 if mark >= 0 else _HEADER
        frames = max(0, file.seek(0, os.SEEK_END) - self._start) // self._raw.bytes
        self.losses: list[Loss] = []
        self.remarks = [f"its samples were taken from byte {self._start} on, stored as those of {like.path}"]
        self.info = dataclasses.replace(
            like,
            path=path,
            frames=frames,
            seconds=frames / like.sample_rate,
            tags={},
            chapters=(),
            cover=None,
        )

    def pieces(self) -> Iterator[Block]:
        """Yield all samples."""
        self._file.seek(self._start)
        width = self._raw.bytes
        while data := self._file.read(width * self.info.sample_rate):
            samples = unpack(data[: len(data) // width * width], self._raw)
            yield np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        self._file.raise_error()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


_HEADER = 44
"""Bytes before the samples of the usual wav."""
