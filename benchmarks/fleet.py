"""A bulk job with a thousand actors, simulated: what it asks of ledger, driver and storage.

    python benchmarks/fleet.py [--actors 1000] [--files 2000000] [--losses 0.05]

The plan, the order of parts, the ledger and the pace of its news are the job's own code. Actors are events
of a simulated clock, and their model takes as long as it was measured to take. Spot markets take a share of
them away every hour, in the midst of their parts, and others come later. The storage says SlowDown to a
hundredth of the requests, which are asked again. Prints a table, and as the last line JSON. A few minutes
of one core.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from enhance_ray.cluster.bulk import feed
from enhance_ray.cluster.bulk.ledger import Closed, Count, Ledger, Opened
from enhance_ray.cluster.bulk.plan import _parts
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import MANIFEST

SPEED = 200.0
"""Times real time of an actor, give or take a tenth."""
BYTES_PER_SECOND = 16_000
"""Of an mp3 at 128 kbit/s."""
MEDIAN_SECONDS, SPREAD = 360.0, 1.4
"""Recordings are log-normal: most are minutes, a few are hours."""
REPLACED_SECONDS = 90.0
"""Until there is another actor for a lost one, with its model."""
NOTICED_SECONDS = 15.0
"""Until the parts of a lost actor are given to others."""
SLOW_DOWN = 0.01
"""How often a storage says 503."""


@dataclass(slots=True)
class Part:
    """Work of one lease."""

    name: str
    files: int
    bytes: int
    seconds: float
    done: float = 0.0
    """Of its audio, written down on the storage."""


@dataclass(slots=True)
class Actor:
    """A process of the fleet."""

    name: str
    speed: float
    parts: deque[Part] = field(default_factory=deque)
    since: float = 0.0
    """When it began to work on the first of its parts."""
    started: float = 0.0
    worked: float = 0.0
    told: int = 0
    """Files of its part that are known to be done."""
    is_busy: bool = False
    ended: float | None = None
    """When it was lost."""


class Fleet:
    """Everything that happens."""

    def __init__(self, settings: BulkConfig, parts: list[Part], losses: float) -> None:
        self.settings = settings
        self.now = 0.0
        self.events: list[tuple[float, int, str, Any]] = []
        self.numbers = itertools.count()
        self.calls: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.cpu = 0.0
        """Seconds of this processor in the ledger and in what the driver does every second."""
        self.random = np.random.default_rng(0)
        self.losses = losses
        self.ledger = Ledger(
            lambda node: False,
            lambda part, attempt: True,
            lease_seconds=settings.lease_seconds,
            clock=lambda: self.now,
        )
        # The largest first, as the driver gives them to the pool.
        self.waiting = deque(sorted(parts, key=lambda part: -part.bytes))
        self.ledger.offer([part.name for part in self.waiting])
        self.total = sum(part.seconds for part in parts)
        self.left = len(parts)
        self.finished = self.again = 0.0
        self.lost = 0
        self.curve: list[tuple[float, float]] = []
        self.actors: dict[str, Actor] = {}
        self.gone: list[Actor] = []
        for _ in range(settings.actor_range[1]):
            self.at(float(self.random.uniform(0, 60)), "start")
        self.at(1.0, "driver")

    def at(self, moment: float, kind: str, about: Any = None) -> None:
        """Let something happen later."""
        heapq.heappush(self.events, (moment, next(self.numbers), kind, about))

    def ask(self, method: str, *values: Any) -> Any:
        """A call of the ledger, which costs what it costs here."""
        self.calls[method] += 1
        began = time.process_time()
        answer = getattr(self.ledger, method)(*values)
        self.cpu += time.process_time() - began
        return answer

    def store(self, kind: str, count: float = 1) -> None:
        """Requests to the storage."""
        self.requests[kind] += count
        self.requests["503, asked again"] += count * SLOW_DOWN

    def run(self) -> None:
        """Until nothing is left."""
        while self.left:
            self.now, _, kind, about = heapq.heappop(self.events)
            getattr(self, f"on_{kind}")(about)

    def on_start(self, _: None) -> None:
        name = f"actor-{next(self.numbers)}"
        actor = self.actors[name] = Actor(name, SPEED * self.random.normal(1, 0.05), started=self.now)
        self.take(actor)
        self.at(self.now + self.settings.news_seconds, "news", actor)
        if self.losses:
            self.at(self.now + self.random.exponential(3600 / self.losses), "loss", actor)

    def on_driver(self, _: None) -> None:
        self.ask("expire")
        self.ask("snapshot")
        self.at(self.now + 1, "driver")

    def on_back(self, parts: list[Part]) -> None:
        self.waiting.extendleft(parts)
        for actor in list(self.actors.values()):
            self.take(actor)

    def take(self, actor: Actor) -> None:
        """Parts for who has fewer than two."""
        while self.waiting and len(actor.parts) < 2:
            part = self.waiting.popleft()
            actor.parts.append(part)
            # Tickets come back in the order in which parts do, so that each stands for its own.
            taken = self.ask("take", f"ticket for {part.name}", actor.name, "node", 1, 0)
            assert taken.part == part.name
            self.ask("begin", part.name, f"{part.name} {actor.name}", actor.name, "node", 1)
            self.ask("resume", part.name, f"{part.name} {actor.name}", Count())
            self.store("lists and reads of a part", 3)
        if actor.parts and not actor.is_busy:
            self.begin(actor)

    def begin(self, actor: Actor) -> None:
        """Work on the first part."""
        part = actor.parts[0]
        actor.is_busy, actor.since, actor.told = True, self.now, 0
        # Files are read and written while others are computed: the storage does not make the model wait.
        self.at(self.now + (part.seconds - part.done) / actor.speed, "end", (actor, part))

    def on_news(self, actor: Actor) -> None:
        if self.actors.get(actor.name) is not actor:
            return
        opened: list[Opened] = []
        closed: list[Closed] = []
        if actor.parts:
            part = actor.parts[0]
            share = min(1.0, (self.now - actor.since) * actor.speed / max(part.seconds - part.done, 1e-9))
            # A lot of files is announced in the place of the news that would be due.
            lot = min(
                self.settings.news_seconds * feed._ANNOUNCED_FILES,
                self.settings.news_seconds * feed._ANNOUNCED_BYTES / max(part.bytes / part.files, 1),
            )
            done = int(share * part.files)
            last = min(part.files, int((done // lot + 1) * lot))
            opened = [Opened(part.name, f"file {n}", False) for n in range(done, last)]
            closed = [Closed(part.name, f"file {n}", False, 1) for n in range(actor.told, done)]
            actor.told = done
        self.ask("note", actor.name, "node", 1, opened, closed, 0.0, 0.0)
        self.store("records while a part goes on", self.settings.news_seconds / self.flush_seconds)
        self.at(self.now + self.settings.news_seconds, "news", actor)

    @property
    def flush_seconds(self) -> float:
        return self.settings.seconds_between_flushes

    def on_end(self, about: tuple[Actor, Part]) -> None:
        actor, part = about
        if self.actors.get(actor.name) is not actor or not actor.parts or actor.parts[0] is not part:
            return
        self.worked(actor)
        self.finished += part.seconds - part.done
        self.left -= 1
        attempt = f"{part.name} {actor.name}"
        self.ask("commit", part.name, attempt, actor.name, Count(part.files, 0, part.bytes))
        self.store("reads of inputs", 2 * part.files)
        self.store("writes of outputs", part.files)
        self.store("commit of a part", 9)
        self.curve.append((self.now, self.finished))
        actor.parts.popleft()
        actor.is_busy = False
        self.take(actor)

    def worked(self, actor: Actor) -> None:
        actor.worked += self.now - actor.since

    def on_loss(self, actor: Actor) -> None:
        if self.actors.get(actor.name) is not actor:
            return
        del self.actors[actor.name]
        actor.ended = self.now
        self.gone.append(actor)
        self.lost += 1
        if actor.parts:
            self.worked(actor)
            part = actor.parts[0]
            computed = (self.now - actor.since) * actor.speed
            kept = max(0.0, computed - self.random.uniform(0, self.flush_seconds) * actor.speed)
            self.again += computed - kept
            part.done += kept
            self.finished += kept
            self.at(self.now + NOTICED_SECONDS, "back", list(actor.parts))
        self.at(self.now + REPLACED_SECONDS, "start")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--actors", type=int, default=1000)
    parser.add_argument("--files", type=int, default=2_000_000)
    parser.add_argument("--losses", type=float, default=0.05, help="share of the actors lost in an hour")
    arguments = parser.parse_args()
    settings = BulkConfig(input="in", output="out", actors=arguments.actors)
    random = np.random.default_rng(1)
    seconds = random.lognormal(np.log(MEDIAN_SECONDS), SPREAD, arguments.files).clip(1, 36_000)
    columns = {name: pa.nulls(arguments.files, MANIFEST.field(name).type) for name in MANIFEST.names}
    columns["uri"] = pa.array(np.arange(arguments.files)).cast(pa.string())
    columns["bytes"] = pa.array((seconds * BYTES_PER_SECOND).astype(np.int64))
    parts = [
        Part(f"part-{n:05d}", len(table), size := sum(table["bytes"].to_pylist()), size / BYTES_PER_SECOND)
        for n, table in enumerate(_parts([pa.table(columns, schema=MANIFEST)], settings))
    ]
    fleet = Fleet(settings, parts, arguments.losses)
    fleet.run()
    minutes = fleet.now / 60
    everyone = [*fleet.actors.values(), *fleet.gone]
    present = sum((actor.ended or fleet.now) - actor.started for actor in everyone)
    worked = sum(actor.worked for actor in everyone)
    nearly = next(moment for moment, done in fleet.curve if done >= 0.95 * fleet.total)
    result = {
        "audio_hours": fleet.total / 3600,
        "parts": len(parts),
        "job_hours": fleet.now / 3600,
        "actors_lost": fleet.lost,
        "audio_done_twice": fleet.again / fleet.total,
        "utilisation": worked / present,
        "last_twentieth_share_of_time": (fleet.now - nearly) / fleet.now,
        "ledger_calls_a_minute": sum(n for name, n in fleet.calls.items()) / minutes,
        "cores_of_ledger_and_driver": fleet.cpu / fleet.now,
        "requests_a_file": sum(fleet.requests.values()) / arguments.files,
    }
    for name, value in result.items():
        print(f"{name.replace('_', ' '):<32}{value:>14,.4g}")
    for name, count in fleet.requests.most_common():
        print(f"  {name:<34}{count / arguments.files:>10.4f} a file")
    print(json.dumps({**result, "calls": dict(fleet.calls)}))


if __name__ == "__main__":
    main()
