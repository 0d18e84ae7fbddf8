"""Running jobs: decode, model and encode side by side.

    file threads, one open file each:   decode -> Analysis -> pieces ...... results -> Synthesis -> encode
    the caller's thread:                      inbox -> Batcher -> Enhancer.run -> futures

A file thread keeps a batch's worth of pieces with the model while it decodes the next and encodes the last,
so decoding, model and encoding overlap, pieces of several files share a batch, and memory depends on
the number of open files alone. One input's failure is its `Record`; any other exception stops
everything, removes what was half written, and is raised to the caller.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from enhance_ray.engine.batching import Batcher, Result
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import ConfigError
from enhance_ray.files.plan import Job
from enhance_ray.files.progress import Opened, Progress, Tally, Written
from enhance_ray.files.work import Ended, FileWork, Request
from enhance_ray.records import Record
from enhance_ray.settings.options import EnhanceOptions

_LOOK_SECONDS = 0.2  # between looks at whether to stop


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
    work = FileWork(
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
    tally = Tally(total, progress)
    return _run(work, iter(jobs), batch_size, files_at_once, tally, stop or threading.Event())


def _run(
    work: FileWork,
    jobs: Iterator[Job],
    batch_size: int,
    files_at_once: int,
    tally: Tally,
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
                case Request(piece, future):
                    unanswered.add(future)
                    tally.model_seconds += _answer(batcher.add(future, piece), unanswered)
                case Opened() | Written():
                    tally.note(message)
                case Record():
                    tally.close(message)
                    yield message
                case Ended(error):
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
