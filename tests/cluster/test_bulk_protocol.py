"""Any order of events between actors, ledger, driver and storage: nothing is lost, doubled or torn.

Hypothesis chooses who does the next step, and what breaks: an actor is killed, or cut off and comes back when
its part is another's; the ledger dies in the midst of a commit; the storage goes away; another run begins
while the old one lives on. What runs is the code that actors run, with a file for a recording and no Ray.
"""

import threading

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enhance_ray.cluster.bulk.attempt import LeaseLostError, attempt_part
from enhance_ray.cluster.bulk.ledger import Closed, Ledger, Opened
from enhance_ray.cluster.bulk.state import MANIFEST, JobState
from enhance_ray.cluster.folder import Folder

PARTS = {"part-00000": ["a", "b", "poison-c"], "part-00001": ["d", "e"]}
LEASE = 60.0
PATIENT = 30  # seconds for a step of another thread, which takes milliseconds


class KilledError(BaseException):
    pass


class LedgerDiedError(Exception):
    pass


class GatedFolder(Folder):
    """Each operation is a step, before which anything may happen."""

    def __init__(self, uri, gate):
        super().__init__(uri, 0.0)
        self._gate = gate

    def read(self, name):
        self._gate()
        return super().read(name)

    def write(self, name, data):
        self._gate()
        super().write(name, data)

    def names(self, folder=""):
        self._gate()
        return super().names(folder)

    def remove(self, name):
        self._gate()
        super().remove(name)

    def exists(self, name):
        self._gate()
        return super().exists(name)


class Run:
    """A driver's: its ledger, and the tickets that nobody works on."""

    def __init__(self, world):
        self.world = world
        self.state = JobState(world.output, "job")
        self.name = self.state.claim()
        done = self.state.finished()
        parts = [part for part in self.state.parts() if part not in done]
        self.queue = [f"{self.name}-{number}" for number in range(len(parts))]
        self.busy = None  # for whom the ledger works
        self.file = world.folder / f"ledger-{self.name}"
        self.published = {}  # attempts, by part
        self.start_ledger()
        self.ledger.offer(parts)

    def start_ledger(self):
        self.ledger = Ledger(
            lambda node: True,
            self.publish,
            lease_seconds=LEASE,
            file=self.file,
            clock=lambda: self.world.now,
        )

    def publish(self, part, attempt):
        actor = self.busy
        state = JobState(self.world.output, "job", 0.0, self.name)
        state.folder = GatedFolder(state.folder.uri, actor.gate_of_the_ledger)
        before = self.world.is_finished(part)
        is_published = state.publish(part, attempt)
        if is_published:
            assert self.world.run is self
            assert actor.name not in self.ledger._memory.dead
            self.published.setdefault(part, set()).add(attempt)
            assert before or self.published[part] == {attempt}
        return is_published


class Actor(threading.Thread):
    """Takes tickets from its run's queue and does what they stand for, a step at a time."""

    def __init__(self, run, name):
        super().__init__(name=name, daemon=True)
        self.of = run
        self.world = run.world
        self.ticket = None
        self.has_ended = self.is_killed = self.ledger_died = self.is_committing = False
        self._open, self._closed = {}, []
        self._go, self._here = threading.Semaphore(0), threading.Semaphore(0)
        self.error = None
        self.start()

    def step(self):
        self._go.release()
        assert self._here.acquire(timeout=PATIENT)

    def let_ledger_answer(self):
        """It does so whatever becomes of who asked, and whoever waits for it."""
        while self.of.busy is self:
            self.step()

    def come_back(self, steps):
        while steps and not self.has_ended:
            self.step()
            steps -= 1
        self.let_ledger_answer()

    def run(self):
        self._go.acquire()
        try:
            while self.of.queue and not self.is_killed:
                self.ticket = self.of.queue.pop(0)
                taken = self.ask("take", self.ticket, self.name, "node", 1, 0)
                if taken is None:
                    raise LeaseLostError
                if taken.part is not None:
                    state = JobState(self.world.output, "job")
                    state.folder = GatedFolder(state.folder.uri, self.gate_of_the_storage)
                    assert attempt_part(taken.part, state, self, self.begin_work, 0.0)
                self.ticket = None
        except (KilledError, LeaseLostError):
            pass
        except BaseException as error:
            self.error = error
        self.has_ended = True
        self._here.release()

    def gate(self):
        self._here.release()
        self._go.acquire()
        if self.is_killed:
            raise KilledError

    def gate_of_the_storage(self):
        self.gate()
        while self.world.is_away:  # patience
            self.gate()

    def gate_of_the_ledger(self):
        self.gate()
        if self.ledger_died:
            raise LedgerDiedError
        if self.world.is_away:
            raise OSError("no answer")

    # What an actor asks of its ledger.

    def ask(self, method, *values):
        while True:
            self.gate()
            if self.of.busy is not None:
                continue  # it does one thing at a time
            self.of.busy, self.ledger_died = self, False
            try:
                return getattr(self.of.ledger, method)(*values)
            except LedgerDiedError:
                continue  # as Ray does
            finally:
                self.of.busy = None

    def begin(self, part, attempt):
        assignment = self.ask("begin", part, attempt, self.name, "node", 1)
        if assignment is None:
            raise LeaseLostError
        return assignment

    def resume(self, part, attempt, count):
        self.ask("resume", part, attempt, count)

    def check(self):
        closed, self._closed = self._closed, []
        if self.ask("note", self.name, "node", 1, list(self._open.values()), closed) == "lost":
            raise LeaseLostError

    def commit(self, part, attempt, count):
        self.is_committing = True  # it has heard for the last time that the part is its own
        while True:
            try:
                is_published = self.ask("commit", part, attempt, self.name, count)
            except OSError:
                continue
            if not is_published:
                raise LeaseLostError
            self.is_committing = False
            return

    def end(self, part, attempt):
        self.ask("end", part, attempt)

    # Its work.

    def begin_work(self, part, rows, assignment):
        self._rows, self._of_part = rows, part
        self.is_complete = False
        return self

    def results(self, timeout):
        for row in self._rows:
            uri = row["uri"]
            self._open[uri] = Opened(self._of_part, uri, alone=False)
            self.check()
            self.gate()
            failed = uri.startswith("poison")
            if not failed:
                self.world.outputs.add(uri)
            del self._open[uri]
            self._closed.append(Closed(self._of_part, uri, failed, 1))
            yield [{"uri": uri, "status": "failed" if failed else "done", "actor": self.name}]
        self.is_complete = True

    def close(self):
        pass


class World:
    def __init__(self, folder):
        self.folder, self.output = folder, str(folder / "out")
        self.outputs, self.now, self.is_away = set(), 1e9, False
        self.actors, self.gone, self.count = [], [], 0
        state = JobState(self.output, "job")
        for part, uris in PARTS.items():
            rows = [{"uri": uri, "bytes": 1} for uri in uris]
            state.folder.write_table(f"manifest/{part}.parquet", pa.Table.from_pylist(rows, MANIFEST))
        self.run = Run(self)

    def is_finished(self, part):
        return JobState(self.output, "job").is_finished(part)

    def populate(self):
        """Ray's part: as long as there are tickets, there are actors."""
        self.actors = [actor for actor in self.actors if not actor.has_ended]
        while len(self.actors) < 2 and self.run.queue:
            self.count += 1
            self.actors.append(Actor(self.run, f"actor-{self.count}"))

    def leave(self, actor):
        """The cluster thinks that an actor is dead."""
        actor.let_ledger_answer()
        self.actors.remove(actor)
        if actor.ticket is not None and not actor.has_ended:
            actor.of.queue.append(actor.ticket)

    def kill(self, actor):
        self.leave(actor)
        actor.is_killed = True
        actor.step()
        assert actor.has_ended

    def cut_off(self, actor):
        self.leave(actor)
        self.gone.append(actor)

    def let_leases_end(self, actor):
        """The actor is stopped, and everybody else lives, for longer than a lease."""
        ledger = actor.of.ledger
        for _ in range(int(LEASE // 4) + 2):
            self.now += 4
            for other in self.actors:
                if other is not actor and other.of.busy is None:
                    opened = list(other._open.values())
                    ledger.note(other.name, "node", 1, opened)
        ledger.expire()
        self.cut_off(actor)

    def stop_before_commit(self, actor):
        """The narrowest of windows: who is stopped here hears nothing of it on its way to the ledger."""
        while not (actor.is_committing or actor.has_ended or self.is_away):
            if (other := actor.of.busy) not in (None, actor):
                other.let_ledger_answer()
            actor.step()
        if actor.is_committing:
            self.let_leases_end(actor)

    def kill_ledger(self):
        if self.run.busy is not None:
            self.run.busy.ledger_died = True
        self.run.start_ledger()

    def move_storage(self):
        self.is_away = not self.is_away

    def begin_run(self):
        """While the one before knows of nothing: its actors go on."""
        self.is_away = False
        for actor in self.actors:
            actor.let_ledger_answer()
        self.gone += self.actors
        self.actors = []
        self.run = Run(self)

    def check(self):
        """What must hold at any time."""
        state = JobState(self.output, "job")
        for part in state.finished():
            rows = state.folder.read_table(f"records/{part}.parquet").to_pylist()
            assert sorted(row["uri"] for row in rows) == PARTS[part]
            assert {row["uri"] for row in rows if row["status"] == "done"} <= self.outputs
        assert not [actor.error for actor in self.actors if actor.error is not None]
        # Who lost its part may stumble over what its successor removed, but must not publish.
        assert not [actor.error for actor in self.gone if isinstance(actor.error, AssertionError)]


FAULTS = [
    *("kill", "cut_off", "let_leases_end", "stop_before_commit"),
    *("kill_ledger", "move_storage", "begin_run", "come_back"),
]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_doubled_or_torn_whatever_breaks_and_when(data, tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    which = st.integers(0, 1)
    for _ in range(data.draw(st.integers(0, 6), label="faults")):
        for _ in range(data.draw(st.integers(0, 25), label="steps")):
            world.populate()
            if world.actors:
                world.actors[data.draw(which) % len(world.actors)].step()
        world.check()
        world.populate()
        fault = data.draw(st.sampled_from(FAULTS))
        living = [actor for actor in world.actors if not actor.has_ended]
        if fault == "come_back":
            for actor in world.gone[:1]:
                actor.come_back(data.draw(st.integers(1, 40)))
        elif fault in ("kill_ledger", "move_storage", "begin_run"):
            getattr(world, fault)()
        elif living:
            getattr(world, fault)(living[data.draw(which) % len(living)])
    world.is_away = False
    for actor in world.gone:  # all come back, before, beside and behind the others
        actor.come_back(data.draw(st.integers(0, 30)))
    steps = 0
    while True:
        world.populate()
        if not world.actors:
            break
        world.actors[steps % len(world.actors)].step()
        steps += 1
        assert steps < 2000
    for actor in world.gone:
        actor.come_back(1000)
        assert actor.has_ended
    world.check()

    state = JobState(world.output, "job")
    assert state.finished() == PARTS.keys()
    assert state.folder.names("failed") == ["part-00000.parquet"]
    assert world.outputs == {"a", "b", "d", "e"}
    told = world.run.ledger.snapshot()
    assert told.parts_open == 0


def test_who_was_given_up_is_told_so_and_commits_nothing(tmp_path):
    now, published = [0.0], []
    ledger = Ledger(
        lambda node: True,
        lambda part, attempt: not published.append(attempt),
        lease_seconds=LEASE,
        clock=lambda: now[0],
    )
    ledger.begin("p", "first", "stopped", "n", 1)
    ledger.begin("q", "other", "alive", "n", 2)
    for _ in range(20):
        now[0] += 4
        assert ledger.note("alive", "n", 2) is None
        lost = ledger.expire()
        if lost:
            break

    assert [actor.pid for actor in lost] == [1]
    assert now[0] > LEASE
    assert ledger.note("stopped", "n", 1) == "lost"
    assert ledger.begin("r", "another", "stopped", "n", 1) is None
    assert not ledger.commit("p", "first", "stopped", None)
    assert not published
    assert ledger.snapshot().parts_open == 1


def test_an_actor_that_is_silent_without_a_lease_is_ended_and_costs_nothing():
    """It may have been stopped with a part that it was sent and has not begun, and that nobody else gets."""
    now = [0.0]
    ledger = Ledger(lambda node: True, lambda part, attempt: True, lease_seconds=LEASE, clock=lambda: now[0])
    ledger.begin("p", "first", "stopped", "n", 1)
    ledger.end("p", "first")
    ended = []
    for _ in range(30):
        now[0] += 4
        ledger.note("alive", "n", 2)
        ended += ledger.expire()

    assert [actor.pid for actor in ended] == [1]
    assert ledger.snapshot().deaths == 0
    assert ledger.note("stopped", "n", 1) is None
    assert ledger.begin("q", "second", "stopped", "n", 1) is not None


def test_silence_is_held_against_nobody_where_nobody_could_be_heard(tmp_path):
    now = [0.0]
    ledger = Ledger(lambda node: True, lambda part, attempt: True, lease_seconds=LEASE, clock=lambda: now[0])
    ledger.begin("p", "first", "actor", "n", 1)
    now[0] += 10 * LEASE  # the driver's machine slept

    assert ledger.expire() == []
    assert ledger.note("actor", "n", 1) is None


@pytest.mark.parametrize("order", ["drain", "abort"])
def test_a_ledger_that_is_started_again_knows_stops_and_suspicions(tmp_path, order):
    def started():
        file = tmp_path / "ledger"
        return Ledger(lambda node: True, lambda part, attempt: True, lease_seconds=LEASE, file=file)

    ledger = started()
    ledger.begin("p", "first", "killed", "n", 1)
    ledger.note("killed", "n", 1, [Opened("p", "bad", alone=False)])
    ledger.begin("p", "second", "next", "n", 2)
    ledger.stop(order)

    ledger = started()

    assert ledger.note("next", "n", 2) == order
    assert ledger.begin("p", "third", "last", "n", 3).suspects == {"bad"}
    assert ledger.snapshot().deaths == 2
