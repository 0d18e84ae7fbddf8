"""What libav resumes behind damage by itself: its time stamps tell what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from enhance_ray.audio.decoding import Decoder
from enhance_ray.audio.demuxed import LibavSource
from enhance_ray.audio.formats import Block
from enhance_ray.audio.recovery.salvage import SILENCE_SECONDS, FrameReader, Loss, silence
from enhance_ray.audio.storage import LIBAV_ERRORS, CallbackFile
from enhance_ray.errors import explain

_LEAST_GAP = 0.02
"""Seconds: shorter ones are the jitter of time stamps that are rounded."""


class ResumedSalvage:
    """Every frame of a flac, an Ogg or another container that libav still finds."""

    def __init__(self, file: CallbackFile, path: str) -> None:
        """Open the file.

        Raises:
            AudioReadError: libav makes nothing of it.
        """
        self._file = file
        self._source = LibavSource(file, path)
        self.info = self._source.info
        self.losses: list[Loss] = []
        self.remarks: list[str] = []
        self._unread: str | None = None

    def pieces(self) -> Iterator[Block]:
        """Yield what is found; silence in place of what the time stamps say is missing."""
        info, read = self.info, FrameReader(self.info)
        written, rejected, shift = 0, 0, None
        for packet in self._source.demux(self._break_off):
            try:
                frames = packet.decode()
            except LIBAV_ERRORS:
                rejected += packet.size
                continue
            for frame in frames:
                at = written / info.sample_rate
                if frame.time is not None:
                    shift = frame.time if shift is None else shift
                    gap = frame.time - shift - at
                    if gap > _LEAST_GAP:
                        fills = gap <= SILENCE_SECONDS
                        self._lose(at, gap, rejected, fills=fills)
                        if fills:
                            length = round(gap * info.sample_rate)
                            written += length
                            yield from silence(info, length)
                        else:
                            shift += gap
                        rejected = 0
                if rejected:
                    self._lose(at, None, rejected, fills=False)
                    rejected = 0
                for piece in read([frame]):
                    written += piece.shape[1]
                    yield piece
        at = written / info.sample_rate
        if self._unread is not None:
            self.losses.append(Loss(at=at, reason=f"the rest cannot be read ({self._unread})"))
            return
        missing = (info.seconds or 0.0) - at if info.frames is not None else 0.0
        if missing > _LEAST_GAP or rejected:
            self._lose(at, missing if missing > _LEAST_GAP else None, rejected, fills=False)

    def close(self) -> None:
        """Let the file go."""
        self._source.close()
        self._file.close()

    def _lose(self, at: float, seconds: float | None, size: int, *, fills: bool) -> None:
        reason = "frames are damaged" if size else "frames are missing"
        self.losses.append(Loss(at=at, reason=reason, seconds=seconds, is_silence=fills, bytes=size or None))

    def _break_off(self, error: Exception) -> None:
        self._unread = explain(error)


class DecodedSalvage:
    """What `decode` gives of a file in spite of its damage: plain samples to their end."""

    def __init__(self, decoder: Decoder) -> None:
        """Take over an open decoder that keeps partial results."""
        self._decoder = decoder
        self.info = decoder.info
        self.losses: list[Loss] = []
        self.remarks: list[str] = []

    def pieces(self) -> Iterator[Block]:
        """Yield its blocks."""
        written = 0
        for block in self._decoder:
            written += block.shape[1]
            yield block
        at = written / self.info.sample_rate
        self.losses += [Loss(at=at, reason=reason) for reason in self._decoder.damage]
        self.remarks += [self._decoder.remark] if self._decoder.remark else []

    def close(self) -> None:
        """Let the file go."""
        self._decoder.close()
