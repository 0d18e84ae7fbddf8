"""Decoding: two libraries behind one stream of blocks, and the search for damage."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from enhance_ray.audio.chains import find_flacs, find_links
from enhance_ray.audio.covers import read_id3_tags
from enhance_ray.audio.formats import MAX_SAMPLE, AudioInfo, Block
from enhance_ray.audio.headers import TAGGED_BEFORE, end_of_id3, read_ogg_pages
from enhance_ray.audio.libav import regroup
from enhance_ray.audio.sources import BlockSource, ChainedSource, open_source
from enhance_ray.audio.storage import CallbackFile, Patience, Window, open_input, read_error
from enhance_ray.audio.wavs import read_chunks
from enhance_ray.errors import AudioReadError


def probe(path: str) -> AudioInfo:
    """Read the header of ``path``, a local path or an fsspec URI.

    Raises:
        AudioReadError: it cannot be read, is not audio, is empty, or its header makes no sense.
    """
    with decode(path, partial=True) as decoder:
        return decoder.info


def decode(
    path: str,
    *,
    block_seconds: float = 10.0,
    partial: bool = False,
    data: bytes | None = None,
    patience: Patience | None = None,
    track: int | str | None = None,
) -> Decoder:
    """Open ``path``, a local path or an fsspec URI, for one pass over its samples in bounded memory.

        with decode("talk.mp3") as blocks:
            for block in blocks: ...

    Args:
        path: what to read; remote files are read by ranges.
        block_seconds: length of every block but the last.
        partial: keep what a damaged file still gives, and say so in `Decoder.warning`. Without it
            damage is an error, raised where it is found: blocks may have been yielded before.
        data: the file's content, where it is in memory; ``path`` is then what it is called.
        patience: with a remote storage that fails; by default none.
        track: of several sounds in one file, the number of one, from 1, or the language of one; by default
            the one that players choose, with a word in `Decoder.warning`.

    Raises:
        AudioReadError: as `probe`; there is no such track; and while iterating, where the file is damaged.
    """
    return Decoder(
        path, block_seconds=block_seconds, partial=partial, data=data, patience=patience, track=track
    )


_READ_AHEAD = 2**17
"""Bytes that libFLAC may have read beyond the last frame."""


class Decoder:
    """Blocks of one file, once, in order; made by `decode`.

    Iterating yields float32 arrays (channel, time) at the file's rate, all of the same length but the last.
    """

    info: AudioInfo

    def __init__(
        self,
        path: str,
        *,
        block_seconds: float,
        partial: bool,
        data: bytes | None = None,
        patience: Patience | None = None,
        track: int | str | None = None,
    ) -> None:
        if block_seconds <= 0:
            raise ValueError(f"block_seconds must be positive, got {block_seconds}")
        self._path = path
        self._partial = partial
        self._track = track
        self._before: dict[str, str] = {}
        self._damage: list[str] = []
        self._file = (
            open_input(path, patience) if data is None else CallbackFile(io.BytesIO(data), path, read_error)
        )
        try:
            self._source = self._open()
        except BaseException:
            self._file.close()
            raise
        info = self._source.info
        tags = {**self._before, **info.tags}
        position = self._file.tell()  # which the library takes for granted
        chunks = read_chunks(self._file) if info.container == "wav" else {}
        self._file.seek(position)
        self.info = dataclasses.replace(info, tags=tags, chunks=chunks)
        self._block_frames = max(1, round(block_seconds * self.info.sample_rate))

    def _leave_id3_out(self) -> None:
        """Where ID3 tags stand before a header that libraries look for at the start, begin behind them."""
        start = end_of_id3(self._file)
        self._file.seek(start)
        if not start or self._file.read(4) not in TAGGED_BEFORE:
            return
        self._file.seek(0)
        self._before = read_id3_tags(self._file)
        window: Any = Window(self._file, start, self._file.seek(0, os.SEEK_END) - start)
        self._file = CallbackFile(window, self._path, read_error)

    def _open(self) -> BlockSource:
        if not self._file.seek(0, os.SEEK_END):
            raise AudioReadError(self._path, "it is empty (0 bytes)")
        self._leave_id3_out()
        try:
            links = find_links(self._file)
            self._file.seek(0)
            source: BlockSource = (
                ChainedSource(self._file, self._path, links, is_whole=True)
                if len(links) > 1
                else open_source(self._file, self._path, self._track)
            )
        except AudioReadError:
            self._file.raise_error()  # if there is one, it is the reason for the other
            raise
        if source.info.frames == 0:
            source.close()
            raise AudioReadError(self._path, "it has no samples")
        return source

    @property
    def damage(self) -> Sequence[str]:
        """With ``partial``, all that is wrong with it, as far as it was read."""
        return tuple(self._damage)

    @property
    def remark(self) -> str | None:
        """What is odd about the file, and does no harm."""
        return self._source.remark

    @property
    def warning(self) -> str | None:
        """What is odd about the file; with ``partial`` also what is wrong with it, as far as it was read.
        None where nothing is."""
        more = f" (and {len(self._damage) - 1} more places)" if len(self._damage) > 1 else ""
        damage = self._damage[0] + more if self._damage else None
        return "; ".join(filter(None, [self._source.remark, damage])) or None

    def __iter__(self) -> Iterator[Block]:
        if self.info.container == "ogg":
            self._check_ogg()
        empty = True
        for block in regroup(self._checked(), self._block_frames):
            empty = False
            yield block
        if empty:
            raise AudioReadError(self._path, "nothing in it could be decoded")

    def _check_ogg(self) -> None:
        position = self._file.tell()  # which the library takes for granted
        pages = read_ogg_pages(self._file)
        self._file.raise_error()
        self._file.seek(position)
        if pages.fault is not None:
            self._on_damage(pages.fault)
        if len(pages.links) > 1:
            self._source.close()
            self._source = ChainedSource(self._file, self._path, pages.links, is_whole=pages.fault is None)

    def _pieces(self) -> Iterator[Block]:
        yield from self._source.pieces(self._on_damage)
        if self.info.container == "flac":
            # Where it ends is known when it was read; its library has read a little on.
            links = find_flacs(self._file, max(0, self._file.tell() - _READ_AHEAD))
            if links:
                rest = ChainedSource(self._file, self._path, links, is_whole=True, like=self.info)
                try:
                    yield from rest.pieces(self._on_damage)
                finally:
                    rest.close()

    def _checked(self) -> Iterator[Block]:
        position = 0
        for piece in self._pieces():
            believed = np.abs(piece) <= MAX_SAMPLE  # false for NaN
            if believed.all():
                yield piece
            else:
                first = int(np.argmin(believed.all(axis=0)))
                seconds = (position + first) / self.info.sample_rate
                self._on_damage(f"it holds NaN, infinite or absurdly large samples at {seconds:.1f} s")
                yield np.where(believed, piece, np.float32(0))
            position += piece.shape[1]

    def _on_damage(self, reason: str) -> None:
        if not self._partial:
            raise AudioReadError(self._path, reason, "--partial keeps what could be decoded")
        self._damage.append(reason)

    def close(self) -> None:
        self._source.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
