"""Running jobs: decode, model and encode side by side.

    file threads, one open file each:   decode -> Analysis -> pieces ...... results -> Synthesis -> encode
    the caller's thread:                      inbox -> Batcher -> Enhancer.run -> futures

A file thread keeps a batch's worth of pieces with the model while it decodes the next and encodes the last,
so decoding, model and encoding overlap, pieces of several files share a batch, and memory depends on
the number of open files alone. One input's failure is its `Record`; any other exception stops
everything, removes what was half written, and is raised to the caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from enhance_ray import audio
from enhance_ray.engine.analysis import Piece
from enhance_ray.engine.batching import Batcher, Result
from enhance_ray.engine.restore import Restoration
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioError, AudioWriteError, ConfigError
from enhance_ray.files.plan import Job, target_format
from enhance_ray.files.tracks import TrackJob, holds_tracks, is_output_of, restore_tracks
from enhance_ray.records import Record, append_record
from enhance_ray.settings import trees
from enhance_ray.settings.options import ALL_TRACKS, EnhanceOptions

Item = TypeVar("Item")
_Stages = defaultdict[str, float]

_LOOK_SECONDS = 0.2  # between looks at whether to stop


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


def enhance_files(
    jobs: Iterable[Job],
    enhancer: Enhancer,
    options: EnhanceOptions | None = None,
    *,
    batch_size: int | None = None,
    files_at_once: int = 4,
    patience: float = 0.0,
    force: bool = False,
    partial: bool = False,
    scores: bool = False,
    preserve_times: bool = False,
    done: Mapping[str, Record] | None = None,
    report_path: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Generator[Record, None, None]:
    """Run every job; yield one `Record` each, as soon as it is known, in the order of completion.

    The model runs in the thread that iterates, and pauses while that does something else. Closing the
    iterator, or an exception in it, stops the run: outputs are complete or absent.

    Args:
        jobs: taken one by one, as threads become free.
        enhancer: the model.
        options: what to do; the defaults of `EnhanceOptions` if None.
        batch_size: rows that run at once; by default what suits the device.
        files_at_once: files that are open at the same time, a thread each.
        patience: for how many seconds a remote storage that fails is asked again, at growing intervals.
        force: replace outputs that exist.
        partial: keep what could be decoded of a damaged input; the record carries a warning.
        scores: have records say how good input and output sound (see `engine.scores`).
        preserve_times: give local outputs the time at which their local inputs were last changed.
        done: records of an earlier run by input (see `done_before`). Such a job becomes a record with
            status "skipped", if its output is the same and still exists.
        report_path: JSON-lines report to which each record is appended the moment its output is in
            place, so that a run that is killed finds what it finished. Skipped ones are in it already.
        progress: called in the iterating thread, several times a segment.
        stop: ends the run within a segment once it is set. Of what was finished by then, the records still
            come, which an exception would lose.

    Raises:
        ConfigError: a number is below 1, or the model cannot do what the options ask for.
    """
    enhancer.check(options or EnhanceOptions())
    batch_size = enhancer.batch_size if batch_size is None else batch_size
    for name, value in (("batch_size", batch_size), ("files_at_once", files_at_once)):
        if value < 1:
            raise ConfigError(name, f"must be at least 1, got {value}")
    work = _FileWork(
        enhancer=enhancer,
        options=options or EnhanceOptions(),
        rows_ahead=batch_size,
        patience=patience,
        force=force,
        partial=partial,
        scores=scores,
        preserve_times=preserve_times,
        done=done or {},
        report_path=report_path,
    )
    total = len(jobs) if isinstance(jobs, Collection) else None
    tally = _Tally(total, progress)
    return _run(work, iter(jobs), batch_size, files_at_once, tally, stop or threading.Event())


def _run(
    work: _FileWork,
    jobs: Iterator[Job],
    batch_size: int,
    files_at_once: int,
    tally: _Tally,
    stop: threading.Event,
) -> Generator[Record, None, None]:
    """Serve the file threads with the model until they have no more jobs."""
    batcher: Batcher[Future[Result[Any]]] = Batcher(work.enhancer, work.options, batch_size)
    unanswered: set[Future[Result[Any]]] = set()
    jobs_lock = threading.Lock()
    threads = [
        threading.Thread(target=work.run, args=(jobs, jobs_lock), name=f"file-{i}", daemon=True)
        for i in range(files_at_once)
    ]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running and not stop.is_set():
            try:
                message = work.inbox.get(block=not len(batcher), timeout=_LOOK_SECONDS)
            except queue.Empty:  # all threads are busy: rather a batch that is not full than none
                tally.model_seconds += _answer(batcher.run_oldest(), unanswered)
                continue
            match message:
                case _Request(piece, future):
                    unanswered.add(future)
                    tally.model_seconds += _answer(batcher.add(future, piece), unanswered)
                case _Opened() | _Written():
                    tally.note(message)
                case Record():
                    tally.close(message)
                    yield message
                case _Ended(error):
                    running -= 1
                    if error is not None:
                        raise error
    finally:
        late = work.stop(threads, unanswered)
    for record in late:
        tally.close(record)
        yield record


def _answer(results: list[Result[Future[Result[Any]]]], unanswered: set[Future[Result[Any]]]) -> float:
    """Pass ``results`` on to who waits for them; the seconds that they took."""
    for result in results:
        unanswered.discard(result.owner)
        # A future that holds a result that holds the future is a cycle: the collector counts objects and
        # not bytes, and would let hundreds of segments pile up.
        answer = Result(None, result.piece, result.output, result.seconds_spent)
        result.owner.set_result(answer)
    return sum(result.seconds_spent for result in results)


@dataclass(frozen=True, slots=True)
class _Request:
    """A file thread wants the model's answer to a piece."""

    piece: Piece
    future: Future[Result[Any]]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file thread has opened an input of so many seconds."""

    input: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Written:
    """A file thread has written so many seconds more of an output."""

    input: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Ended:
    """A file thread has ended: there are no more jobs, or ``error`` is a bug."""

    error: BaseException | None


class _Stopped(Exception):  # noqa: N818 - ends a file thread, is no error
    """The run is being stopped."""


class _FileWork:
    """What the file threads do, and what they share."""

    def __init__(
        self,
        *,
        enhancer: Enhancer,
        options: EnhanceOptions,
        rows_ahead: int,
        patience: float,
        force: bool,
        partial: bool,
        scores: bool,
        preserve_times: bool,
        done: Mapping[str, Record],
        report_path: str | Path | None,
    ) -> None:
        self.enhancer = enhancer
        self.inbox: queue.SimpleQueue[_Request | _Opened | _Written | Record | _Ended] = queue.SimpleQueue()
        self.options = options
        self._options_tree = trees.to_tree(options)
        self._rows_ahead = rows_ahead
        self._force = force
        self._partial = partial
        self._scores = scores
        self._preserve_times = preserve_times
        self._done = done
        self._report_path = report_path
        self._report_lock = threading.Lock()
        self._stopping = threading.Event()
        self._patience = audio.Patience(patience, self._stopping)

    def run(self, jobs: Iterator[Job], jobs_lock: threading.Lock) -> None:
        """One thread: a job after the other, until there are no more."""
        error: BaseException | None = None
        try:
            while not self._stopping.is_set():
                with jobs_lock:
                    job = next(jobs, None)
                if job is None:
                    break
                self.inbox.put(self._record(job))
        except _Stopped:
            pass
        except BaseException as bug:  # goes on in the thread that iterates
            error = bug
        self.inbox.put(_Ended(error))

    def stop(self, threads: list[threading.Thread], unanswered: set[Future[Result[Any]]]) -> list[Record]:
        """Let the threads remove what they have half written, and wait for them.

        Returns:
            Records of what they had finished.
        """
        late = []
        self._stopping.set()
        for future in unanswered:
            future.set_exception(_Stopped())
        while any(thread.is_alive() for thread in threads) or not self.inbox.empty():
            try:
                message = self.inbox.get(timeout=0.05)
            except queue.Empty:
                continue
            match message:
                case _Request(future=future):  # was on its way when the stop was called
                    future.set_exception(_Stopped())
                case Record():
                    late.append(message)
        return late

    def _record(self, job: Job) -> Record:
        earlier = self._done.get(job.input)
        if (
            earlier is not None
            and earlier.output is not None
            and is_output_of(earlier.output, job.output, self.options)
            and audio.exists(earlier.output)
        ):
            return dataclasses.replace(earlier, status="skipped")
        try:
            record = self._enhance(job)
        except AudioError as error:
            record = Record(
                input=job.input,
                status="failed",
                code=error.code,
                reason=error.reason_for(job.input) + (f" ({error.remedy})" if error.remedy else ""),
                model=self.enhancer.fingerprint,
                options=self._options_tree,
            )
        if self._report_path is not None:
            with self._report_lock:
                append_record(self._report_path, record)
        return record

    def _enhance(self, job: Job) -> Record:
        if self.options.audio_track != ALL_TRACKS:
            return self._restore(job, None)
        languages = audio.list_tracks(job.input, self._patience)
        if len(languages) < 2:
            return self._restore(job, None)
        if not self._force and holds_tracks(job.output) and audio.exists(job.output, self._patience):
            raise AudioWriteError(job.output, "it exists", "--force overwrites it")
        return restore_tracks(job.input, job.output, languages, functools.partial(self._restore, job))

    def _restore(self, job: Job, only: TrackJob | None) -> Record:
        """Restore one sound of ``job``: the one that is asked for, or ``only``."""
        track = self.options.audio_track if self.options.audio_track != ALL_TRACKS else None
        if only is None:
            only = TrackJob(job.input, job.output, 0, job.output)
        else:
            track = only.track
        started, cpu_started = time.perf_counter(), time.thread_time()
        stages: _Stages = defaultdict(float)
        with audio.decode(
            only.source, partial=self._partial, patience=self._patience, track=track
        ) as decoder:
            info = decoder.info
            self.inbox.put(_Opened(job.input, info.seconds))
            target = target_format(info, only.named, self.options.format)
            if not only.is_last:  # every codec has a place there, until the last pass
                target = dataclasses.replace(target, container="mkv")
            restoration = Restoration(
                self.enhancer.framing,
                functools.partial(self._through_model, stages),
                info.sample_rate,
                info.channels,
                self.options,
                name=job.input,
                levels=True,
                scores=self._scores,
                is_bounded=target.is_bounded,
            )
            with audio.encode(
                only.output,
                sample_rate=restoration.rate,
                channels=restoration.channels,
                target=target,
                source=info,
                force=self._force,
                patience=self._patience,
            ) as encoder:
                blocks = map(torch.from_numpy, _timed(decoder, stages, "decode"))
                for block in restoration.blocks(blocks):
                    self._leave_if_stopping()
                    with _clocked(stages, "encode"):
                        encoder.write(block.numpy())
                    self.inbox.put(_Written(job.input, block.shape[-1] / restoration.rate))
                written = time.perf_counter()
            stages["encode"] += time.perf_counter() - written
        if self._preserve_times:
            audio.copy_times(job.input, only.output)
        spent = time.thread_time() - cpu_started + stages["model"]
        passed = stages["decode"] + stages["wait"] + stages["encode"]
        stages["prepare"] = max(0.0, time.perf_counter() - started - passed)
        return Record(
            input=job.input,
            output=only.output,
            status="done",
            seconds_spent=spent,
            stages=dict(stages),
            output_bytes=encoder.bytes,
            sample_rate=info.sample_rate,
            channels=info.channels,
            model=self.enhancer.fingerprint,
            options=self._options_tree,
            **dataclasses.asdict(restoration.facts(decoder.warning, encoder.remark)),
        )

    def _through_model(self, stages: _Stages, pieces: Iterable[Piece]) -> Iterator[Result[Any]]:
        """Results in the order of ``pieces``; as many rows as a batch has are with the model at a time."""

        def answer(future: Future[Result[Any]]) -> Result[Any]:
            with _clocked(stages, "wait"):
                result = future.result()
            stages["model"] += result.seconds_spent
            return result

        pending: deque[Future[Result[Any]]] = deque()
        rows = 0
        for piece in pieces:
            self._leave_if_stopping()
            future: Future[Result[Any]] = Future()
            self.inbox.put(_Request(piece, future))
            pending.append(future)
            rows += len(piece.rows)
            while len(pending) > 1 and rows > self._rows_ahead:
                result = answer(pending.popleft())
                rows -= len(result.piece.rows)
                yield result
        yield from map(answer, pending)

    def _leave_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise _Stopped


class _Tally:
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

    def note(self, message: _Opened | _Written) -> None:
        if isinstance(message, _Opened):
            self._lengths[message.input] = message.seconds
        else:
            self._written[message.input] += message.seconds
            self._seconds_done += message.seconds
        self._call()

    def close(self, record: Record) -> None:
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


def _timed(items: Iterable[Item], stages: _Stages, stage: str) -> Iterator[Item]:
    """``items``, with the time that each takes to come added to ``stage``."""
    iterator = iter(items)
    while True:
        with _clocked(stages, stage):
            item = next(iterator, None)
        if item is None:
            return
        yield item


@contextlib.contextmanager
def _clocked(stages: _Stages, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        stages[stage] += time.perf_counter() - started
