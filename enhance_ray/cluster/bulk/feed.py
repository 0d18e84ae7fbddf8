"""What an actor's engine takes its jobs from: parts go in, files come out, and each record finds its part.

`files.enhance_files` runs as long as the actor does and asks for a file whenever a thread is free, so the
next part's files begin while the last of this one are under way: the model does not wait for a part's end.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from enhance_ray.files import Job
from enhance_ray.records import Record

_ANNOUNCED_FILES = 8
_ANNOUNCED_BYTES = 32_000_000


@dataclass(frozen=True, slots=True, eq=False)
class FileTask:
    """One file to do."""

    job: Job
    part: Part
    name: str
    """What the ledger knows it by."""
    bytes: int = 0
    alone: bool = False
    """Nothing else may be open meanwhile."""
    about: Any = None
    """What its part wants to know again with the record."""


@dataclass(slots=True, eq=False)
class Part:
    """Files that are done together, as they come out of an iterator."""

    name: str
    tasks: Iterator[FileTask]
    answers: queue.SimpleQueue[tuple[FileTask, Record] | Callable[[], None] | BaseException | None] = field(
        default_factory=queue.SimpleQueue
    )
    """A record each, in the order of completion; what to call when all before it has been written down; None
    when there are no more files; an error where the engine ended before."""
    opened: int = 0
    """Files that came out so far; all, once None is in `answers`."""


class TaskFeed(Iterator[Job]):
    """An endless iterator of jobs. `files.enhance_files` has one thread at a time in it."""

    def __init__(self, announce: Callable[[Sequence[FileTask]], None], ahead: float = 1.0) -> None:
        """Make an empty one.

        Args:
            announce: called with files before the first of them is given out.
            ahead: announce so many times what is usual at once. After a death, what was announced is suspect.
        """
        self._announce = announce
        self._most_files, self._most_bytes = ahead * _ANNOUNCED_FILES, ahead * _ANNOUNCED_BYTES
        self._changed = threading.Condition()
        self._parts: deque[Part] = deque()
        self._open: dict[str, deque[FileTask]] = {}  # by input; two versions of one may be open
        self._ready: deque[FileTask] = deque()  # announced
        self._held: FileTask | None = None  # has to wait until nothing is open, and all is written down
        self._begun: set[Part] = set()
        self._unwritten: set[Part] = set()
        self._is_closed = False

    def add(self, part: Part) -> None:
        """Take another part; its files come after those of the parts before."""
        with self._changed:
            self._parts.append(part)
            self._begun.add(part)
            self._changed.notify_all()

    def remove(self, part: Part) -> None:
        """Forget ``part``, whose records are written down, or which was left."""
        with self._changed:
            self._begun.discard(part)
            self._unwritten.discard(part)
            self._changed.notify_all()

    def close(self) -> None:
        """Give out no more files."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def task_of(self, record: Record) -> FileTask:
        """The open file that ``record`` is about."""
        with self._changed:
            return self._open[record.input][0]

    def answer(self, task: FileTask, record: Record) -> None:
        """Pass on what became of a file. Another one may be opened at once."""
        with self._changed:
            tasks = self._open[record.input]
            tasks.remove(task)
            if not tasks:
                del self._open[record.input]
            self._changed.notify_all()
        task.part.answers.put((task, record))

    @property
    def files_open(self) -> int:
        """Files that were given out and have no record yet."""
        with self._changed:
            return sum(map(len, self._open.values()))

    def __next__(self) -> Job:
        task = self._next()
        if task is None:
            raise StopIteration
        with self._changed:
            if self._is_closed:
                raise StopIteration
            self._open.setdefault(task.job.input, deque()).append(task)
        return task.job

    def _next(self) -> FileTask | None:
        if not self._wait(lambda: not self._alone_is_open()):
            return None
        if not self._ready and self._held is None:
            self._fill()
        if self._ready:
            return self._ready.popleft()
        task, self._held = self._held, None
        if task is None or not self._wait(lambda: not self._open) or not self._wait_for_records():
            return None
        self._announce([task])
        return task

    def _wait_for_records(self) -> bool:
        """Have all parts write down what they have: a file that kills would cost that, too, each time."""
        with self._changed:
            self._unwritten = set(self._begun)
            for part in self._unwritten:
                part.answers.put(functools.partial(self._note_written, part))
        return self._wait(lambda: not self._unwritten)

    def _note_written(self, part: Part) -> None:
        with self._changed:
            self._unwritten.discard(part)
            self._changed.notify_all()

    def _fill(self) -> None:
        """Get the next few files, the announcement of which costs one message."""
        size = 0
        while len(self._ready) < self._most_files and size < self._most_bytes:
            task = self._pull(wait=not self._ready)
            if task is None:
                break
            if task.alone:
                self._held = task
                break
            self._ready.append(task)
            size += task.bytes
        if self._ready:
            self._announce(list(self._ready))

    def _pull(self, *, wait: bool) -> FileTask | None:
        while True:
            if wait and not self._wait(lambda: bool(self._parts)):
                return None
            with self._changed:
                if not self._parts:
                    return None
                part = self._parts[0]
            # Outside the lock: a part may have to fetch a file first.
            task = next(part.tasks, None)
            if task is not None:
                part.opened += 1
                return task
            with self._changed:
                self._parts.popleft()
            part.answers.put(None)

    def _wait(self, until: Callable[[], bool]) -> bool:
        """Wait; False if the feed was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or until())
            return not self._is_closed

    def _alone_is_open(self) -> bool:
        return any(task.alone for tasks in self._open.values() for task in tasks)
