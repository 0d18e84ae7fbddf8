"""Jobs: recordings that no request could wait for. URIs in, URIs out.

    FOLDER/open/ID.json       a job until each of its recordings is done or failed
    FOLDER/done/ID.json       and from then on, until it is deleted
    FOLDER/deleted/ID.json    for a day, that it was

One replica works on all jobs. It remembers on the storage, so that one that is lost, or replaced by a new
version, leaves nothing behind: the next one goes on with what is open. An output is complete or absent. For a
while an old replica and a new one live side by side: what was deleted at one is not written by the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

import ray
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field
from ray import serve

from enhance_ray import audio
from enhance_ray.audio.storage import FILE_ERRORS, may_pass
from enhance_ray.cluster.folder import Folder
from enhance_ray.cluster.serve import reading, restoring
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.cluster.serve.settings import ServeConfig
from enhance_ray.cluster.serve.stages import Mode, Stages
from enhance_ray.errors import AudioError, EnhanceRayError, explain
from enhance_ray.files import target_format

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 300.0
"""Seconds for which a storage that fails is asked again."""
_ASKED_AT_ONCE = 16
_NOTE_PATIENCE = 10.0
"""The same for a job's own notes: others wait behind them, and they are tried again."""
_NOTE_PAUSE = 5.0
_REMEMBERED = timedelta(days=1)
"""How long it is remembered that a job was deleted: longer than any old replica lives."""


class _Strict(BaseModel):
    # /openapi.json says what the texts below the fields do.
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class RecordingPaths(_Strict):
    """A recording and where its answer goes."""

    input: str = Field(max_length=2000, examples=["s3://shows/raw/episode-1.mp3"])
    output: str = Field(max_length=2000, examples=["s3://shows/clean/episode-1.mp3"])


class Order(_Strict):
    """What a job is to do."""

    mode: Mode = "denoise"
    recordings: list[RecordingPaths] = Field(min_length=1)
    options: dict[str, JsonValue] = Field(default_factory=dict, examples=[{"loudness": -16}])
    """Those of `EnhanceOptions`."""
    replace: bool = False
    """Whether outputs may be there already."""
    id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{8,64}$")
    """A name of your own for the job. If an answer is lost, the same order with the same name may be sent
    again, and makes no second job."""


class Recording(RecordingPaths):
    """A recording of a job, and how far it is."""

    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    progress: float = 0.0
    """From 0 to 1."""
    seconds: float | None = None
    """Of audio, once it is known."""
    error: str | None = None
    reason: str | None = None
    warning: str | None = None
    """What is not as it should be with an output all the same."""
    guard: list[dict[str, JsonValue]] = Field(default_factory=list)
    """Where a guard kept another version than the one asked for: start, stop (s) and what was kept."""
    peak_in: float | None = None
    """dBFS, before and after; None in silence."""
    peak_out: float | None = None
    peak_reduction: float = 0.0
    """By how many dB a limiter lowered peaks at most, to reach a loudness or to fit into the format."""
    loudness_in: float | None = None
    """LUFS (ITU-R BS.1770-4), before and after; None where all is below the gate."""
    loudness_out: float | None = None


class JobReport(BaseModel):
    """A job, and how far it is."""

    id: str
    created: datetime
    mode: Mode
    options: dict[str, JsonValue]
    recordings: list[Recording]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def status(self) -> Literal["waiting", "running", "done", "failed"]:
        """Of the whole: failed is what ended with a recording that failed."""
        counts = Counter(recording.status for recording in self.recordings)
        if counts["done"] + counts["failed"] == len(self.recordings):
            return "failed" if counts["failed"] else "done"
        return "waiting" if counts["waiting"] == len(self.recordings) else "running"

    @property
    def has_ended(self) -> bool:
        """Whether each recording is done or failed."""
        return self.status in ("done", "failed")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return sum(recording.progress for recording in self.recordings) / len(self.recordings)


def check_uri(uri: str, prefixes: tuple[str, ...]) -> str:
    """``uri``, if it lies below one of ``prefixes``.

    Raises:
        RequestError: it does not, or is written in a way that might lead elsewhere.
    """
    below = next((uri.removeprefix(prefix) for prefix in prefixes if uri.startswith(prefix)), None)
    if below is None:
        raise RequestError(422, "uri_refused", "a URI is not below one of those that jobs may use here")
    strange = "::" in uri or re.search(r"[\x00-\x1f\x7f\\*?]", uri)
    if strange or any(part in ("", ".", "..") for part in below.split("/")):
        raise RequestError(422, "uri_refused", "a URI has to name one object, plainly")
    return uri


class _Cancelled(Exception):  # noqa: N818 - ends a recording, is no error
    """The job was deleted."""


class _Running:
    """An open job in this process."""

    def __init__(self, job: JobReport) -> None:
        self.job = job
        self.cancelled = threading.Event()
        self.writing = threading.Lock()
        self.kept: Future[None] = Future()
        """Done when it is on the storage; before, others with its name wait."""


@serve.deployment
class JobsDeployment:
    """Keeps jobs, and works on them."""

    def __init__(self, settings: ServeConfig, denoiser: Any, enhancer: Any | None) -> None:
        self._settings = settings
        self._stages = Stages(denoiser, enhancer)
        self._folder = Folder(settings.jobs.folder, _NOTE_PATIENCE)
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._workers = ThreadPoolExecutor(settings.jobs.at_once, thread_name_prefix="job")
        self._askers = ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="storage")
        deleted = self._forget_deleted()
        for name in self._folder.names("open"):
            if name in deleted:
                self._folder.remove(f"open/{name}")
                continue
            running = _Running(JobReport.model_validate_json(self._folder.read(f"open/{name}")))
            self._running[running.job.id] = running
            running.kept.set_result(None)
            self._begin(running)

    def _forget_deleted(self) -> set[str]:
        """Files of jobs that were deleted of late; older memories are removed."""
        kept = set()
        for name in self._folder.names("deleted"):
            when = datetime.fromisoformat(self._folder.read(f"deleted/{name}").decode())
            if datetime.now(UTC) - when < _REMEMBERED:
                kept.add(name)
            else:
                self._folder.remove(f"deleted/{name}")
        return kept

    async def submit(self, order: Order) -> JobReport:
        """Take a job.

        Raises:
            RequestError: a URI or an option is not allowed, there are too many recordings, an output is there
                already, the name is another job's, or the storage does not answer.
        """
        return await self._aside(self._submit, order)

    async def look(self, name: str) -> JobReport:
        """How far a job is.

        Raises:
            RequestError: it is not known.
        """
        return await self._aside(self._look, name)

    async def delete(self, name: str) -> None:
        """Stop a job if it is open, and forget it; outputs that are complete stay.

        Raises:
            RequestError: it is not known.
        """
        await self._aside(self._delete, name)

    async def _aside(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._askers, function, *arguments)
        except FILE_ERRORS as error:
            if isinstance(error, EnhanceRayError | ray.exceptions.RayError) or not may_pass(error):
                raise
            logger.exception("the storage of jobs, %s, fails", self._folder.uri)
            raise RequestError(
                503, "unavailable", "the storage of jobs does not answer; try again"
            ) from error

    def _submit(self, order: Order) -> JobReport:
        limits = self._settings.jobs
        if len(order.recordings) > limits.recordings:
            raise RequestError(413, "too_many", f"a job may have {limits.recordings} recordings")
        reading.options_from(order.options, order.mode, self._settings)
        self._stages.models(order.mode)  # refuses what is not served
        outputs = []
        for pair in order.recordings:
            check_uri(pair.input, limits.prefixes)
            outputs.append(check_uri(pair.output, limits.prefixes))
        if len(set(outputs) - {pair.input for pair in order.recordings}) < len(outputs):
            raise RequestError(409, "output_clash", "an output is named twice, or is an input too")
        job = JobReport(
            id=order.id or secrets.token_urlsafe(12),
            created=datetime.now(UTC),
            mode=order.mode,
            options=order.options,
            recordings=[Recording(input=pair.input, output=pair.output) for pair in order.recordings],
        )
        with self._lock:
            first = self._running.get(job.id)
            if first is None:
                self._check_beside_others(outputs)
                running = self._running[job.id] = _Running(job)
        if first is not None:
            first.kept.result(_PATIENCE)
            return _same(first.job, job)
        try:
            ended = self._ended(job.id) if order.id is not None else None
            if ended is None:
                if order.id is not None and self._folder.exists(f"deleted/{_file(job.id)}"):
                    raise RequestError(409, "id_used", "a job of this name was deleted: choose another name")
                if not order.replace and any(_exists_each(outputs)):
                    raise RequestError(
                        409, "output_exists", "an output is there already; 'replace' replaces it"
                    )
                self._folder.write(f"open/{_file(job.id)}", job.model_dump_json().encode())
        except Exception as error:
            with self._lock:
                self._running.pop(job.id, None)
            running.kept.set_exception(error)
            raise
        if ended is None:
            running.kept.set_result(None)
            self._begin(running)
            return job
        running.job = ended
        with self._lock:
            self._running.pop(job.id, None)
        running.kept.set_result(None)
        return _same(ended, job)

    def _check_beside_others(self, outputs: list[str]) -> None:
        """Raises RequestError where open jobs leave no room, or write one of ``outputs``."""
        others = [recording for running in self._running.values() for recording in running.job.recordings]
        if sum(r.status == "waiting" for r in others) + len(outputs) > self._settings.jobs.waiting:
            raise RequestError(503, "busy", "too many recordings wait; try again later")
        if not {recording.output for recording in others}.isdisjoint(outputs):
            raise RequestError(409, "output_clash", "another job is about to write one of the outputs")

    def _look(self, name: str) -> JobReport:
        with self._lock:
            if name in self._running:
                return self._running[name].job
        if (ended := self._ended(name)) is None:
            raise _no_such_job()
        return ended

    def _ended(self, name: str) -> JobReport | None:
        try:
            return JobReport.model_validate_json(self._folder.read(f"done/{_file(name)}"))
        except FileNotFoundError:
            return None

    def _delete(self, name: str) -> None:
        file = _file(name)
        with self._lock:
            running = self._running.get(name)
        if running is None and not any(self._folder.exists(f"{where}/{file}") for where in ("done", "open")):
            raise _no_such_job()
        # Before all else: then it is deleted, whatever breaks off.
        self._folder.write(f"deleted/{file}", datetime.now(UTC).isoformat().encode())
        with self._lock:
            self._running.pop(name, None)
        if running is not None:
            running.cancelled.set()
        with running.writing if running is not None else contextlib.nullcontext():
            self._remove(name)

    def _remove(self, name: str) -> None:
        for where in ("open", "done"):
            self._folder.remove(f"{where}/{_file(name)}")

    def _begin(self, running: _Running) -> None:
        job = running.job
        for recording in job.recordings:
            if recording.status in ("waiting", "running"):
                recording.status, recording.progress = "waiting", 0.0
                self._workers.submit(self._work, running, recording)
        if job.has_ended:  # a replica was lost before it could say so
            self._note(running)

    def _work(self, running: _Running, recording: Recording) -> None:
        """One recording, in a thread of its own."""
        try:
            if running.cancelled.is_set():
                return
            recording.status = "running"
            self._restore(running, recording)
            recording.status = "done"
        except _Cancelled:
            return
        except AudioError as error:
            recording.status, recording.error = "failed", error.code
            recording.reason = error.reason_for(recording.input)
        except EnhanceRayError as error:
            recording.status, recording.error = "failed", str(getattr(error, "code", "unknown"))
            recording.reason = str(getattr(error, "reason", error))
        except Exception:
            logger.exception("a recording of job %s failed", running.job.id)
            recording.status, recording.error, recording.reason = "failed", "internal", "it has been logged"
        recording.progress = 1.0
        self._note(running)

    def _restore(self, running: _Running, recording: Recording) -> None:
        job, patience = running.job, audio.Patience(_PATIENCE, running.cancelled)
        options = reading.options_from(job.options, job.mode, self._settings)
        models = self._stages.models(job.mode, patient=True)
        with audio.decode(recording.input, patience=patience, track=options.audio_track) as decoder:
            info = decoder.info
            recording.seconds = info.seconds
            target = target_format(info, recording.output, options.format)
            restored = restoring.restoration(
                info, options, models, name=recording.input, target=target, levels=True
            )
            with audio.encode(
                recording.output,
                sample_rate=restored.rate,
                channels=restored.channels,
                target=target,
                source=info,
                force=True,  # what was there had been looked for when the job was taken
                patience=patience,
            ) as encoder:
                seconds = 0.0
                for block in restored.blocks(map(torch.from_numpy, decoder)):
                    if running.cancelled.is_set():
                        raise _Cancelled
                    encoder.write(block.numpy())
                    seconds += block.shape[1] / restored.rate
                    recording.progress = min(0.999, seconds / info.seconds) if info.seconds else 0.0
            facts = restored.facts(decoder.warning, encoder.remark)
        recording.seconds, recording.warning = seconds, facts.warning
        recording.guard = [dataclasses.asdict(span) for span in facts.guard]
        recording.peak_in, recording.peak_out = facts.peak_in, facts.peak_out
        recording.peak_reduction = facts.peak_reduction
        recording.loudness_in, recording.loudness_out = facts.loudness_in, facts.loudness_out

    def _note(self, running: _Running) -> None:
        """Write down how far a job is, however long the storage is away."""
        while not running.cancelled.is_set():
            try:
                with running.writing:
                    if not running.cancelled.is_set():
                        self._write(running)
                return
            except FILE_ERRORS as error:
                logger.warning("job %s: %s; it is noted later", running.job.id, explain(error))
            running.cancelled.wait(_NOTE_PAUSE)

    def _write(self, running: _Running) -> None:
        """Put a job where it belongs: to those that are open, or to the others if that is its end."""
        job, file = running.job, _file(running.job.id)
        has_ended = job.has_ended
        self._folder.write(f"{'done' if has_ended else 'open'}/{file}", job.model_dump_json().encode())
        if has_ended:
            self._folder.remove(f"open/{file}")
        if is_deleted := self._folder.exists(f"deleted/{file}"):  # at another replica
            running.cancelled.set()
            self._remove(job.id)
        if has_ended or is_deleted:
            with self._lock:
                self._running.pop(job.id, None)


def _same(known: JobReport, asked: JobReport) -> JobReport:
    """``known``, if it is what is asked for.

    Raises:
        RequestError: it is another job of that name.
    """

    def order(job: JobReport) -> Any:
        return job.mode, job.options, [(each.input, each.output) for each in job.recordings]

    if order(known) != order(asked):
        raise RequestError(409, "id_used", "there is another job of this name")
    return known


def _file(name: str) -> str:
    if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise _no_such_job()
    return f"{name}.json"


def _no_such_job() -> RequestError:
    return RequestError(404, "not_found", "there is no such job")


def _exists_each(uris: list[str]) -> list[bool]:
    patience = audio.Patience(_PATIENCE)
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(lambda uri: audio.exists(uri, patience), uris))
