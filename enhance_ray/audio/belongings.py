"""What of a recording's video, tags, chapters and cover its output does not hold, by what was written."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from enhance_ray.audio.formats import AudioInfo
from enhance_ray.audio.libav import read_belongings
from enhance_ray.audio.storage import open_input
from enhance_ray.audio.wavs import NAMES

_NAMED = 5
"""Tags that are named; of more, their number is."""


def lost_belongings(
    source: AudioInfo, written: Path, chunks: Mapping[bytes, bytes], *, holds_video: bool
) -> list[str]:
    """What people are to be told of.

    Args:
        source: what it was made of.
        written: the complete file.
        chunks: of `AudioInfo.chunks`, those that have no place in it.
        holds_video: whether a moving picture was copied into it.
    """
    lost = ["its video"] if source.has_video and not holds_video else []
    if not (source.tags or source.chapters or source.cover or chunks):
        return lost
    with contextlib.closing(open_input(str(written))) as file:
        tags, chapters, cover = read_belongings(file)
    if source.cover is not None and cover is None:
        lost.append("its cover")
    if source.chapters and not chapters and b"cue " not in source.chunks:
        lost.append("its chapters")
    # Formats have names of their own for them.
    values = {value.strip() for value in tags.values()}
    kept = {name for name, value in source.tags.items() if name in tags or value.strip() in values}
    names = sorted(source.tags.keys() - kept)
    if len(names) > _NAMED:
        lost.append(f"{len(names)} of its tags")
    elif names:
        lost.append(f"its tags {', '.join(names)}")
    lost += [text for name, text in NAMES.items() if name in chunks and not (name in _MARKERS and chapters)]
    return lost


def lost_in_stream(source: AudioInfo, container: str) -> str | None:
    """The same of what is written in order, in one pass: tags come with it, but for those of a wav."""
    lost = ["its video"] if source.has_video else []
    lost += ["its cover"] if source.cover is not None else []
    lost += ["its chapters"] if source.chapters else []
    lost += ["its tags"] if source.tags and container == "wav" else []
    lost += [text for name, text in NAMES.items() if name in source.chunks and name not in _MARKERS]
    return f"a streamed output has no place for {', '.join(lost)}" if lost else None


_MARKERS = (b"cue ", b"adtl")
"""Which are chapters elsewhere."""
