"""All sounds of a file that has several: in one output where that can hold them, else in one for each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Protocol

from enhance_ray.audio.formats import TRACK_CONTAINERS
from enhance_ray.records import Record
from enhance_ray.settings.options import ALL_TRACKS, EnhanceOptions


@dataclass(frozen=True, slots=True)
class TrackJob:
    """One sound of a file, on its way from one file to another."""

    source: str
    output: str
    track: int
    named: str
    """The output of all, whose name says the format."""

    @property
    def is_last(self) -> bool:
        """Whether it writes that output itself."""
        return self.output == self.named


class Restore(Protocol):
    """Restores one sound; the others are copied as they are, where the output can hold them."""

    def __call__(self, job: TrackJob) -> Record:
        """Its record."""
        ...


def restore_tracks(source: str, output: str, languages: Sequence[str], restore: Restore) -> Record:
    """Restore all sounds of ``source``, in their order.

    Args:
        source: the file.
        output: where it goes; where that holds one sound, its names get the language or the number of each.
        languages: of its sounds, empty where unknown.
        restore: does the work for one of them.
    """
    numbers = range(1, len(languages) + 1)
    if not holds_tracks(output):
        names = track_outputs(output, languages)
        records = [restore(TrackJob(source, name, n, name)) for n, name in zip(numbers, names, strict=True)]
        listed = ", ".join(PurePosixPath(name).name for name in names)
        return _joined(
            records, names[0], f"its {len(names)} audio tracks are in files of their own: {listed}"
        )
    # Each pass restores one and copies all else, so that no more than one is decoded and encoded at a time.
    with tempfile.TemporaryDirectory(prefix="enhance-ray-") as folder:
        records = []
        place = source
        for number in numbers:
            written = output if number == len(languages) else f"{folder}/{number}.mkv"
            records.append(restore(TrackJob(place, written, number, output)))
            place = written
    return _joined(records, output, None)


def holds_tracks(output: str) -> bool:
    """Whether a file of that name can hold several sounds."""
    return PurePosixPath(output).suffix.lower().removeprefix(".") in (*TRACK_CONTAINERS, "m4v")


def track_outputs(output: str, languages: Sequence[str]) -> list[str]:
    """show.wav as show.eng.wav and show.deu.wav; or as show.1.wav and so on, where languages do not tell."""
    extension = PurePosixPath(output).suffix
    tags = list(languages)
    if len(set(tags)) < len(tags) or not all(tag and tag != "und" and tag.isalnum() for tag in tags):
        tags = [str(number) for number in range(1, len(tags) + 1)]
    return [f"{output.removesuffix(extension)}.{tag}{extension}" for tag in tags]


def is_output_of(written: str | None, output: str, options: EnhanceOptions) -> bool:
    """Whether an earlier run's ``written`` is what a job for ``output`` writes first."""
    if written is None or written == output or options.audio_track != ALL_TRACKS:
        return written == output
    extension = PurePosixPath(output).suffix
    stem = output.removesuffix(extension)
    return written.startswith(f"{stem}.") and written.endswith(extension)


def _joined(records: Sequence[Record], output: str, word: str | None) -> Record:
    """One record for a file of several sounds: levels are those of the first, work and words those of all."""
    words = [record.warning for record in records]
    if len(set(words)) == 1:  # what is said of the file itself
        warnings = list(filter(None, words[:1]))
    else:
        warnings = [f"track {number}: {text}" for number, text in enumerate(words, 1) if text]
    stages: dict[str, float] = {}
    for record in records:
        for stage, seconds in record.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return replace(
        records[0],
        output=output,
        warning="; ".join([*([word] if word else []), *warnings]) or None,
        seconds=max(record.seconds for record in records),
        seconds_spent=sum(record.seconds_spent for record in records),
        stages=stages,
        output_bytes=records[-1].output_bytes if word is None else sum(r.output_bytes or 0 for r in records),
        peak_reduction=max(record.peak_reduction for record in records),
    )
