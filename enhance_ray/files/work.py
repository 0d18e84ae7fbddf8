"""What the threads of a run do with one file each, and how they talk to the thread that has the model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from enhance_ray import audio
from enhance_ray.engine.analysis import Piece
from enhance_ray.engine.batching import Result
from enhance_ray.engine.restore import Restoration
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioError, AudioWriteError
from enhance_ray.files.plan import Job, target_format
from enhance_ray.files.progress import Opened, Written
from enhance_ray.files.tracks import TrackJob, holds_tracks, is_output_of, restore_tracks
from enhance_ray.records import Record, append_record
from enhance_ray.settings import trees
from enhance_ray.settings.options import ALL_TRACKS, EnhanceOptions

Item = TypeVar("Item")
_Stages = defaultdict[str, float]


@dataclass(frozen=True, slots=True)
class Request:
    """A file thread wants the model's answer to a piece."""

    piece: Piece
    future: Future[Result[Any]]


@dataclass(frozen=True, slots=True)
class Ended:
    """A file thread has ended: there are no more jobs, or ``error`` is a bug."""

    error: BaseException | None


class Stopped(Exception):  # noqa: N818 - ends a file thread, is no error
    """The run is being stopped."""


class FileWork:
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
        self.inbox: queue.SimpleQueue[Request | Opened | Written | Record | Ended] = queue.SimpleQueue()
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
        except Stopped:
            pass
        except BaseException as bug:  # goes on in the thread that iterates
            error = bug
        self.inbox.put(Ended(error))

    def stop(self, threads: list[threading.Thread], unanswered: set[Future[Result[Any]]]) -> list[Record]:
        """Let the threads remove what they have half written, and wait for them.

        Returns:
            Records of what they had finished.
        """
        late = []
        self._stopping.set()
        for future in unanswered:
            future.set_exception(Stopped())
        while any(thread.is_alive() for thread in threads) or not self.inbox.empty():
            try:
                message = self.inbox.get(timeout=0.05)
            except queue.Empty:
                continue
            match message:
                case Request(future=future):  # was on its way when the stop was called
                    future.set_exception(Stopped())
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
            self.inbox.put(Opened(job.input, info.seconds))
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
                    self.inbox.put(Written(job.input, block.shape[-1] / restoration.rate))
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
            self.inbox.put(Request(piece, future))
            pending.append(future)
            rows += len(piece.rows)
            while len(pending) > 1 and rows > self._rows_ahead:
                result = answer(pending.popleft())
                rows -= len(result.piece.rows)
                yield result
        yield from map(answer, pending)

    def _leave_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise Stopped


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
