"""What became of every input: one `Record` each, as JSON lines.

They are also the memory of a run. `append_record` returns when the line is on the disk, so a run that is
killed and started again finds everything it finished.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.settings.schema import readable

JOB_FOLDER = "_enhance_ray"
"""Where a bulk job's own files are, below its output."""


def covered(names: Iterable[str]) -> set[str]:
    """The parts whose records a bulk job's merged tables hold, by the tables' names."""
    parts = set()
    for name in names:
        first, last = name.removesuffix(".parquet").split("..")
        start, stop = (int(part.removeprefix("part-")) for part in (first, last))
        parts |= {f"part-{number:05d}" for number in range(start, stop + 1)}
    return parts


_SURROGATES = re.compile("[\ud800-\udfff]")


@readable
@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The outcome of one input."""

    input: str
    output: str | None = None
    status: Literal["done", "failed", "skipped"]
    """`skipped`: an earlier run had done it."""
    code: str | None = None
    """The error's stable word for programs (see `errors`); None unless failed."""
    reason: str | None = None
    """The error's sentence for people; None unless failed."""
    warning: str | None = None
    """What is not as it should be with an output all the same: the input broke off, the gain was limited."""
    seconds: float = 0.0
    """Length of the input's audio."""
    seconds_spent: float = 0.0
    """This input's share of the work, in seconds."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds that passed in each stage: ``decode`` (with reading), ``prepare`` (resampling, levels, joints),
    ``wait`` for the model's answers, ``encode`` (with writing); and in ``model``, its share of that time."""
    output_bytes: int | None = None
    """Size of the output."""
    sample_rate: int | None = None
    """Of the input, in Hz."""
    channels: int | None = None
    """Of the input."""
    peak_in: float | None = None
    """Largest magnitude in dBFS; None where it is not known or the audio is silent."""
    peak_out: float | None = None
    peak_reduction: float = 0.0
    """By how many dB a limiter lowered peaks at most, to reach a loudness or to fit into the format."""
    loudness_in: float | None = None
    """Integrated loudness in LUFS (ITU-R BS.1770-4); None where it is not known or all is below the gate."""
    loudness_out: float | None = None
    model: str | None = None
    """Fingerprint of the weights."""
    options: dict[str, Any] = field(default_factory=dict)
    guard: list[dict[str, Any]] = field(default_factory=list)
    """Where a guard kept another version than the one that was asked for: `guard.Span` as mappings."""
    scores: dict[str, float] = field(default_factory=dict)
    """Where asked for: by name of the metric (see `metrics.RECORDED`) with `_in` or `_out` behind it."""

    @property
    def rtf(self) -> float | None:
        """Seconds of work per second of audio; None where there was no audio."""
        return self.seconds_spent / self.seconds if self.seconds > 0 else None


def to_json(record: Record) -> str:
    """One line of JSON without its newline. JSON has no infinity: a level of -inf dB is written as null.

    A name of a file that is no UTF-8 is written by escapes, which JSON's readers turn back into that name.
    """
    tree = {key: _plain_number(value) for key, value in trees.to_tree(record).items()}
    tree["scores"] = {name: score for name, score in record.scores.items() if math.isfinite(score)}
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False)
    return text if is_utf8(text) else json.dumps(tree, allow_nan=False)


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8; names of files that are none hold surrogates."""
    return not _SURROGATES.search(text)


def from_json(line: str, where: str = "record") -> Record:
    """The record that `to_json` wrote.

    Raises:
        ConfigError: names ``where`` and what is wrong with the line.
    """
    try:
        tree = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(where, f"is not JSON: {error}") from error
    return trees.from_tree(Record, tree, where=where)


def append_record(path: str | Path, record: Record) -> None:
    """Add ``record`` to the report at ``path``; when this returns, a power cut no longer loses it.

    A last line that an interrupted run left torn is replaced. One process writes a report at a time.
    """
    line = f"{to_json(record)}\n".encode()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("ab+") as file:
        _drop_torn_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_records(path: str | Path) -> list[Record]:
    """All records of the report at ``path``, in order. A last line without its newline is torn, and left out.

    Raises:
        ConfigError: the file cannot be read, or a finished line is no record; names the line.
    """
    try:
        text = (
            Path(path).read_bytes().decode("utf-8", errors="replace")
        )  # a torn line may end within a character
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from error
    lines = text.split("\n")[:-1]
    return [from_json(line, f"{path}: line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _drop_torn_line(file: Any) -> None:
    """Cut an open file back to its last newline."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _plain_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """A run in numbers."""

    done: int
    failed: int
    skipped: int
    seconds: float
    """Of audio in what was done."""
    seconds_spent: float
    """On what was done."""

    @property
    def rtf(self) -> float | None:
        """Seconds of work per second of audio; None where nothing was done."""
        return self.seconds_spent / self.seconds if self.seconds > 0 else None


def totals(records: Iterable[Record]) -> Totals:
    """Add up ``records``."""
    by_status: dict[str, list[Record]] = {"done": [], "failed": [], "skipped": []}
    for record in records:
        by_status[record.status].append(record)
    return Totals(
        **{status: len(group) for status, group in by_status.items()},
        seconds=sum(record.seconds for record in by_status["done"]),
        seconds_spent=sum(record.seconds_spent for record in by_status["done"]),
    )
