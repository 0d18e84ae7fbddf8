"""One run of a job: pools of actors over parts of the manifest, and who watches them."""

from __future__ import annotations

import _thread
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk.ledger import ActorStats, Ledger, Snapshot
from enhance_ray.cluster.bulk.live import LiveLine
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState, Publisher
from enhance_ray.cluster.bulk.worker import PARTS_AT_ONCE, Load, Worker
from enhance_ray.cluster.nodes import end_process, node_is_alive
from enhance_ray.cluster.scratch import ledger_folder
from enhance_ray.errors import EnhanceRayError, explain

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray's: seconds from which `ray job stop` asks to when it kills; 3 if nobody says otherwise."""
_KEPT_BACK_SECONDS = 2.0
"""Of these, what the driver needs for itself."""
_USAGE_SECONDS = 20.0
_MERGE_SECONDS = 600.0

Status = Literal["complete", "stopped", "interrupted"]
"""``stopped``: too many files failed, or the job has cost what it may."""


class Run:
    """Actors at work, and who watches them."""

    def __init__(self, settings: BulkConfig, state: JobState, load: Load) -> None:
        """Begin a run of the job: from now on no other one can commit."""
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
        self._interrupted = threading.Event()
        self._line = LiveLine(settings)
        self._status: Status = "complete"
        self._usage_written = time.time()
        self._hours_before: defaultdict[int, float] = defaultdict(float)
        for usage in state.runs():
            for present, _, kind in usage["actors"].values():
                self._hours_before[kind] += present / 3600

    def do(self, parts: list[str]) -> Status:
        """Run ``parts``, to the end or to a stop. May be called again with others, while all went well."""
        _warn_if_none_fits(self._settings)
        sizes = self._state.sizes(parts)
        files, total = (sum(numbers) for numbers in zip(*sizes.values(), strict=True))
        self._line.expect(files, total)
        # The largest first, so that no long recording is left to one actor at the end; of much the same size,
        # in order, so that neighbours are done at the same time and their records can be merged.
        parts = sorted(parts, key=lambda part: -round(2 * math.log2(1 + sizes[part][1])))
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(ended,), name="watch", daemon=True)
        watch.start()
        merge = threading.Thread(target=self._merge, args=(ended,), name="merge", daemon=True)
        merge.start()
        try:
            with _signals(self._interrupted):
                ray.get(self._ledger.offer.remote(parts))
                self._write_usage(ray.get(self._ledger.snapshot.remote()))  # a run that dies at once counts
                self._run_pools(len(parts))
        except KeyboardInterrupt:  # of `_watch`: nothing is left to wait for
            if self._status == "complete":
                raise
        finally:
            ended.set()
            watch.join(timeout=10)
            if self._status != "interrupted":  # what comes next merges, too
                merge.join()
            now = ray.get(self._ledger.snapshot.remote())
            self._write_usage(now)
        if self._status == "complete" and now.parts_waiting:
            raise EnhanceRayError(f"{now.parts_waiting} parts were given to nobody")  # a bug of ours
        return self._status

    def close(self) -> None:
        """Put away what the run kept, when there is nothing more to do."""
        self._line.show(ray.get(self._ledger.snapshot.remote()), final=True)
        if self._state.is_current():
            self._state.drop_staged()
        shutil.rmtree(self._memory, ignore_errors=True)

    def _run_pools(self, parts: int) -> None:
        """Have all kinds of actors take parts until none is left."""
        errors: list[BaseException] = []

        def run(kind: int) -> None:
            for row in self._dataset(kind, parts).iter_rows():
                if not row["complete"] and self._status == "complete":
                    raise EnhanceRayError(f"{row['part']} was left unfinished")  # a bug of ours

        def run_beside(kind: int) -> None:
            try:
                run(kind)
            except BaseException as error:  # goes on in the thread of all
                errors.append(error)

        others = [
            threading.Thread(target=run_beside, args=(kind,), name=f"pool-{kind}", daemon=True)
            for kind in range(1, len(self._settings.by_kind))
        ]
        for thread in others:
            thread.start()
        run(0)
        for thread in others:
            while thread.is_alive():  # an interrupt is not heard in a join without end
                thread.join(_LOOK_SECONDS)
        for error in errors:
            raise error

    def _dataset(self, kind: int, parts: int) -> Any:
        settings = self._settings.by_kind[kind]
        least, most = settings.actor_range
        # Tickets, which actors turn into parts: as many for each kind, which may be the one that does all.
        # One block for each: that is what is given to an actor, and what comes back when one is lost.
        unique = uuid.uuid4().hex
        tickets = [{"ticket": f"{unique}-{number}"} for number in range(parts)]
        dataset = ray.data.from_items(tickets, override_num_blocks=parts).map_batches(
            Worker,
            fn_constructor_args=(self._settings, kind, self._state.job, self._ledger, self._load),
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

    def _watch(self, ended: threading.Event) -> None:
        leave_at = math.inf
        while not ended.wait(_LOOK_SECONDS):
            try:
                lost: list[ActorStats] = ray.get(self._ledger.expire.remote(), timeout=60)
                now: Snapshot = ray.get(self._ledger.snapshot.remote(), timeout=60)
            except ray.exceptions.RayError:
                continue  # it is started again
            for actor in lost:
                logger.info("an actor was not heard of for %g s: it is ended", self._settings.lease_seconds)
                end_process(actor.node, actor.pid)
            self._line.show(now)
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
            elif self._costs_too_much(now):
                logger.error("the job has cost more than max_cost (%g)", self._settings.max_cost)
                self._status = "stopped"
                self._ledger.stop.remote("drain")

    def _merge(self, ended: threading.Event) -> None:
        """Keep the records of a long job in few tables."""
        while not ended.wait(_MERGE_SECONDS):
            try:
                self._state.merge(whole=True, stopped=ended.is_set)
            except FILE_ERRORS as error:
                logger.warning("records are merged later: %s", explain(error))

    def _costs_too_much(self, now: Snapshot) -> bool:
        limit = self._settings.max_cost
        hours = now.hours.copy()
        for kind, before in self._hours_before.items():
            hours[kind] += before
        cost = self._settings.cost(hours)
        return limit is not None and cost is not None and cost > limit

    def _write_usage(self, now: Snapshot) -> None:
        """For the bill; while a run goes on, too, for its driver may be killed."""
        actors = {name: [a.seen - a.started, a.seconds_done, a.kind] for name, a in now.actors.items()}
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


def _warn_if_none_fits(settings: BulkConfig) -> None:
    """A pool that no machine can hold waits for the autoscaler, perhaps for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind in settings.by_kind:
        wanted = {"CPU": kind.cpus_per_actor, "GPU": kind.gpus_per_actor}
        if not any(all(has.get(name, 0) >= amount for name, amount in wanted.items()) for has in machines):
            text = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
            logger.warning("no machine of the cluster has %s for an actor: waiting for one", text)
