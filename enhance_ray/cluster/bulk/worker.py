"""The actor: a model, an engine that never stops, and the parts of the manifest that it is given.

    part threads: attempt_part: manifest -> tasks -> Feed ............ answers -> records -> storage
    engine thread:                      enhance_files(feed) -> record -> Feed.answer
    reporter:     news to the ledger; whether to stop; whether anything moves

Two parts are under way in an actor, so that the model has work while the first one ends.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import ray
from ray.util.metrics import Counter, Gauge

from enhance_ray.audio import Patience
from enhance_ray.cluster.bulk import shards
from enhance_ray.cluster.bulk.attempt import Row, attempt_part
from enhance_ray.cluster.bulk.feed import FileTask, Part, TaskFeed
from enhance_ray.cluster.bulk.ledger import Assignment, Closed, Count, Opened, Order, Taken
from enhance_ray.cluster.bulk.names import path_of, storable
from enhance_ray.cluster.bulk.plan import output_of
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import RECORDS, JobState
from enhance_ray.cluster.scratch import own_scratch
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioError
from enhance_ray.files import Job, Progress, enhance_files, output_extension
from enhance_ray.records import Record

logger = logging.getLogger(__name__)

PARTS_AT_ONCE = 2
"""Parts that an actor has under way."""

_LOOK_SECONDS = 1.0
_STALLED, _LOST = 70, 71  # exit status of an actor in which nothing moves, and of one without leases
_KILLED = Record(
    input="",
    status="failed",
    code="process_killed",
    reason="each process that read it was killed, three of them when they had nothing else open: "
    "it may need more memory than there is, or crash a decoder",
)

Load = Callable[[BulkConfig], Enhancer]
"""How an actor gets its model."""


def load_enhancer(settings: BulkConfig) -> Enhancer:
    """The model that the settings name."""
    return Enhancer.load(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        compiled=settings.compile,
        denoiser_only=settings.options.mode == "denoise",
    )


class Worker:
    """One actor of a pool; Ray Data calls it with a ticket for a part, from a thread for each."""

    def __init__(self, whole: BulkConfig, kind: int, job: str, ledger: Any, load: Load) -> None:
        """Load the model.

        Args:
            whole: settings of the job.
            kind: of this actor, among `BulkConfig.by_kind`.
            job: its name.
            ledger: of the run.
            load: how to get the model.
        """
        self._settings = settings = whole.by_kind[kind]
        self._flush_seconds = whole.seconds_between_flushes
        self._state = JobState(settings.output, job, settings.patience_seconds)
        self._name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._patience = Patience(settings.patience_seconds)
        self._leases = _Leases(ledger, self._name, kind, self._patience, self._stop, whole.news_seconds)
        self._feed = TaskFeed(self._leases.open, ahead=whole.news_seconds)
        self._lock = threading.Lock()
        self._moved = time.monotonic()
        self._stopping = threading.Event()
        self._parts: set[Part] = set()
        self._ended: BaseException | None = None
        self._metrics = _Metrics(ray.get_runtime_context().get_node_id())
        self._scratch = own_scratch()
        self._leases.check()  # the bill begins before the model is there
        enhancer = load(settings)
        threading.Thread(target=self._run_engine, args=(enhancer,), name="engine", daemon=True).start()
        threading.Thread(target=self._report, name="reporter", daemon=True).start()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Do what the tickets in column "ticket" stand for; a row each."""
        parts = [self._leases.take(str(ticket)) for ticket in rows["ticket"]]
        complete = [part is None or self._do_part(part) for part in parts]
        return {"part": np.array([part or "" for part in parts]), "complete": np.array(complete)}

    # ----------------------------------------------------------------------- a part

    def _do_part(self, part: str) -> bool:
        is_complete = self._ended is None and attempt_part(
            part, self._state, self._leases, self._begin_work, self._flush_seconds
        )
        if not is_complete and self._ended is not None and not isinstance(self._ended, _Stopped):
            raise self._ended
        return is_complete

    def _begin_work(self, part: str, rows: list[Row], assignment: Assignment) -> _PartWork:
        work = _PartWork(part, rows, assignment, self._settings, self._patience, self._name, self._forget)
        with self._lock:
            self._parts.add(work.part)
            if self._ended is not None:  # meanwhile
                work.part.answers.put(self._ended)
        self._feed.add(work.part)
        return work

    def _forget(self, part: Part) -> None:
        with self._lock:
            self._parts.discard(part)
        self._feed.remove(part)

    def _stop(self, order: Order) -> None:
        self._feed.close()
        if order == "abort":
            self._stopping.set()

    # ----------------------------------------------------------------------- threads

    def _run_engine(self, enhancer: Enhancer) -> None:
        settings = self._settings
        ended: BaseException = _Stopped()
        try:
            running = enhance_files(
                self._feed,
                enhancer,
                settings.options,
                batch_size=settings.batch_size,
                files_at_once=settings.files_at_once,
                patience=settings.patience_seconds,
                force=True,  # an output whose record is lacking was cut off
                partial=settings.partial,
                scores=settings.scores,
                progress=self._note,
                stop=self._stopping,
            )
            for record in running:
                task = self._feed.task_of(record)
                # Before the feed opens the next file: if that kills, this one must not be suspect.
                self._leases.close(task, failed=record.status == "failed")
                self._feed.answer(task, record)
                self._metrics.note(record)
        except BaseException as bug:  # goes on in the threads of the parts
            ended = bug
        with self._lock:
            self._ended = ended
            parts = set(self._parts)
        self._feed.close()
        for part in parts:
            part.answers.put(ended)

    def _note(self, progress: Progress) -> None:
        """Called in the engine's thread, often."""
        self._leases.progress = (progress.seconds_done, progress.model_seconds)
        self._moved = time.monotonic()

    def _report(self) -> None:
        while self._ended is None:
            time.sleep(_LOOK_SECONDS)
            try:
                self._leases.tell()
            except ray.exceptions.RayError:
                return  # the driver is gone, and this process will be
            self._metrics.show(*self._leases.progress, self._feed.files_open)
            idle = time.monotonic() - self._moved
            if not self._feed.files_open:
                self._moved = time.monotonic()
            elif idle > 60 * self._settings.stall_minutes:
                logger.error("nothing has moved for %.0f minutes: this actor gives up", idle / 60)
                os._exit(_STALLED)


class _Leases:
    """An actor's line to the ledger. Where its leases are lost the process ends, whatever it is doing: its
    parts are others' by now, and Ray starts another actor."""

    def __init__(
        self,
        ledger: Any,
        actor: str,
        kind: int,
        patience: Patience,
        on_stop: Callable[[Order], None],
        news_seconds: float,
    ) -> None:
        self.progress = (0.0, 0.0)  # seconds of audio, seconds of the model
        self._ledger = ledger
        self._actor = actor
        self._who = (actor, ray.get_runtime_context().get_node_id(), os.getpid())
        self._kind = kind
        self._patience = patience
        self._on_stop = on_stop
        self._news_seconds = news_seconds
        self._told = 0.0
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Opened] = {}
        self._closed: list[Closed] = []

    def open(self, tasks: Sequence[FileTask]) -> None:
        """Tell of files before they are opened."""
        with self._lock:
            self._open |= {(t.part.name, t.name): Opened(t.part.name, t.name, t.alone) for t in tasks}
        self.check()

    def close(self, task: FileTask, *, failed: bool) -> None:
        """Note that there is a record of a file."""
        with self._lock:
            self._open.pop((task.part.name, task.name), None)
            self._closed.append(Closed(task.part.name, task.name, failed, task.bytes))

    def tell(self) -> None:
        """`check`, where that has not been done for as long as the ledger wants to be left alone."""
        if time.monotonic() - self._told >= self._news_seconds:
            self.check()

    def check(self) -> None:
        """Tell what was opened and finished since, and obey the order that comes back."""
        self._told = time.monotonic()
        with self._lock:  # calls are answered in the order in which they are made
            opened, closed, self._closed = list(self._open.values()), self._closed, []
            call = self._ledger.note.remote(*self._who, opened, closed, *self.progress)
        order: Order | None = ray.get(call)
        if order == "lost":
            _end_without_leases()
        elif order is not None:
            self._on_stop(order)

    def take(self, ticket: str) -> str | None:
        """The part that a ``ticket`` stands for, if there is one left."""
        taken: Taken | None = self._ask("take", ticket, *self._who, self._kind)
        return _end_without_leases() if taken is None else taken.part

    def begin(self, part: str, attempt: str) -> Assignment:
        """Take the lease of ``part``."""
        assignment: Assignment | None = self._ask("begin", part, attempt, *self._who)
        return _end_without_leases() if assignment is None else assignment

    def resume(self, part: str, attempt: str, count: Count) -> None:
        """Tell what was found of the attempts before."""
        self._ask("resume", part, attempt, count)

    def commit(self, part: str, attempt: str, count: Count) -> None:
        """Have the ledger publish what the attempt staged, which ends the lease."""
        if not self._patience(lambda: self._ask("commit", part, attempt, self._actor, count)):
            _end_without_leases()

    def end(self, part: str, attempt: str) -> None:
        """Give the lease back."""
        self._ask("end", part, attempt)

    def _ask(self, method: str, *values: Any) -> Any:
        return ray.get(getattr(self._ledger, method).remote(*values))


def _end_without_leases() -> NoReturn:
    logger.error(
        "this actor was not heard of for too long, or another run began: it ends, and commits nothing"
    )
    os._exit(_LOST)


class _Stopped(Exception):  # noqa: N818 - what parts find where the engine ended early, is no error
    """The job is being stopped."""


class _PartWork:
    """One part's files on their way, and what they left."""

    def __init__(
        self,
        name: str,
        rows: list[Row],
        assignment: Assignment,
        settings: BulkConfig,
        patience: Patience,
        actor: str,
        on_close: Callable[[Part], None],
    ) -> None:
        self._rows = rows
        self._assignment = assignment
        self._settings = settings
        self._patience = patience
        self._actor = actor
        self._on_close = on_close
        self._shards: dict[str, _Shard] = {}
        self._at_once: list[Row] = []  # records that need no work
        self.part = Part(name, self._tasks())
        self.is_complete = False

    def results(self, timeout: float) -> Iterator[list[Row] | None]:
        """See `attempt.PartWork`."""
        answered = 0
        has_all = False
        while not has_all or answered < self.part.opened:
            try:
                answer = self.part.answers.get(timeout=timeout)
            except queue.Empty:
                yield []
                continue
            if isinstance(answer, BaseException):
                return
            if callable(answer):
                yield None
                answer()
            elif answer is None:
                has_all = True
            else:
                answered += 1
                yield self._take(*answer)
            while self._at_once:
                yield [self._at_once.pop()]
            for uri, shard in list(self._shards.items()):
                if shard.is_finished:
                    yield self._finish(shard)
                    del self._shards[uri]
        self.is_complete = True

    def close(self) -> None:
        """Remove what shards left on this machine."""
        self._on_close(self.part)
        for shard in self._shards.values():
            shard.close()

    def _take(self, task: FileTask, record: Record) -> list[Row]:
        if isinstance(task.about, dict):
            return [self._row(task.about, record)]
        shard, member = task.about
        shard.take(member, record)
        return []

    def _tasks(self) -> Iterator[FileTask]:
        """In the order of the rows, those that are to run alone at the end."""
        alone = []
        for row in self._rows:
            uri = row["uri"]
            if shards.is_shard(uri):
                yield from self._shard_tasks(row)
                continue
            if uri in self._assignment.condemned:
                self._at_once.append(self._row(row, _KILLED))
                continue
            extension = output_extension(uri, self._settings.options.format)
            job = Job(path_of(uri), self._output(row, extension))
            task = FileTask(job, self.part, uri, row["bytes"] or 0, uri in self._assignment.suspects, row)
            if task.alone:
                alone.append(task)
            else:
                yield task
        yield from alone

    def _shard_tasks(self, row: dict[str, Any]) -> Iterator[FileTask]:
        uri = row["uri"]
        shard = self._shards[uri] = _Shard(row)
        try:
            for member in shards.unpack(path_of(uri), shard.folder, self._patience):
                shard.members.append(member)
                name = f"{uri}#{storable(member.name)}"
                if not member.is_audio:
                    continue
                if name in self._assignment.condemned:
                    shard.take(member, _KILLED)
                    continue
                output = shards.output_path(member, self._settings.options.format)
                size = member.path.stat().st_size
                job = Job(str(member.path), str(output))
                yield FileTask(job, self.part, name, size, name in self._assignment.suspects, (shard, member))
        except AudioError as error:
            shard.error = error
        shard.is_whole = True

    def _finish(self, shard: _Shard) -> list[Row]:
        """Write the shard, and say what became of its recordings."""
        row, uri = shard.row, shard.row["uri"]
        output = self._output(row, Path(uri).suffix)
        try:
            if shard.error is not None:
                raise shard.error
            packed = shard.folder / f"packed{Path(uri).suffix}"
            shards.pack(path_of(uri), shard.contents(), packed, self._patience)
            shards.publish(packed, output, self._patience)
        except AudioError as error:
            failed = Record(input=uri, status="failed", code=error.code, reason=error.reason)
            return [self._row(row, failed)]
        finally:
            shard.close()
        rows = []
        for member, record in shard.records.items():
            rows.append(self._row(row, record, member.name, f"{output}#{member.name}"))
        if not rows:
            nothing = Record(input=uri, status="done", output=output, warning="it holds no recordings")
            rows.append(self._row(row, nothing))
        return rows

    def _output(self, row: dict[str, Any], extension: str) -> str:
        given = path_of(row["output"]) if row["output"] else None
        return output_of(self._settings, path_of(row["uri"]), row["etag"], given, extension)

    def _row(
        self, row: dict[str, Any], record: Record, member: str | None = None, output: str | None = None
    ) -> dict[str, Any]:
        """A row of the table of records."""
        values = {name: getattr(record, name) for name in RECORDS.names if hasattr(record, name)}
        stages = {f"{name}_seconds": seconds for name, seconds in record.stages.items()}
        if record.status == "done":
            values["output"] = output or record.output
        # What is said of a file may name it.
        texts = {name: storable(value) for name, value in values.items() if isinstance(value, str)}
        return {
            **values,
            **texts,
            **stages,
            "uri": row["uri"],
            "input_bytes": row["bytes"] if member is None else None,
            "guard": json.dumps(record.guard) if record.guard else None,
            "scores": json.dumps(record.scores) if record.scores else None,
            "etag": row["etag"],
            "member": storable(member) if member is not None else None,
            "actor": self._actor,
            "finished": datetime.now(UTC),
            "extra": row["extra"],
        }


class _Shard:
    """A shard whose recordings are being done."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row
        self.folder = Path(tempfile.mkdtemp(prefix="enhance-ray-shard-"))
        self.members: list[shards.Member] = []
        self.records: dict[shards.Member, Record] = {}
        self.is_whole = False
        self.error: AudioError | None = None

    @property
    def is_finished(self) -> bool:
        """Whether there is a record of every recording."""
        return self.is_whole and len(self.records) == sum(member.is_audio for member in self.members)

    def take(self, member: shards.Member, record: Record) -> None:
        """Note what became of a recording, whose input is not needed any more."""
        self.records[member] = record
        member.path.unlink(missing_ok=True)

    def contents(self) -> list[tuple[shards.Member, Path | None]]:
        """Members with what stands for them in the output."""
        contents: list[tuple[shards.Member, Path | None]] = []
        for member in self.members:
            record = self.records.get(member)
            if record is None:
                contents.append((member, member.path))
            else:
                contents.append((member, Path(record.output) if record.output else None))
        return contents

    def close(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _Metrics:
    """What Ray's dashboard and Prometheus see of an actor."""

    def __init__(self, node: str) -> None:
        tags = {"node": node[:12]}
        self._audio = Counter("enhance_ray_audio_seconds", "Seconds of audio written", tag_keys=("node",))
        self._model = Counter("enhance_ray_model_seconds", "Seconds that the model ran", tag_keys=("node",))
        self._files = Counter("enhance_ray_files", "Files finished", tag_keys=("node", "status"))
        self._stages = Counter(
            "enhance_ray_stage_seconds", "Seconds of finished files by stage", tag_keys=("node", "stage")
        )
        self._open = Gauge("enhance_ray_files_open", "Files under way", tag_keys=("node",))
        for metric in (self._audio, self._model, self._files, self._stages, self._open):
            metric.set_default_tags(tags)
        self._shown = (0.0, 0.0)

    def note(self, record: Record) -> None:
        """Count a file."""
        self._files.inc(1, {"status": record.status})
        for stage, seconds in record.stages.items():
            if seconds > 0:
                self._stages.inc(seconds, {"stage": stage})

    def show(self, seconds_done: float, model_seconds: float, files_open: int) -> None:
        """Take the totals of an actor so far."""
        for metric, now, before in zip(
            (self._audio, self._model), (seconds_done, model_seconds), self._shown, strict=True
        ):
            if now > before:
                metric.inc(now - before)
        self._shown = (seconds_done, model_seconds)
        self._open.set(files_open)
