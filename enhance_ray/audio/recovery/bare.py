"""mp3 and AAC (ADTS) behind damage: every frame has a header, by which the next one is found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
from av.packet import Packet

from enhance_ray.audio.formats import AudioInfo, Block
from enhance_ray.audio.headers import end_of_id3
from enhance_ray.audio.recovery.salvage import Bytes, FrameReader, Loss, note, silence
from enhance_ray.audio.storage import LIBAV_ERRORS, CallbackFile
from enhance_ray.errors import AudioReadError

_SURE = 4
"""Frames of one kind in a row that are no accident."""
_HEADER_BYTES = 8
_STEP = 2**16


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a header says."""

    codec: str
    size: int
    samples: int
    sample_rate: int

    @property
    def kind(self) -> tuple[str, int, int]:
        """What all frames of a recording share."""
        return self.codec, self.samples, self.sample_rate


class BareSalvage:
    """The frames of an mp3 or an AAC without a container that are whole."""

    def __init__(self, file: CallbackFile, path: str) -> None:
        """Find the first frames.

        Raises:
            AudioReadError: there are no frames of one kind in a row.
        """
        self._file = file
        self._bytes = Bytes(file, end_of_id3(file), file.seek(0, 2))
        self.losses: list[Loss] = []
        self.remarks: list[str] = []
        self._first = self._next_sure(self._bytes.start, None)
        if self._first is None:
            raise AudioReadError(path, "no frames of mp3 or AAC (ADTS) were found in it")
        position, frame = self._first
        self._kind = frame.kind
        decoder: Any = av.CodecContext.create(frame.codec, "r")
        frames = []
        for _ in range(2 * _SURE):  # what it says of channels, a decoder says best
            with contextlib.suppress(*LIBAV_ERRORS):
                frames += decoder.decode(Packet(self._bytes(position, frame.size)))
            position += frame.size
            frame = _frame_at(self._bytes(position, _HEADER_BYTES)) or frame
        if not frames:
            raise AudioReadError(path, "none of its frames could be decoded")
        self.info = AudioInfo(
            path=path,
            container=frame.codec,
            codec=frame.codec,
            sample_format="f32",
            sample_rate=frames[-1].sample_rate,
            channels=frames[-1].layout.nb_channels,
            frames=None,
            seconds=None,
            bit_rate=None,
            tags={},
            has_video=False,
        )

    def pieces(self) -> Iterator[Block]:
        """Yield what is whole; in place of a frame that is found and cannot be decoded, silence."""
        decoder: Any = av.CodecContext.create(self._kind[0], "r")
        read = FrameReader(self.info)
        place, end = self._bytes.start, 0
        written = frames = size_of_all = 0
        found = self._first
        while found is not None:
            position, frame = found
            at = written / self.info.sample_rate
            if position > place:
                self._lose(at, position - place, size_of_all / frames if frames else None)
            data = self._bytes(position, frame.size)
            frames, size_of_all = frames + 1, size_of_all + frame.size
            try:
                decoded = decoder.decode(Packet(data))
            except LIBAV_ERRORS:
                if not _describes(data):
                    # HE-AAC has twice the rate that its headers say.
                    length = frame.samples * self.info.sample_rate // frame.sample_rate
                    written += length
                    note(
                        self.losses,
                        Loss(
                            at=at,
                            reason="frames are damaged",
                            seconds=length / self.info.sample_rate,
                            is_silence=True,
                            bytes=frame.size,
                        ),
                    )
                    yield from silence(self.info, length)
            else:
                for piece in read(decoded):
                    written += piece.shape[1]
                    yield piece
            place = end = position + frame.size
            following = self._frame(place)
            found = (place, following) if following is not None else self._next_sure(place, self._kind)
        if end < self._bytes.end and not _is_tag(self._bytes(end, 16)):
            rest = self._bytes.end - end
            self._lose(written / self.info.sample_rate, rest, size_of_all / frames if frames else None)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _lose(self, at: float, size: int, mean: float | None) -> None:
        head = self._bytes(self._bytes.start, 4)
        if mean is None and (not any(head) or _is_tag(head)) and size < _STEP:
            return  # padding or a tag before the first frame
        seconds = None if mean is None else size / mean * self._kind[1] / self._kind[2]
        self.losses.append(Loss(at=at, reason="no frame begins there", seconds=seconds, bytes=size))

    def _frame(self, position: int) -> _Frame | None:
        """The frame at ``position``, where it is one of this recording and another one or the end follows."""
        frame = _frame_at(self._bytes(position, _HEADER_BYTES))
        if frame is None or frame.kind != self._kind or position + frame.size > self._bytes.end:
            return None
        behind = position + frame.size
        head = self._bytes(behind, _HEADER_BYTES)
        if len(head) < _HEADER_BYTES or _is_tag(head):
            return frame
        following = _frame_at(head)
        return (
            frame if following is not None and following.kind == self._kind else self._last(position, frame)
        )

    def _last(self, position: int, frame: _Frame) -> _Frame | None:
        """``frame`` stands before damage: it is whole where no other frame begins within it."""
        data = self._bytes(position, frame.size)
        inside = self._next_sure(position + 1, self._kind, position + len(data))
        return frame if inside is None else None

    def _next_sure(
        self, position: int, kind: tuple[str, int, int] | None, end: int | None = None
    ) -> tuple[int, _Frame] | None:
        """Where the next of several frames in a row begins, of ``kind`` or of any."""
        end = self._bytes.end if end is None else end
        while position < end:
            data = self._bytes(position, _STEP)
            start = 0
            while (found := data.find(b"\xff", start)) >= 0 and position + found < end:
                frame = self._sure(position + found, kind)
                if frame is not None:
                    return position + found, frame
                start = found + 1
            position += len(data) or 1
        return None

    def _sure(self, position: int, kind: tuple[str, int, int] | None) -> _Frame | None:
        first = None
        is_known = kind is not None
        for _ in range(_SURE):
            frame = _frame_at(self._bytes(position, _HEADER_BYTES))
            if frame is None:
                # The last frames of a file are sure with fewer behind them.
                return first if is_known and position >= self._bytes.end - _HEADER_BYTES else None
            if kind is not None and frame.kind != kind:
                return None
            first, kind = first or frame, frame.kind
            position += frame.size
        return first if position <= self._bytes.end else None


_MP3_BIT_RATES = {
    # By version (1 or 2) and layer, in kbit/s.
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_AAC_RATES = (
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350,
)  # fmt: skip


def _frame_at(head: bytes) -> _Frame | None:
    """What the header in ``head`` says (ISO 11172-3, 2.4.1.3; ISO 13818-7, 6.2); None where it is none."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    layer = 4 - (head[1] >> 1 & 3)
    if layer == 4:
        rate = head[2] >> 2 & 15
        size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if head[1] & 0xF0 != 0xF0 or rate >= len(_AAC_RATES) or size < _HEADER_BYTES:
            return None
        return _Frame("aac", size, 1024 * ((head[6] & 3) + 1), _AAC_RATES[rate])
    version, bit_rate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if layer == 1 or version == 1 or bit_rate in (0, 15) or rate == 3:
        return None
    sample_rate = _MP3_RATES[version][rate]
    samples = 576 if layer == 3 and version != 3 else 1152
    kilobits = _MP3_BIT_RATES[1 if version == 3 else 2, layer][bit_rate]
    size = samples // 8 * 1000 * kilobits // sample_rate + (head[2] >> 1 & 1)
    return _Frame("mp3" if layer == 3 else "mp2", size, samples, sample_rate)


def _describes(data: bytes) -> bool:
    """Whether a frame of an mp3 is the one that tells how long the file is, and holds no sound."""
    return any(name in data[:256] for name in (b"Xing", b"Info", b"VBRI"))


def _is_tag(head: bytes) -> bool:
    return head.startswith((b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN"))
