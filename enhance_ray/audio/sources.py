"""What a file is decoded by: libsndfile where the content suits it, libav for the rest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from enhance_ray.audio.chunks import read_chunk_header
from enhance_ray.audio.demuxed import LibavSource
from enhance_ray.audio.formats import AudioInfo, Block, OnDamage
from enhance_ray.audio.headers import flac_length_is_open
from enhance_ray.audio.libav import check_sense
from enhance_ray.audio.sndfile import SoundfileSource
from enhance_ray.audio.storage import CallbackFile, Window, read_error
from enhance_ray.errors import AudioReadError


class BlockSource(Protocol):
    info: AudioInfo
    remark: str | None
    """What is odd about the file, and does no harm."""

    def pieces(self, on_damage: OnDamage) -> Iterator[Block]:
        """Samples in order, in pieces of any length."""
        ...

    def close(self) -> None: ...


def open_source(file: CallbackFile, path: str, track: int | str | None = None) -> BlockSource:
    """libsndfile where the content suits it, libav for the rest."""
    source = _opened_source(file, path, track)
    # A file with one sound has no choice, and often no language.
    if isinstance(track, int) and track != source.info.track:
        source.close()
        raise AudioReadError(path, f"it has one audio track, and not number {track}")
    return source


def _opened_source(file: CallbackFile, path: str, track: int | str | None) -> BlockSource:
    header = read_chunk_header(file, path)
    if header is not None:
        check_sense(path, header.sample_rate, header.channels)
        # libsndfile reads a wav or aiff that breaks off, and refuses a caf.
        if header.is_plain and (header.raw or not (header.container == "caf" and header.missing_bytes)):
            return SoundfileSource(file, path, header)
        return LibavSource(file, path, header.missing_bytes, trailing_bytes=header.block_bytes - 1)
    file.seek(0)
    head = file.read(64)
    if head.startswith(b"fLaC") and not flac_length_is_open(head):
        return SoundfileSource(file, path, None)
    if head.startswith(b"OggS") and b"\x01vorbis" in head:
        source = SoundfileSource(file, path, None)
        if source.info.frames:
            return source
        source.close()  # libsndfile finds no length in a file that breaks off
    return LibavSource(file, path, track=track)


class ChainedSource:
    """Recordings of one file that stand one behind the other, of which libraries give the first, or less."""

    remark: str | None = None

    def __init__(
        self,
        file: CallbackFile,
        path: str,
        starts: Sequence[int],
        *,
        is_whole: bool,
        like: AudioInfo | None = None,
    ) -> None:
        """Open them all; if the file is not whole, perhaps without the last one.

        Args:
            file: that holds them.
            path: what errors call it.
            starts: first byte of each.
            is_whole: whether none of them breaks off.
            like: one that stands before them.

        Raises:
            AudioReadError: one cannot be read, or they differ in what one output has one of.
        """
        stops = (*starts[1:], file.seek(0, os.SEEK_END))
        self._links: list[BlockSource] = []
        for start, stop in zip(starts, stops, strict=True):
            window: Any = Window(file, start, stop - start)
            try:
                self._links.append(open_source(CallbackFile(window, path, read_error), path))
            except AudioReadError:
                if is_whole or start != starts[-1]:
                    raise
        infos = [*([like] if like else []), *(link.info for link in self._links)]
        kinds = {(info.sample_rate, info.channels) for info in infos}
        if len(kinds) > 1:
            texts = " and ".join(f"{rate} Hz with {channels} channels" for rate, channels in sorted(kinds))
            self.close()
            raise AudioReadError(
                path, f"it is a chain of {len(infos)} recordings of {texts}: cut it up at their beginnings"
            )
        counts = [link.info.frames for link in self._links]
        frames = None if None in counts else sum(filter(None, counts))
        seconds = None if frames is None else frames / self._links[0].info.sample_rate
        self.info = dataclasses.replace(self._links[0].info, frames=frames, seconds=seconds)

    def pieces(self, on_damage: OnDamage) -> Iterator[Block]:
        for link in self._links:
            yield from link.pieces(on_damage)

    def close(self) -> None:
        for link in self._links:
            link.close()
