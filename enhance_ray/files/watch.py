"""A folder that is watched: what arrives in it is restored into another one.

What is to be done is read from the two folders alone: an input whose output does not exist, or is older. So a
watcher that was stopped goes on where it was, without a state of its own, and a recording that is replaced
is restored again.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from enhance_ray import audio
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import ConfigError
from enhance_ray.files.plan import Job, output_extension
from enhance_ray.files.run import enhance_files
from enhance_ray.records import Record
from enhance_ray.settings.options import EnhanceOptions, refuse_all_tracks

FAILED = "failed"
"""Folder below that of the outputs for inputs that could not be used."""


def watch(
    source: str | Path,
    target: str | Path,
    enhancer: Enhancer,
    options: EnhanceOptions,
    *,
    settle: float = 10.0,
    every: float = 2.0,
    partial: bool = False,
    report_path: str | Path | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Record]:
    """Restore what is in ``source`` and what arrives there, for ever; yield a record of each.

    An input that cannot be used is moved to ``target``/failed, under its path in ``source``; there its record
    says why, in a text file beside it.

    Args:
        source: a local folder, searched with its subfolders.
        target: a local folder, in which its tree is kept. The extension of another format is added to the
            whole name, so that no two inputs share an output.
        enhancer: the model.
        options: what to do.
        settle: seconds for which a file must not have grown: it may still be copied.
        every: seconds between looks into the folder.
        partial: keep what could be decoded of damaged inputs.
        report_path: JSON-lines report to which records are appended.
        stop: ends the watch once it is set, within a segment.

    Raises:
        ConfigError: one of them is no local folder, or one lies in the other.
    """
    refuse_all_tracks(options, "a watched folder")
    for given in (source, target):
        if audio.is_remote(str(given)):
            raise ConfigError(str(given), "only a folder of this machine can be watched")
    inputs, outputs = Path(source).absolute(), Path(target).absolute()
    if not inputs.is_dir():
        raise ConfigError(str(source), "there is no such folder")
    if inputs.is_relative_to(outputs) or outputs.is_relative_to(inputs):
        raise ConfigError(str(target), f"must lie outside of {source}, and not above it")
    outputs.mkdir(parents=True, exist_ok=True)
    audio.remove_leftovers(outputs)
    stop = stop or threading.Event()
    sizes: dict[str, tuple[int, float]] = {}
    while not stop.is_set():
        jobs = _ready(inputs, outputs, options.format, settle, sizes)
        running = enhance_files(
            jobs, enhancer, options, force=True, partial=partial, report_path=report_path, stop=stop
        )
        for record in running:
            if record.status == "failed":
                _put_aside(record, inputs, outputs / FAILED)
            yield record
        if not jobs:
            stop.wait(every)


def _ready(
    source: Path, target: Path, wanted: str, settle: float, sizes: dict[str, tuple[int, float]]
) -> list[Job]:
    """Jobs for what has stopped growing; ``sizes`` holds of each input what it was and since when."""
    now, jobs = time.monotonic(), []
    found = audio.find_audio(str(source))
    for name in found:
        try:
            state = Path(name).stat()
        except OSError:  # gone again
            continue
        size, since = sizes.get(name, (-1, now))
        if size != state.st_size:
            sizes[name] = (state.st_size, now)
            since = now
        output = target / _output_name(name[len(str(source)) :].lstrip("/"), wanted)
        # What was last changed long ago need not be watched first.
        still = now - since >= settle or (size < 0 and time.time() - state.st_mtime >= settle)
        if state.st_size and still and _is_older(output, state.st_mtime_ns):
            jobs.append(Job(name, str(output)))
    for name in sizes.keys() - set(found):
        del sizes[name]
    return jobs


def _output_name(name: str, wanted: str) -> str:
    extension = output_extension(name, wanted)
    return name if name.lower().endswith(extension) else name + extension


def _is_older(output: Path, changed: int) -> bool:
    try:
        return output.stat().st_mtime_ns < changed
    except FileNotFoundError:
        return True


def _put_aside(record: Record, source: Path, failed: Path) -> None:
    place = failed / Path(record.input).relative_to(source)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(record.input, place)
    place.with_name(f"{place.name}.txt").write_text(f"{record.reason}\n", "utf-8", "surrogateescape")
