"""Damaged recordings: what can be read of one as a sound file, with a report of what is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import PurePosixPath

from enhance_ray import audio
from enhance_ray.audio.libav import regroup
from enhance_ray.audio.recovery import Loss, open_damaged
from enhance_ray.errors import AudioReadError, ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """What became of a damaged recording."""

    input: str
    output: str
    codec: str
    seconds: float
    """Of the output."""
    sample_rate: int
    channels: int
    losses: tuple[Loss, ...]
    """In the order of time."""
    remarks: tuple[str, ...]
    """What else is to be told."""


def recover(path: str, output: str, *, like: str | None = None, force: bool = False) -> Recovery:
    """Write what can be read of the damaged file at ``path`` to ``output``, in bounded memory.

    Args:
        path: a local path or fsspec URI.
        output: likewise; a .wav or .flac.
        like: a whole recording of the same device, which says how an mp4 without an index is read, or a wav
            without a header.
        force: replace a file that exists.

    Raises:
        AudioError: nothing of it can be read, or the output cannot be written.
        ConfigError: ``output`` is no wav or flac.
    """
    extension = PurePosixPath(output).suffix.lower()
    if extension not in (".wav", ".flac"):
        raise ConfigError(output, "must end in .wav or .flac")
    with contextlib.closing(open_damaged(path, like)) as salvage:
        info = salvage.info
        blocks = regroup(salvage.pieces(), info.sample_rate)
        first = next(blocks, None)
        if first is None:
            raise AudioReadError(path, "nothing in it could be decoded")
        frames = 0
        with audio.encode(
            output,
            sample_rate=info.sample_rate,
            channels=info.channels,
            target=audio.output_format(info, extension[1:]),
            source=dataclasses.replace(info, has_video=False, tracks=1),
            force=force,
        ) as encoder:
            for block in itertools.chain([first], blocks):
                encoder.write(block)
                frames += block.shape[1]
        return Recovery(
            input=path,
            output=output,
            codec=info.codec,
            seconds=frames / info.sample_rate,
            sample_rate=info.sample_rate,
            channels=info.channels,
            losses=tuple(salvage.losses),
            remarks=tuple(salvage.remarks),
        )
