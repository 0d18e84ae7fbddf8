"""Who works on what: one small actor beside the driver, which outlives the actors that work.

Two things need such a memory. Progress is one. The other is a file that kills every process which opens it
(a codec's bug, memory without end): it is seen by nothing but the deaths around it. An actor says what it is
about to open; when a part comes back because its actor died, what was open in it is suspect, and is tried
again alone. If that kills a process, too, it is the one: it gets a record and is never opened again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

KILLS = 2
"""Processes that die with a file before it is given up, if it was alone in the last one."""
LOSSES = 5
"""The same, machines that were lost with it included: those are rarely its fault."""


class Opened(NamedTuple):
    """A file that an actor is about to open."""

    part: str
    name: str
    alone: bool
    """Whether the actor has nothing else open meanwhile."""


class Closed(NamedTuple):
    """A file that an actor has a record of."""

    part: str
    name: str
    failed: bool
    bytes: int


@dataclass(slots=True)
class Attempt:
    """What an actor that begins a part has to know."""

    suspects: set[str] = field(default_factory=set)
    """Files to open with nothing else open."""
    condemned: set[str] = field(default_factory=set)
    """Files not to open."""


@dataclass(slots=True)
class ActorStats:
    """One process, from its start until it was heard of last."""

    node: str
    started: float
    """Time since the epoch."""
    seen: float
    seconds_done: float = 0.0
    """Of audio written, that of files under way included."""
    model_seconds: float = 0.0


@dataclass(slots=True)
class Snapshot:
    """A run at one moment."""

    actors: dict[str, ActorStats]
    """All that ever were, by name."""
    done: int
    failed: int
    bytes: int
    """Of the files that are finished."""
    deaths: int
    """Actors lost."""
    parts_open: int
    """Parts that actors have begun."""


@dataclass(slots=True)
class _Suspicion:
    kills: int = 0
    losses: int = 0

    def is_proven(self, alone: bool) -> bool:
        return alone and (self.kills >= KILLS or self.kills + self.losses >= LOSSES)


class Ledger:
    """Kept by a Ray actor; knows nothing of Ray."""

    def __init__(self, node_is_alive: Callable[[str], bool]) -> None:
        self._node_is_alive = node_is_alive
        self._actors: dict[str, ActorStats] = {}
        self._open: dict[str, dict[tuple[str, str], bool]] = {}  # by actor: (part, name) -> alone
        self._worker_of: dict[str, str] = {}  # parts that were begun and have not ended
        self._suspicions: dict[tuple[str, str], _Suspicion] = {}
        self._condemned: dict[str, set[str]] = {}  # by part
        self._counts: Counter[str] = Counter()
        self._dead: set[str] = set()
        self._stop: str | None = None

    def begin(self, part: str, actor: str, node: str) -> Attempt:
        """An actor begins ``part``; perhaps because another one died with it."""
        previous = self._worker_of.get(part)
        if previous is not None and previous != actor:
            self._bury(previous, part)
        self._worker_of[part] = actor
        self._greet(actor, node)
        suspects = {name for of, name in self._suspicions if of == part}
        condemned = self._condemned.get(part, set())
        return Attempt(suspects - condemned, set(condemned))

    def note(
        self,
        actor: str,
        node: str,
        opened: Sequence[Opened] = (),
        closed: Sequence[Closed] = (),
        seconds_done: float | None = None,
        model_seconds: float = 0.0,
    ) -> str | None:
        """Take news of an actor; returns what it shall do: go on (None), "drain" or "abort"."""
        stats = self._greet(actor, node)
        files = self._open.setdefault(actor, {})
        for file in closed:
            files.pop((file.part, file.name), None)
            self._suspicions.pop((file.part, file.name), None)
            self._counts["failed" if file.failed else "done"] += 1
            self._counts["bytes"] += file.bytes
        files.update({(file.part, file.name): file.alone for file in opened})
        if seconds_done is not None:
            stats.seconds_done, stats.model_seconds = seconds_done, model_seconds
        return self._stop

    def end(self, part: str) -> None:
        """An actor is through with ``part``, be it complete or left."""
        self._worker_of.pop(part, None)
        self._condemned.pop(part, None)

    def stop(self, how: str) -> None:
        """From now on tell all actors: "drain" finishes what is open, "abort" leaves it."""
        self._stop = how

    def snapshot(self) -> Snapshot:
        """All in numbers."""
        done, failed, size = (self._counts[name] for name in ("done", "failed", "bytes"))
        return Snapshot(dict(self._actors), done, failed, size, len(self._dead), len(self._worker_of))

    def _greet(self, actor: str, node: str) -> ActorStats:
        now = time.time()
        stats = self._actors.setdefault(actor, ActorStats(node, now, now))
        stats.seen = now
        return stats

    def _bury(self, actor: str, part: str) -> None:
        self._dead.add(actor)
        files = self._open.get(actor, {})
        by_itself = self._node_is_alive(self._actors[actor].node)
        for (of, name), alone in list(files.items()):
            if of != part:
                continue  # its part comes back, too
            del files[(of, name)]
            suspicion = self._suspicions.setdefault((part, name), _Suspicion())
            if by_itself:
                suspicion.kills += 1
            else:
                suspicion.losses += 1
            if suspicion.is_proven(alone):
                self._condemned.setdefault(part, set()).add(name)
                del self._suspicions[(part, name)]
