"""How far a run has come: what its file threads tell, added up."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from enhance_ray.records import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far `enhance_files` has come."""

    files_total: int | None
    """None where the jobs come from an iterator of unknown length."""
    files_done: int
    """With an output, from this run or an earlier one."""
    files_failed: int
    seconds_done: float
    """Of audio written by this run."""
    seconds_elapsed: float
    """Since this run began."""
    model_seconds: float
    """Of those, how many the model ran."""
    fraction: float | None
    """Of the files, those that are open counted by their share; None where the total is unknown."""

    @property
    def rtf(self) -> float | None:
        """Seconds that passed per second of audio; None before the first audio."""
        return self.seconds_elapsed / self.seconds_done if self.seconds_done else None

    @property
    def seconds_left(self) -> float | None:
        """Expected until the end, if the rest goes as it went so far; None while nothing is known."""
        if not self.fraction:
            return None
        return self.seconds_elapsed * (1 - self.fraction) / self.fraction


@dataclass(frozen=True, slots=True)
class Opened:
    """A file thread has opened an input of so many seconds."""

    input: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Written:
    """A file thread has written so many seconds more of an output."""

    input: str
    seconds: float


class Tally:
    """Adds up what the file threads tell, for the progress callback."""

    def __init__(self, files_total: int | None, progress: Callable[[Progress], None] | None) -> None:
        self._files_total = files_total
        self._progress = progress
        self._started = time.perf_counter()
        self._finished: Counter[str] = Counter()
        self._lengths: dict[str, float | None] = {}  # of inputs that are open
        self._written: defaultdict[str, float] = defaultdict(float)  # seconds, of the same
        self._seconds_done = 0.0
        self.model_seconds = 0.0

    def note(self, message: Opened | Written) -> None:
        """A file was opened, or more of its output is written."""
        if isinstance(message, Opened):
            self._lengths[message.input] = message.seconds
        else:
            self._written[message.input] += message.seconds
            self._seconds_done += message.seconds
        self._call()

    def close(self, record: Record) -> None:
        """A file is done with, as ``record`` says."""
        self._finished["failed" if record.status == "failed" else "done"] += 1
        self._lengths.pop(record.input, None)
        self._written.pop(record.input, None)
        self._call()

    def _call(self) -> None:
        if self._progress is None:
            return
        self._progress(
            Progress(
                files_total=self._files_total,
                files_done=self._finished["done"],
                files_failed=self._finished["failed"],
                seconds_done=self._seconds_done,
                seconds_elapsed=time.perf_counter() - self._started,
                model_seconds=self.model_seconds,
                fraction=self._fraction(),
            )
        )

    def _fraction(self) -> float | None:
        if not self._files_total:
            return None
        shares = [min(1.0, self._written[name] / length) for name, length in self._lengths.items() if length]
        # fsum: the order of the open files, which changes as they close, must not make it step back.
        return math.fsum([self._finished.total(), *shares]) / self._files_total
