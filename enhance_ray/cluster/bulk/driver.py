"""The driver of a job: plan, run what is left, report."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from enhance_ray import audio, resemble
from enhance_ray.cluster.bulk import plan as planning
from enhance_ray.cluster.bulk import summary
from enhance_ray.cluster.bulk.identity import Fingerprint, open_job, resolved
from enhance_ray.cluster.bulk.running import Run, Status
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState
from enhance_ray.cluster.bulk.worker import Load, load_enhancer
from enhance_ray.cluster.session import output_place, path_for_workers

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LISTING_SECONDS = 30.0
"""For so long work waits for the end of the listing, by which most inputs are listed."""


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
        settings,
        input=output_place(settings.input)
        if isinstance(settings.input, str)
        else tuple(map(output_place, settings.input)),
        output=output_place(settings.output),
        model=model,
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

    A long input is worked on while it is still being listed.

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
    planner = _Planner(settings, state) if list_input or not state.parts() else None
    if planner is not None:
        planner.wait(_LISTING_SECONDS)
    if retry_failed:
        logger.info("%d failed files are done again", state.reopen_failed())
    if not audio.is_remote(settings.output):
        audio.remove_leftovers(settings.output)  # of a run whose actors were killed
    status = _do_all(settings, state, load, planner)
    listing = planner.planned if planner is not None else planning.Planned(0, 0, 0)
    left = len(set(state.parts()) - state.finished())
    report = None
    if status != "interrupted":  # who interrupts does not wait
        report = summary.write(settings, state)
        state.merge()
    if planner is not None and status == "complete":
        planner.raise_error()
    return Outcome(
        status=status,
        listed=listing.listed,
        added=listing.added,
        parts_left=left,
        report=report,
        place=state.folder.uri,
    )


def _do_all(settings: BulkConfig, state: JobState, load: Load, planner: _Planner | None) -> Status:
    """All parts, those that are found meanwhile included."""
    known = state.finished()
    status: Status = "complete"
    run: Run | None = None
    try:
        while status == "complete":
            has_ended = planner is None or planner.wait(0)
            parts = [part for part in state.parts() if part not in known]
            if parts:
                logger.info("%d parts of the manifest are finished, %d are left", len(known), len(parts))
                run = run or Run(settings, state, load)
                status = run.do(parts)
                known |= set(parts)
            elif has_ended:
                break
            else:
                assert planner is not None
                planner.wait(_LOOK_SECONDS)
    finally:
        if planner is not None:
            planner.stop()
        if run is not None:
            run.close()
    return status


class _Planner:
    """Lists the input in a thread, part after part."""

    def __init__(self, settings: BulkConfig, state: JobState) -> None:
        self._settings = settings
        self._state = state
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self._watched = True
        self.planned = planning.Planned(0, 0, 0)
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, for which it is given some time.

        Raises:
            ConfigError: it failed, and found nothing before.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            if self._watched and seconds:
                logger.info("%s is still being listed: work begins", self._settings.source)
            self._watched = False
            return False
        if not self._state.parts():
            self.raise_error()
        return True

    def raise_error(self) -> None:
        """Fail as the listing did, if it did.

        Raises:
            ConfigError: the input cannot be listed.
        """
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """List no further."""
        self._stopped.set()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        try:
            self.planned = planning.plan(self._settings, self._state, self._note)
            logger.info(
                "%s: %d inputs were listed, %d of them are new",
                self._settings.source,
                self.planned.listed,
                self.planned.added,
            )
        except _ListingStopped:
            pass
        except Exception as error:  # goes on where the run ends
            self._error = error

    def _note(self, listed: int, added: int) -> None:
        if self._stopped.is_set():
            raise _ListingStopped
        self.planned = planning.Planned(listed, added, 0)
        if self._watched:
            _show_listing(listed, added)


class _ListingStopped(Exception):  # noqa: N818 - ends a thread, is no error
    """The run has ended."""


def _show_listing(listed: int, added: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{listed:,} inputs listed, {added:,} new")
        sys.stderr.flush()
