"""The driver: plan, a pool of actors over the parts that are left, a live line, a stop where one is due."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from enhance_ray import audio, resemble
from enhance_ray.cluster.bulk import plan as planning
from enhance_ray.cluster.bulk import summary
from enhance_ray.cluster.bulk.identity import Fingerprint, open_job, resolved
from enhance_ray.cluster.bulk.ledger import ActorStats, Ledger, Snapshot
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState, Publisher
from enhance_ray.cluster.bulk.worker import PARTS_AT_ONCE, Load, Worker, load_enhancer
from enhance_ray.cluster.nodes import end_process, node_is_alive
from enhance_ray.cluster.scratch import ledger_folder
from enhance_ray.cluster.session import output_place, path_for_workers
from enhance_ray.errors import EnhanceRayError

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LOG_SECONDS = 30.0
_STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray's: seconds from which `ray job stop` asks to when it kills; 3 if nobody says otherwise."""
_KEPT_BACK_SECONDS = 2.0
"""Of these, what the driver needs for itself."""
_USAGE_SECONDS = 20.0


Status = Literal["complete", "stopped", "interrupted"]
"""``stopped``: too many files failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended."""

    status: Status
    listed: int
    """Inputs found now; 0 where nothing was listed."""
    added: int
    """Of them, new or changed since the last run."""
    parts_left: int
    """Of the manifest, unfinished."""
    report: summary.JobTotals | None
    """Over all records of the job, those of earlier runs included; None where the run was interrupted."""
    place: str
    """Folder with manifest, records and report."""


def prepare(settings: BulkConfig) -> BulkConfig:
    """``settings`` with places that processes of the cluster find."""
    model = path_for_workers(settings.model) if Path(settings.model).exists() else settings.model
    return dataclasses.replace(
        settings, input=output_place(settings.input), output=output_place(settings.output), model=model
    )


def planned(settings: BulkConfig, *, new_job: bool = False) -> JobState:
    """The job with a manifest of its input, and nothing else done.

    Raises:
        ConfigError: the input holds nothing, or the output belongs to another job.
        CheckpointError: the model cannot be used.
    """
    settings = prepare(settings)
    state = open_job(settings, Fingerprint.of(settings, _fingerprint(settings), runs=False), new=new_job)
    planning.plan(settings, state, _show_listing)
    return state


def _fingerprint(settings: BulkConfig) -> str:
    return resemble.load_model(settings.model, denoiser_only=settings.options.mode == "denoise").fingerprint


def run(
    settings: BulkConfig,
    *,
    new_job: bool = False,
    retry_failed: bool = False,
    list_input: bool = True,
    load: Load = load_enhancer,
    fingerprint: str | None = None,
) -> Outcome:
    """Do what is left of a job, on the cluster that this process is connected to.

    Args:
        settings: of the job.
        new_job: forget what was done at this output, and replace it.
        retry_failed: do again what failed in earlier runs.
        list_input: look for what is new in the input; without it, the manifest is taken as it is.
        load: how actors get their model.
        fingerprint: of that model, if it is not the one that the settings name.

    Raises:
        ConfigError: the input holds nothing, or the output belongs to another job.
        CheckpointError: the model cannot be used.
        RayError: an actor met a bug, or a storage that failed for longer than patience lasts.
    """
    settings = resolved(prepare(settings))
    state = open_job(settings, Fingerprint.of(settings, fingerprint or _fingerprint(settings)), new=new_job)
    listing = planning.Planned(0, 0, 0)
    if list_input or not state.parts():
        listing = planning.plan(settings, state, _show_listing)
        logger.info("%s: %d inputs, %d of them new", settings.input, listing.listed, listing.added)
    if retry_failed:
        logger.info("%d failed files are done again", state.reopen_failed())
    done = state.finished()
    planned_parts = state.parts()
    parts = [part for part in planned_parts if part not in done]
    status: Status = "complete"
    if not audio.is_remote(settings.output):
        audio.remove_leftovers(settings.output)  # of a run whose actors were killed
    if parts:
        logger.info("%d parts of the manifest are finished, %d are left", len(done), len(parts))
        status = _Run(settings, state, load).do(parts)
    left = len(planned_parts) - len(state.finished())
    # Who interrupts does not wait.
    report = None if status == "interrupted" else summary.write(settings, state)
    return Outcome(
        status=status,
        listed=listing.listed,
        added=listing.added,
        parts_left=left,
        report=report,
        place=state.folder.uri,
    )


def _show_listing(listed: int, added: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{listed:,} inputs listed, {added:,} new")
        sys.stderr.flush()


class _Run:
    """Actors at work, and who watches them."""

    def __init__(self, settings: BulkConfig, state: JobState, load: Load) -> None:
        self._settings = settings
        self._state = state
        self._load = load
        run = state.claim()
        # Beside the driver, and gone with it: what it knows is of use to this run alone.
        self._memory = ledger_folder()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Ledger)
        actor = actor.options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        self._ledger = actor.remote(
            node_is_alive,
            Publisher(settings.output, state.job, run),
            lease_seconds=settings.lease_seconds,
            file=self._memory / "ledger",
        )
        self._ended = threading.Event()
        self._interrupted = threading.Event()
        self._status: Status = "complete"
        self._usage_written = time.time()

    def do(self, parts: list[str]) -> Status:
        """Run ``parts``, to the end or to a stop."""
        _warn_if_none_fits(self._settings)
        sizes = self._sizes(parts)
        files, total = (sum(numbers) for numbers in zip(*sizes.values(), strict=True))
        line = _LiveLine(self._settings, files, total)
        # The largest first, so that no long recording is left to one actor at the end.
        parts = sorted(parts, key=lambda part: -sizes[part][1])
        watch = threading.Thread(target=self._watch, args=(line,), name="watch", daemon=True)
        watch.start()
        try:
            with _signals(self._interrupted):
                for row in self._dataset(parts).iter_rows():
                    if not row["complete"] and self._status == "complete":
                        raise EnhanceRayError(f"{row['part']} was left unfinished")  # a bug of ours
        except KeyboardInterrupt:  # of `_watch`: nothing is left to wait for
            if self._status == "complete":
                raise
        finally:
            self._ended.set()
            watch.join(timeout=10)
            last: Snapshot = ray.get(self._ledger.snapshot.remote())
            self._write_usage(last)
            if self._state.is_current():
                self._state.drop_staged()
            shutil.rmtree(self._memory, ignore_errors=True)
            line.show(last, final=True)
        return self._status

    def _dataset(self, parts: list[str]) -> Any:
        settings = self._settings
        least, most = settings.actor_range
        # One block for each part: that is what is given to an actor, and what comes back when one is lost.
        dataset = ray.data.from_items(
            [{"part": part} for part in parts], override_num_blocks=len(parts)
        ).map_batches(
            Worker,
            fn_constructor_args=(settings, self._state.job, self._ledger, self._load),
            batch_size=1,
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=most,
                max_tasks_in_flight_per_actor=PARTS_AT_ONCE,
                max_concurrent_calls_per_actor=PARTS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=settings.cpus_per_actor,
            num_gpus=settings.gpus_per_actor,
        )
        dataset.context.enable_progress_bars = False
        # A pool grows while all of its actors have all the parts that they take at once. Ray's default asks
        # for more parts than that, and a pool would stay at its least size.
        dataset.context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
        return dataset

    def _sizes(self, parts: list[str]) -> dict[str, tuple[int, int]]:
        """Files and bytes of each part."""
        names = [f"manifest/{part}.parquet" for part in parts]
        tables = self._state.folder.read_tables(names, ["bytes"])
        sizes = ((len(table), pc.sum(table["bytes"]).as_py() or 0) for table in tables)
        return dict(zip(parts, sizes, strict=True))

    def _watch(self, line: _LiveLine) -> None:
        leave_at = math.inf
        while not self._ended.wait(_LOOK_SECONDS):
            try:
                lost: list[ActorStats] = ray.get(self._ledger.expire.remote(), timeout=60)
                now: Snapshot = ray.get(self._ledger.snapshot.remote(), timeout=60)
            except ray.exceptions.RayError:
                continue  # it is started again
            for actor in lost:
                logger.info("an actor was not heard of for %g s: it is ended", self._settings.lease_seconds)
                end_process(actor.node, actor.pid)
            line.show(now)
            if time.time() - self._usage_written > _USAGE_SECONDS:
                self._write_usage(now)
                if not self._state.is_current() and not self._interrupted.is_set():
                    logger.error("another run of this job has begun: this one leaves it the rest")
                    self._interrupted.set()
            if self._status != "complete":
                if now.parts_open == 0 or time.monotonic() > leave_at:
                    _thread.interrupt_main()
                    return
            elif self._interrupted.is_set():
                logger.warning("interrupted: the same command goes on from here")
                self._status, leave_at = "interrupted", time.monotonic() + _leave_seconds()
                self._ledger.stop.remote("abort")
            elif self._settings.too_many_failed(now.failed, now.done + now.failed):
                limit, finished = self._settings.max_failed, now.done + now.failed
                logger.error("%d of %d files failed, more than max_failed (%s)", now.failed, finished, limit)
                self._status = "stopped"
                self._ledger.stop.remote("drain")

    def _write_usage(self, now: Snapshot) -> None:
        """For the bill; while a run goes on, too, for its driver may be killed."""
        actors = {name: [a.seen - a.started, a.seconds_done] for name, a in now.actors.items()}
        tree = {"deaths": now.deaths, "actors": actors}
        self._state.folder.write(f"runs/{self._state.run}.json", json.dumps(tree).encode())
        self._usage_written = time.time()


def _leave_seconds() -> float:
    """For how long actors may put away what they have open when a run is interrupted."""
    return max(1.0, float(os.environ.get(_STOP_VARIABLE, "3")) - _KEPT_BACK_SECONDS)


@contextlib.contextmanager
def _signals(interrupted: threading.Event) -> Iterator[None]:
    """SIGTERM, by which `ray job stop` asks, and SIGINT set ``interrupted``; a second one raises.

    Raises:
        KeyboardInterrupt: at the second signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _LiveLine:
    """How far a run is: one line that is drawn over on a terminal, and now and then one in a log."""

    def __init__(self, settings: BulkConfig, files: int, total_bytes: int) -> None:
        self._settings = settings
        self._files = files
        self._bytes = total_bytes
        self._started = self._logged = time.time()
        self._write: Callable[[str], Any] | None = sys.stderr.write if sys.stderr.isatty() else None

    def show(self, now: Snapshot, *, final: bool = False) -> None:
        """Draw it."""
        text = self.text(now)
        if self._write is not None:
            self._write(f"\r\x1b[2K{text}" + ("\n" if final else ""))
            sys.stderr.flush()
        elif final or time.time() - self._logged > _LOG_SECONDS:
            self._logged = time.time()
            logger.info("%s", text)

    def text(self, now: Snapshot) -> str:
        """Hours, speed, time left, failures, money."""
        finished = now.done + now.failed
        hours = sum(actor.seconds_done for actor in now.actors.values()) / 3600
        actor_hours = sum(actor.seen - actor.started for actor in now.actors.values()) / 3600
        parts = [f"{hours:,.2f} h of audio", f"{finished:,} of {self._files:,} files"]
        share = now.bytes / self._bytes if self._bytes else finished / self._files if self._files else 0.0
        parts[-1] += f" ({share:.0%})"
        unit, size = (
            ("GPU", self._settings.gpus_per_actor) if self._settings.gpus_per_actor else ("actor", 1.0)
        )
        if actor_hours:
            parts.append(f"{hours / (actor_hours * size):,.0f} h per {unit}-hour")
        if share:
            parts.append(f"{_span((time.time() - self._started) * (1 / min(share, 1.0) - 1))} left")
        parts.append(f"{now.failed:,} failed")
        if now.deaths:
            parts.append(f"{now.deaths:,} actors lost")
        if (price := self._settings.price_per_actor_hour) is not None:
            parts.append(f"{actor_hours * price:,.2f} spent")
        return ", ".join(parts)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f"{minutes / 1440:.1f} days"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds:.0f} s"


def _warn_if_none_fits(settings: BulkConfig) -> None:
    """A pool that no machine can hold waits for the autoscaler, perhaps for ever."""
    wanted = {"CPU": settings.cpus_per_actor, "GPU": settings.gpus_per_actor}
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"] and all(resources.get(name, 0) >= amount for name, amount in wanted.items()):
            return
    text = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
    logger.warning("no machine of the cluster has %s for an actor: waiting for one", text)
