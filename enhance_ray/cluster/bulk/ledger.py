"""Who works on what: one small actor beside the driver, which outlives the actors that work.

It gives out the leases under which parts of the manifest are done, and publishes their tables of records:
`docs/bulk_protocol.md` has the protocol in one table. Since it does one thing at a time, no part has two
holders, and who has lost a lease cannot commit beside the successor.

It also knows the files that kill every process which opens them (a codec's bug, memory without end); they
are seen by nothing but the deaths around them. An actor says what it has open; when a part comes back because
its actor died, what was open in it is suspect, and is tried again alone. If that kills `KILLS` processes,
too, it is the one: it gets a record and is never opened again. One would not do: where processes are killed
all the time, by spot markets or by memory that others take, some innocent file is always open.
"""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

KILLS = 3
"""Processes that die with a file alone before it is given up."""
LOSSES = 5
"""The same, machines that were lost with it included: those are rarely its fault."""
_PAUSE_SECONDS = 5.0
"""If nobody calls for so long, then nobody could: that silence is held against no actor."""

Order = Literal["drain", "abort", "lost"]
"""What an actor is told: finish what is open; leave it; or that its leases are gone, and it shall end."""


class Opened(NamedTuple):
    """A file that an actor has open, or is about to open."""

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


class Count(NamedTuple):
    """Files that are finished, and their bytes."""

    done: int = 0
    failed: int = 0
    bytes: int = 0

    def plus(self, other: Count) -> Count:
        """The sum of both."""
        return Count(self.done + other.done, self.failed + other.failed, self.bytes + other.bytes)


class Taken(NamedTuple):
    """What a ticket stands for."""

    part: str | None
    """None where nothing is left, or nothing that this kind of actors should begin."""


@dataclass(slots=True)
class Assignment:
    """What an actor that begins a part has to know."""

    suspects: set[str] = field(default_factory=set)
    """Files to open with nothing else open."""
    condemned: set[str] = field(default_factory=set)
    """Files not to open."""


@dataclass(slots=True)
class ActorStats:
    """One process, from its start until it was heard of last."""

    node: str
    pid: int
    started: float
    """Time since the epoch."""
    seen: float
    seconds_done: float = 0.0
    """Of audio written, that of files under way included."""
    model_seconds: float = 0.0
    kind: int = 0
    """Which of the job's kinds of actors (`BulkConfig.by_kind`)."""


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
    """Parts that living actors hold a lease of."""
    parts_waiting: int = 0
    """Parts that nobody has taken."""

    @property
    def hours(self) -> defaultdict[int, float]:
        """That actors were there, by their kind."""
        hours: defaultdict[int, float] = defaultdict(float)
        for actor in self.actors.values():
            hours[actor.kind] += (actor.seen - actor.started) / 3600
        return hours

    @property
    def actor_hours(self) -> float:
        """That actors were there."""
        return sum(self.hours.values())


@dataclass(slots=True)
class _Suspicion:
    """Deaths around a file that was alone; those beside others make it suspect and prove nothing."""

    kills: int = 0
    losses: int = 0

    @property
    def is_proven(self) -> bool:
        return self.kills >= KILLS or self.kills + self.losses >= LOSSES


@dataclass(slots=True)
class _Lease:
    attempt: str
    actor: str
    count: Count = field(default_factory=Count)
    """Records on the storage when the attempt began, and those made since."""


@dataclass(slots=True)
class _Memory:
    """What a ledger that is started again has to know."""

    actors: dict[str, ActorStats] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)  # silent without a lease
    tickets: dict[str, str] = field(default_factory=dict)  # -> part, until that has ended
    taken: int = 0  # of the parts on offer
    leases: dict[str, _Lease] = field(default_factory=dict)  # by part
    open: dict[str, dict[tuple[str, str], bool]] = field(
        default_factory=dict
    )  # by actor: (part, name) -> alone
    suspicions: dict[tuple[str, str], _Suspicion] = field(default_factory=dict)
    condemned: dict[str, set[str]] = field(default_factory=dict)  # by part
    ended: Count = field(default_factory=Count)  # of parts that have ended
    stop: Order | None = None


class Ledger:
    """Kept by a Ray actor; knows nothing of Ray."""

    def __init__(
        self,
        node_is_alive: Callable[[str], bool],
        publish: Callable[[str, str], bool],
        *,
        lease_seconds: float,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin, or go on where the one before with the same ``file`` was killed.

        Args:
            node_is_alive: whether a machine is part of the cluster.
            publish: make what an attempt has staged the records of its part (`JobState.publish`).
            lease_seconds: an actor that is not heard of for so long is given up.
            file: where to remember, on this machine; by default, nowhere.
            clock: time since the epoch.
        """
        self._node_is_alive = node_is_alive
        self._publish = publish
        self._lease_seconds = lease_seconds
        self._file = file
        self._clock = clock
        self._called = self._awake_since = clock()
        self._memory = _Memory()
        self._offered: list[str] = []
        if file is not None and file.exists():
            self._memory = pickle.loads(file.read_bytes())
        if file is not None and self._offered_file.exists():
            self._offered = self._offered_file.read_text().split()

    def offer(self, parts: Sequence[str]) -> None:
        """Have ``parts`` given out, in this order; all that was offered before must have been taken."""
        self._offered, self._memory.taken = list(parts), 0
        if self._file is not None:  # in a file of its own: it is long, and does not change
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._offered_file.write_text("\n".join(parts))
        self._save()

    def take(self, ticket: str, actor: str, node: str, pid: int, kind: int) -> Taken | None:
        """The part that a ``ticket`` stands for, which is settled when an actor first asks.

        So each kind of actors takes as many parts as it can do. Who asks again with the ticket of an actor
        that died gets that one's part.

        Returns:
            None where the actor itself was given up.
        """
        memory = self._memory
        if not self._hear(actor, node, pid):
            return None
        memory.actors[actor].kind = kind
        part = memory.tickets.get(ticket)
        is_due = memory.taken < len(self._offered) and memory.stop is None
        if part is None and is_due and not self._would_be_waited_for(kind):
            part = memory.tickets[ticket] = self._offered[memory.taken]
            memory.taken += 1
            self._save()
        return Taken(part)

    def begin(self, part: str, attempt: str, actor: str, node: str, pid: int) -> Assignment | None:
        """Give ``actor`` the lease of ``part``; perhaps because another one died with it.

        Returns:
            None where the actor itself was given up.
        """
        memory = self._memory
        if not self._hear(actor, node, pid):
            return None
        held = memory.leases.get(part)
        if held is not None and held.actor != actor:
            self._lose(held.actor, part)
        memory.leases[part] = _Lease(attempt, actor)
        self._save()
        suspects = {name for of, name in memory.suspicions if of == part}
        condemned = memory.condemned.get(part, set())
        return Assignment(suspects - condemned, set(condemned))

    def resume(self, part: str, attempt: str, count: Count) -> None:
        """Take what an attempt found on the storage of the ones before."""
        if (lease := self._lease(part, attempt)) is not None:
            lease.count = lease.count.plus(count)

    def note(
        self,
        actor: str,
        node: str,
        pid: int,
        opened: Sequence[Opened] = (),
        closed: Sequence[Closed] = (),
        seconds_done: float = 0.0,
        model_seconds: float = 0.0,
    ) -> Order | None:
        """Take news of an actor: all that it has open, what it finished since; returns what it shall do."""
        if not self._hear(actor, node, pid):
            return "lost"
        memory = self._memory
        stats = memory.actors[actor]
        stats.seconds_done, stats.model_seconds = seconds_done, model_seconds
        memory.open[actor] = {(file.part, file.name): file.alone for file in opened}
        for file in closed:
            memory.suspicions.pop((file.part, file.name), None)
            lease = memory.leases.get(file.part)
            if lease is not None and lease.actor == actor:
                lease.count = lease.count.plus(Count(not file.failed, file.failed, file.bytes))
        return memory.stop

    def commit(self, part: str, attempt: str, actor: str, count: Count) -> bool:
        """Publish what the holder of the lease of ``part`` has staged, and end the lease.

        Called once more with the same values it does no more, so that who got no answer may ask again.

        Args:
            part: to commit.
            attempt: that staged its records.
            actor: whose attempt that is.
            count: of all records of the part.

        Returns:
            Whether it was published; not where the lease is another's.

        Raises:
            Exception: what the storage raises; nothing has changed then.
        """
        self._wake()
        lease = self._memory.leases.get(part)
        if actor in self._memory.dead or (lease is not None and lease.attempt != attempt):
            return False
        if not self._publish(part, attempt):
            return False
        if lease is not None:
            lease.count = count
        self.end(part, attempt)
        return True

    def end(self, part: str, attempt: str) -> None:
        """An actor is through with ``part``, be it complete or left."""
        if (lease := self._lease(part, attempt)) is not None:
            self._memory.ended = self._memory.ended.plus(lease.count)
            del self._memory.leases[part]
            self._memory.condemned.pop(part, None)
            tickets = self._memory.tickets
            self._memory.tickets = {ticket: of for ticket, of in tickets.items() if of != part}
            self._save()

    def stop(self, how: Order) -> None:
        """From now on tell all actors: "drain" finishes what is open, "abort" leaves it."""
        self._memory.stop = how
        self._save()

    def expire(self) -> list[ActorStats]:
        """Give up the actors that were not heard of for too long; returns them, each once.

        Those that hold leases are dead from now on. The others held nothing: most are gone, for a pool grows
        smaller towards its end, but one may have been stopped between two parts, after it was sent another
        that it has not begun. That part comes back when the process ends.
        """
        self._wake()
        memory = self._memory
        latest = self._clock() - self._lease_seconds
        silent = {
            name for name, actor in memory.actors.items() if max(actor.seen, self._awake_since) < latest
        }
        silent -= memory.dead | memory.absent
        holders = {lease.actor for lease in memory.leases.values()}
        memory.dead |= silent & holders
        memory.absent |= silent - holders
        if silent:
            self._save()
        return [memory.actors[name] for name in sorted(silent)]

    def snapshot(self) -> Snapshot:
        """All in numbers."""
        memory = self._memory
        count = memory.ended
        for lease in memory.leases.values():
            count = count.plus(lease.count)
        held = sum(lease.actor not in memory.dead for lease in memory.leases.values())
        waiting = len(self._offered) - memory.taken
        return Snapshot(dict(memory.actors), *count, len(memory.dead), held, waiting)

    def _would_be_waited_for(self, kind: int) -> bool:
        """Whether the faster kinds would be through with all that is left before this one is with a part."""
        memory = self._memory
        seconds: defaultdict[int, float] = defaultdict(float)
        done: defaultdict[int, float] = defaultdict(float)
        count: defaultdict[int, int] = defaultdict(int)
        gone = memory.dead | memory.absent
        for name, actor in memory.actors.items():
            seconds[actor.kind] += actor.seen - actor.started
            done[actor.kind] += actor.seconds_done
            count[actor.kind] += name not in gone
        speeds = {each: done[each] / seconds[each] for each in done if done[each] and seconds[each]}
        own = speeds.get(kind)
        faster = {each: speed for each, speed in speeds.items() if own is not None and speed > own}
        together = sum(count[each] * speed for each, speed in faster.items())
        if own is None or not together:
            return False
        left = len(self._offered) - memory.taken
        # In the time that audio takes at a speed of 1; parts are much alike.
        return 1 / own > left / together + 1 / max(faster.values())

    @property
    def _offered_file(self) -> Path:
        assert self._file is not None
        return self._file.with_suffix(".parts")

    def _wake(self) -> float:
        now = self._clock()
        if now - self._called > _PAUSE_SECONDS:
            self._awake_since = now
        self._called = now
        return now

    def _hear(self, actor: str, node: str, pid: int) -> bool:
        """Note that an actor lives; False where it was given up."""
        now = self._wake()
        if actor in self._memory.dead:
            return False
        self._memory.absent.discard(actor)
        self._memory.actors.setdefault(actor, ActorStats(node, pid, now, now)).seen = now
        return True

    def _lease(self, part: str, attempt: str) -> _Lease | None:
        lease = self._memory.leases.get(part)
        return lease if lease is not None and lease.attempt == attempt else None

    def _lose(self, actor: str, part: str) -> None:
        """``part`` comes back from ``actor``: suspect what was open in it."""
        memory = self._memory
        memory.dead.add(actor)
        files = memory.open.get(actor, {})
        by_itself = self._node_is_alive(memory.actors[actor].node)
        for (of, name), alone in list(files.items()):
            if of != part:
                continue  # its part comes back, too
            del files[(of, name)]
            suspicion = memory.suspicions.setdefault((part, name), _Suspicion())
            suspicion.kills += alone and by_itself
            suspicion.losses += alone and not by_itself
            if suspicion.is_proven:
                memory.condemned.setdefault(part, set()).add(name)
                del memory.suspicions[(part, name)]

    def _save(self) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".part")
        temporary.write_bytes(pickle.dumps(self._memory))
        temporary.replace(self._file)
