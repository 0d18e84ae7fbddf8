"""From what a user names to jobs: inputs, outputs, formats; and what an earlier run has done of them."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec

from enhance_ray import audio
from enhance_ray.audio import lists
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.errors import AudioError, AudioWriteError, ConfigError, explain
from enhance_ray.records import Record, read_records
from enhance_ray.settings import trees
from enhance_ray.settings.options import EnhanceOptions, Output

logger = logging.getLogger(__name__)

_KINDS_NAMED = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One input and where its output goes: local paths or fsspec URIs."""

    input: str
    output: str


def plan_jobs(source: str, target: str, options: Output | None = None) -> list[Job]:
    """What ``source`` and ``target`` mean: the jobs of one command.

    Args:
        source: a file; a folder, searched with its subfolders; ``@files.txt`` with a path on each line; or
            a ``.jsonl`` or ``@list.csv`` with "uri" (or "file") and, if it pleases, "output". Paths in lists
            are relative to the working directory, or to the list's folder where the first is not there.
        target: a file for a file; otherwise a folder, in which the tree of the inputs is kept. An
            existing folder, or a name that ends in a slash, is a folder for a file too.
        options: of which the format decides extensions.

    Returns:
        Jobs in the order of the inputs. An output has its input's name with the extension of its format.
        Where two inputs would get the same output (talk.mp4 and talk.mkv), those whose extension
        changed get it in full: talk.mp4.m4a.

    Raises:
        ConfigError: a list cannot be read, nothing was found, the one input does not exist, an output would
            replace an input, two jobs ask for one output, or a storage does not answer or let in.
    """
    wanted = (options or Output()).format
    if source.startswith("@") or source.lower().endswith(".jsonl"):
        listed = _read_list(source.removeprefix("@"))
        jobs = _jobs_into_folder(listed, _common_folder(list(listed)), target, wanted)
    elif _is_folder(source):
        jobs = _jobs_into_folder(dict.fromkeys(_found(source, target)), source, target, wanted)
    elif target.endswith("/") or _is_folder(target):
        jobs = _jobs_into_folder({source: None}, _parent(source), target, wanted)
    elif not audio.is_remote(source) and not Path(source).exists():
        raise ConfigError(source, "there is no such file or folder")
    else:
        jobs = [Job(source, _with_known_extension(target, wanted))]
    _refuse_clashes(jobs)
    return jobs


def target_format(info: audio.AudioInfo, output: str, wanted: str) -> audio.OutputFormat:
    """The format of ``output``: ``wanted``, unless that is "keep" and the name says otherwise.

    So a video whose audio goes to ``talk.flac`` becomes flac, and a .wav that holds mp3 becomes a true wav.

    Raises:
        AudioWriteError: the name's extension is none that can be written from this input.
    """
    extension = PurePosixPath(output).suffix.lower()
    if wanted == "keep" and extension in _CONTAINERS_BY_EXTENSION:
        return audio.container_format(info, _CONTAINERS_BY_EXTENSION[extension])
    target = audio.output_format(info, wanted)
    extensions = {target.extension, f".{target.container}"}
    if wanted != "keep" or _SAME_EXTENSION.get(extension, extension) in extensions:
        return target
    if extension not in _FORMATS_BY_EXTENSION:
        known = ", ".join(sorted({**_FORMATS_BY_EXTENSION, **_CONTAINERS_BY_EXTENSION}))
        raise AudioWriteError(output, f"its extension must be one of {known}, or be said by --format")
    return audio.output_format(info, _FORMATS_BY_EXTENSION[extension])


def done_before(report_path: str | Path, fingerprint: str, options: EnhanceOptions) -> dict[str, Record]:
    """What an earlier run finished with this model and these options, by input: `enhance_files`' ``done``.

    Empty if there is no report yet.

    Raises:
        ConfigError: the report is damaged.
    """
    if not Path(report_path).exists():
        return {}
    # Of several records of one input the last one counts: it may have failed since.
    latest = {record.input: record for record in read_records(report_path)}
    tree, default = trees.to_tree(options), trees.to_tree(EnhanceOptions())
    return {
        name: record
        for name, record in latest.items()
        # An option that came since was at its default.
        if record.status == "done" and record.model == fingerprint and default | record.options == tree
    }


def _read_list(path: str) -> dict[str, str | None]:
    """Inputs of a list, each with the output that the list gives it, if any."""
    listed: dict[str, str | None] = {}
    folder = _parent(path)
    if not path.lower().endswith(lists.TABLES):
        listed = dict.fromkeys(_beside(name, folder) for name in lists.read_lines(path))
    else:
        for number, row in enumerate(lists.read_rows(path, ("uri", "file", "output")), 1):
            uri, output = row.get("uri") or row.get("file"), row.get("output") or None
            if not isinstance(uri, str) or not isinstance(output, str | None):
                raise ConfigError(f"{path}: row {number}", 'expected "uri" with text and perhaps "output"')
            listed[_beside(uri, folder)] = output
    if not listed:
        raise ConfigError(path, "the list is empty")
    return listed


def _beside(name: str, folder: str) -> str:
    """``name`` of a list in ``folder``: as it stands, or in that folder where the file is there alone."""
    if not folder or audio.is_remote(name) or name.startswith("/") or os.path.lexists(name):
        return name
    if not audio.is_remote(folder) and not os.path.lexists(f"{folder}/{name}"):
        return name
    return f"{folder}/{name}"


def _found(source: str, target: str) -> list[str]:
    """Audio below ``source``, without what earlier runs wrote to a ``target`` inside of it."""
    others: list[str] = []
    try:
        found = audio.find_audio(source, others)
    except AudioError as error:
        raise ConfigError(source, error.reason) from error
    inside = f"{_absolute(target)}/"
    if _absolute(target) != _absolute(source):
        found = [name for name in found if not _absolute(name).startswith(inside)]
        others = [name for name in others if not _absolute(name).startswith(inside)]
    if not found:
        raise ConfigError(source, "no audio was found in it")
    if others:
        kinds = Counter(_extension(name).lower() or "without one" for name in others).most_common(
            _KINDS_NAMED
        )
        logger.warning(
            "%s: %d files are passed over, whose extensions are none of sound: %s",
            *(source, len(others), ", ".join(f"{kind} ({count})" for kind, count in kinds)),
        )
    return found


def _jobs_into_folder(listed: Mapping[str, str | None], root: str, target: str, wanted: str) -> list[Job]:
    if not audio.is_remote(target) and Path(target).is_file():
        raise ConfigError(target, "must be a folder: there are several inputs, or the name ends in a slash")
    jobs = []
    natural = {name: _natural_name(name[len(root) :].lstrip("/"), wanted) for name in listed}
    shared = Counter(natural.values())
    for name, given in listed.items():
        output = natural[name]
        if shared[output] > 1 and _extension(output) != _extension(name):
            output = name[len(root) :].lstrip("/") + _extension(output)
        jobs.append(Job(name, _join(target, given or output)))
    return jobs


def output_extension(name: str, wanted: str) -> str:
    """With its dot: of the output of an input that is called ``name``, for `EnhanceOptions.format`."""
    return _KEPT_EXTENSIONS.get(_extension(name).lower(), ".wav") if wanted == "keep" else f".{wanted}"


def _natural_name(name: str, wanted: str) -> str:
    extension, changed = _extension(name), output_extension(name, wanted)
    return name if changed == extension.lower() else name.removesuffix(extension) + changed


def _with_known_extension(target: str, wanted: str) -> str:
    """Refuse a name that does not say the format that it will have, before work starts."""
    extension = _extension(target).lower()
    if wanted != "keep" and _FORMATS_BY_EXTENSION.get(extension) != wanted:
        raise ConfigError(target, f"the name does not end in .{wanted}, which --format asks for")
    if extension not in (*_FORMATS_BY_EXTENSION, *_CONTAINERS_BY_EXTENSION, *_KEPT_EXTENSIONS):
        known = ", ".join([*_FORMATS_BY_EXTENSION, *_CONTAINERS_BY_EXTENSION])
        raise ConfigError(target, f"must be a folder, or end in one of {known}")
    return target


def _refuse_clashes(jobs: list[Job]) -> None:
    inputs = {_absolute(job.input) for job in jobs}
    outputs: dict[str, str] = {}
    for job in jobs:
        output = _absolute(job.output)
        if output in inputs:
            raise ConfigError(job.output, "is an input too, which would be replaced: choose another place")
        if output in outputs:
            raise ConfigError(job.output, f"would come from both {outputs[output]} and {job.input}")
        outputs[output] = job.input


def _absolute(path: str) -> str:
    return path.rstrip("/") if audio.is_remote(path) else str(Path(path).absolute())


def _common_folder(names: list[str]) -> str:
    """The deepest folder above all ``names``, with its slash; empty if there is none."""
    levels = zip(*(_parent(name).split("/") for name in names), strict=False)
    common = itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)
    return "/".join(parts[0] for parts in common)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix


def _join(folder: str, name: str) -> str:
    if audio.is_remote(name) or name.startswith("/"):
        return name
    return f"{folder.rstrip('/')}/{name}" if folder.rstrip("/") else f"/{name}"


def _is_folder(path: str) -> bool:
    if not audio.is_remote(path):
        return Path(path).is_dir()
    try:
        filesystem, name = fsspec.url_to_fs(path)
        return bool(filesystem.isdir(name))
    except FILE_ERRORS as error:
        raise ConfigError(path, f"the storage says: {explain(error)}") from error


# What becomes of an input's extension under `format="keep"`; `audio.output_format` says it by content,
# which is not known while jobs are planned. What is not here becomes wav.
_KEPT_EXTENSIONS = {
    **{
        kept: kept
        for kept in (
            ".wav",
            ".flac",
            ".mp3",
            ".opus",
            ".ogg",
            ".oga",
            ".m4a",
            ".m4b",
            ".aif",
            ".aiff",
            ".caf",
        )
    },
    **{video: video for video in (".mp4", ".m4v", ".mov", ".mkv", ".webm")},
    ".mka": ".mka",
    **dict.fromkeys((".3gp", ".aac"), ".m4a"),
}
_CONTAINERS_BY_EXTENSION = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "mkv", ".webm": "webm", ".mka": "mka",
}  # fmt: skip
"""Containers that hold sound of several codecs."""
_FORMATS_BY_EXTENSION = {
    ".wav": "wav",
    ".wave": "wav",
    ".flac": "flac",
    ".mp3": "mp3",
    ".opus": "opus",
    ".ogg": "opus",
    ".oga": "opus",
    ".m4a": "m4a",
    ".m4b": "m4a",
}
_SAME_EXTENSION = {".wave": ".wav", ".oga": ".ogg", ".m4b": ".m4a", ".aif": ".aiff", ".aifc": ".aiff"}
