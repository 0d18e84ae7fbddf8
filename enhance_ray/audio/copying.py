"""What of a video is copied as it is, packet by packet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from enhance_ray.audio.formats import AudioInfo
from enhance_ray.audio.libav import open_container, readable
from enhance_ray.audio.storage import LIBAV_ERRORS, Patience, open_input
from enhance_ray.errors import explain


class Copy:
    """Picture, subtitles and other sounds of a recording, on their way to another container as they are."""

    def __init__(
        self,
        output: Any,
        source: AudioInfo,
        patience: Patience | None,
        add_restored: Callable[[], Any],
        *,
        has_picture: bool,
    ) -> None:
        """Give ``output`` a stream for each of them, in their order.

        Args:
            output: container of libav.
            source: what is copied from.
            patience: with its storage.
            add_restored: gives ``output`` the stream of the sound that is restored.
            has_picture: whether moving pictures have a place in the output.
        """
        self._output = output
        self._file = open_input(source.path, patience)
        self._container: Any = None
        self._streams: dict[int, Any] = {}
        lost, places = [], output.supported_codecs
        try:
            self._file.seek(0)
            self._container = open_container(self._file)
            restored = self._container.streams.audio[source.track - 1]
            for stream in self._container.streams:
                if stream is restored:
                    self.restored = add_restored()
                    self._describe(self.restored, stream)
                    continue
                if stream.type == "video" and not has_picture:
                    continue
                if stream.type == "attachment":  # of mkv alone, such as fonts of subtitles
                    if output.format.name == "matroska":
                        output.add_attachment(stream.name, stream.mimetype, stream.data)
                    else:
                        lost.append("an attachment")
                    continue
                if stream.type not in ("video", "audio", "subtitle"):
                    continue  # data: an index of chapters, which is made anew, or a camera's log
                if stream.codec_context is None or stream.codec_context.codec.canonical_name not in places:
                    lost.append(f"a track of {stream.type}")
                    continue
                copied = output.add_stream_from_template(stream, opaque=True)
                self._describe(copied, stream)
                self._streams[stream.index] = copied
        except BaseException:
            self.close()
            raise
        self.remark: str | None = None
        if lost:
            self.remark = (
                f"{' and '.join(lost)} could not be copied: the container of the output has no place"
            )
        chosen = [self._container.streams[index] for index in self._streams]
        self._packets = self._container.demux(*chosen) if chosen else iter(())
        self._waiting: Any = None

    @staticmethod
    def _describe(copied: Any, stream: Any) -> None:
        """Language, title and role."""
        copied.metadata.update({k: readable(value) for k, value in stream.metadata.items()})
        copied.disposition = stream.disposition

    def until(self, seconds: float) -> None:
        """Copy what stands before ``seconds`` on the clock of the source."""
        while (packet := self._waiting or self._next()) is not None:
            self._waiting = packet
            at = packet.dts if packet.dts is not None else packet.pts
            if at is not None and float(at * packet.time_base) > seconds:
                return
            self._waiting = None
            packet.stream = self._streams[packet.stream.index]
            self._output.mux(packet)

    def _next(self) -> Any:
        try:
            while (packet := next(self._packets, None)) is not None:
                if packet.size:  # the last of a stream is empty
                    return packet
        except LIBAV_ERRORS as error:
            self._file.raise_error()
            self.remark = f"its picture breaks off ({explain(error)})"
            self._packets = iter(())
        return None

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._file.close()
