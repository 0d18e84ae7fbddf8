"""Encoding: blocks in, a complete file or none out."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from enhance_ray.audio.belongings import lost_belongings
from enhance_ray.audio.covers import add_cover
from enhance_ray.audio.formats import MAX_CHANNELS, AudioInfo, Block, OutputFormat
from enhance_ray.audio.sinks import ENCODING_ERRORS, LibavSink, Sink, VorbisSink
from enhance_ray.audio.storage import (
    FILE_ERRORS,
    CallbackFile,
    Patience,
    exists,
    is_remote,
    local_path,
    publish,
    write_error,
)
from enhance_ray.audio.wavs import append_chunks, markers_of
from enhance_ray.errors import AudioWriteError, explain

if sys.platform != "win32":
    import fcntl


def encode(
    path: str,
    *,
    sample_rate: int,
    channels: int,
    target: OutputFormat,
    tags: Mapping[str, str] | None = None,
    source: AudioInfo | None = None,
    force: bool = False,
    patience: Patience | None = None,
) -> Encoder:
    """Open ``path``, a local path or an fsspec URI, for writing; it appears when it is complete.

        with encode("clean.flac", sample_rate=44_100, channels=1, target=target) as output:
            output.write(block)

    Args:
        path: where the file goes; folders that lack are made. Its name does not choose the format.
        sample_rate: of the blocks, in Hz. Where the codec does not have it (Opus is at 48 kHz, mp3
            ends there), the file is resampled to the next rate that it has; its duration stays.
        channels: of the blocks.
        target: container, codec, sample format, bit rate.
        tags: written where the container has a place for them; by default those of ``source``.
        source: what the recording is made of. Its tags, chapters and cover are kept where the container has
            a place for them, and in a video container its picture, subtitles and other sounds are copied as
            they are; `Encoder.remark` says what was not.
        force: replace a file that exists.
        patience: with a remote storage that fails; by default none.

    Raises:
        AudioWriteError: it exists and ``force`` is not set, it cannot be written, or the codec does
            not take so many channels.
    """
    tags = dict(source.tags if tags is None and source is not None else tags or {})
    reference = tags.get("time_reference", "")
    if source is not None and reference.isdecimal():  # Broadcast Wave's, in samples
        tags["time_reference"] = str(round(int(reference) * Fraction(sample_rate, source.sample_rate)))
    return Encoder(
        path,
        sample_rate=sample_rate,
        channels=channels,
        target=target,
        tags=tags,
        source=source,
        force=force,
        patience=patience or Patience(),
    )


_TEMPORARY_PREFIX = ".enhance-ray-"


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete what killed processes left half written in a local ``folder`` and below it.

    What a living process writes is locked, and stays.
    """
    removed = []
    for path in Path(folder).rglob(f"{_TEMPORARY_PREFIX}*.part.*"):
        with path.open("rb") as file:
            if _lock(file):
                path.unlink()
                removed.append(path)
    return removed


def _lock(file: IO[bytes]) -> bool:
    """Lock an open file for this process until it is closed; False if another one has it locked."""
    if sys.platform == "win32":  # an open file cannot be deleted there in the first place
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Encoder:
    """Takes the blocks of one file; made by `encode`.

    Leaving the ``with`` completes the file and renames it into place; an exception removes it.
    """

    def __init__(
        self,
        path: str,
        *,
        sample_rate: int,
        channels: int,
        target: OutputFormat,
        tags: Mapping[str, str],
        source: AudioInfo | None,
        force: bool,
        patience: Patience,
    ) -> None:
        most = 2 if target.codec in ("mp3", "vorbis") else MAX_CHANNELS
        if not 1 <= channels <= most:
            raise AudioWriteError(path, f"{target.codec} holds 1 to {most} channels, not {channels}")
        self._path = path
        self._target_path = local_path(path)
        self._channels = channels
        self._force = force
        self._patience = patience
        self._frames = 0
        self.bytes: int | None = None
        """Size of the file; known when it is complete."""
        self._refuse_existing()
        self._temporary = self._name_temporary(target.extension)
        try:
            self._raw = self._temporary.open("w+b")
            _lock(self._raw)  # says that somebody is at it; see remove_leftovers
        except OSError as error:
            raise AudioWriteError(path, explain(error)) from error
        self._file = CallbackFile(self._raw, path, write_error)
        self._source = source
        self._sample_rate, self._sample_format = sample_rate, target.sample_format
        self._container, self._holds_video = target.container, target.is_video
        self.remark: str | None = None
        """What of the source has no place in the output; known when it is complete."""
        try:
            self._sink: Sink = (
                VorbisSink(self._file, sample_rate, channels, tags)
                if target.codec == "vorbis"
                else LibavSink(self._file, sample_rate, channels, target, tags, source, patience)
            )
        except BaseException as error:
            self._raw.close()
            self._temporary.unlink()
            if isinstance(error, ENCODING_ERRORS):
                raise AudioWriteError(path, f"it cannot be encoded so: {explain(error)}") from error
            raise

    def _name_temporary(self, extension: str) -> Path:
        """A hidden name beside a local target, and among this machine's temporary files for a remote one.

        Makes the folder of a local target.
        """
        name = f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}.part{extension}"
        if is_remote(self._target_path):
            return Path(tempfile.gettempdir()) / name
        folder = Path(self._target_path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"its folder cannot be made: {explain(error)}"
            above = (each for each in (folder, *folder.parents) if each.exists() and not each.is_dir())
            if (file := next(above, None)) is not None:
                reason = f"its folder cannot be made: {file} is none"
            raise AudioWriteError(self._path, reason) from error
        return folder / name

    def _refuse_existing(self) -> None:
        if self._force:
            return
        try:
            if is_remote(self._target_path):
                is_there = exists(self._target_path, self._patience)
            else:  # a link that leads nowhere is there, too
                is_there = os.path.lexists(self._target_path)
        except FILE_ERRORS as error:
            raise write_error(self._path, f"it cannot be looked up: {explain(error)}", error) from error
        if is_there:
            raise AudioWriteError(self._path, "it exists", "--force overwrites it")

    def write(self, block: Block) -> None:
        """Append float32 samples of shape (channel, time), full scale at 1, where integers are clipped.

        Raises:
            AudioWriteError: the disk is full or gone, or the codec does not take rate or channels.
            ValueError: the shape is wrong, or the samples are not finite.
        """
        if block.ndim != 2 or block.shape[0] != self._channels:
            raise ValueError(f"a block must be of shape ({self._channels}, time), got {block.shape}")
        if not np.isfinite(block).all():
            raise ValueError("a block holds NaN or infinite samples")
        try:
            self._sink.write(block.astype(np.float32, copy=False))
        except ENCODING_ERRORS as error:
            raise AudioWriteError(self._path, explain(error)) from error
        self._frames += block.shape[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._complete()
                self._publish()
        finally:
            self._discard()

    def _complete(self) -> None:
        if not self._frames:
            raise AudioWriteError(self._path, "there are no samples to write")
        try:
            self._sink.finish()
            self._raw.flush()
            self.remark = self._sink.remark
            if self._source is not None:
                self._add_belongings(self._source)
            self.bytes = self._raw.seek(0, os.SEEK_END)
            os.fsync(self._raw.fileno())
            self._raw.close()
        except ENCODING_ERRORS as error:
            raise AudioWriteError(self._path, explain(error)) from error

    def _add_belongings(self, source: AudioInfo) -> None:
        """Write what libav does not, and say what has no place."""
        if source.cover is not None:
            add_cover(self._temporary, self._container, source.cover)
        chunks: Mapping[bytes, bytes] = source.chunks
        if self._container == "wav":
            if b"cue " not in chunks:
                chunks = {**chunks, **markers_of(source.chapters, source.sample_rate)}
            ratio = Fraction(self._sample_rate, source.sample_rate)
            bits = int(self._sample_format[1:])
            chunks = {} if not chunks or append_chunks(self._raw, chunks, ratio, bits) else chunks
            self._raw.flush()
        lost = lost_belongings(source, self._temporary, chunks, holds_video=self._holds_video)
        if lost:
            words = f"the output has no place for {', '.join(lost)}"
            self.remark = f"{self.remark}; {words}" if self.remark else words

    def _publish(self) -> None:
        self._refuse_existing()  # another process may have been faster
        try:
            publish(self._temporary, self._target_path, self._patience)
        except FILE_ERRORS as error:
            raise write_error(self._path, explain(error), error) from error

    def _discard(self) -> None:
        """Leave nothing behind but what was published."""
        with contextlib.suppress(*ENCODING_ERRORS):  # of a file that is thrown away
            self._sink.close()
            self._raw.close()
        self._temporary.unlink(missing_ok=True)
