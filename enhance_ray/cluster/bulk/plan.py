"""Planning: what a job's input holds, as parts of a manifest on the storage.

    inputs, in order, a page at a time -> what no part holds yet -> parts

Memory depends on the pages under way alone: what is known already is on disk. A second run adds what is new:
objects that were not there, and objects whose etag has changed. One whose listing did not end lists from
where it stopped (`JobState.listing`); what is new before that place, the next run finds. An inventory that is
the same as when it was listed (`JobState.listed`) is not read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from enhance_ray import audio
from enhance_ray.audio import is_remote
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk import inputs
from enhance_ray.cluster.bulk.index import Index
from enhance_ray.cluster.bulk.inputs import glob_base, is_glob, is_manifest
from enhance_ray.cluster.bulk.names import storable
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState
from enhance_ray.cluster.scratch import planning_folder
from enhance_ray.errors import ConfigError, explain

logger = logging.getLogger(__name__)

_SOURCE = "source"
"""Column of the pages: which of the inputs a row is of."""
_PARTS_PER_ACTOR = 8
_LOOK_AHEAD = 100_000  # inputs whose number decides how small parts are
_USUAL_PARTS = 10_000
"""Parts of the usual size that a job has; in a larger one parts grow, so that there are not hundreds of
thousands."""
_LOADED = 50_000
"""Rows of what is known that are taken at once."""
_BATCH = (10_000, 250_000)
"""Fewest and most rows that are looked up at once. Between them it is a share of what is known, since every
look reads all of that."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning did."""

    listed: int
    """Inputs found."""
    added: int
    """Of them, new or changed."""
    parts: int
    """New parts of the manifest."""


def plan(
    settings: BulkConfig, state: JobState, progress: Callable[[int, int], None] | None = None
) -> Planned:
    """List the input, and add to the manifest what is not in it.

    Args:
        settings: of the job.
        state: of the job.
        progress: called with (listed, added), every ten thousand inputs or more.

    Raises:
        ConfigError: the input does not exist, cannot be listed, is no manifest, or holds no audio.
    """
    parts = state.parts()
    listed = added = 0
    number = 1 + max((int(part.removeprefix("part-")) for part in parts), default=-1)
    first = number
    begin, after, stopped = 0, None, state.listing()
    if stopped is not None and stopped[0] in settings.inputs:
        begin, after = settings.inputs.index(stopped[0]), stopped[1]
        logger.info("the listing goes on after %s", after)
    versions = {source: version for source in settings.inputs if (version := inputs.version(source))}
    unchanged = versions.items() & state.listed().items()
    sources = [
        (which, source)
        for which, source in enumerate(settings.inputs)
        if which >= begin and (source, versions.get(source)) not in unchanged
    ]
    if not sources:
        logger.info("%s: it is the inventory that was listed before, and is not read again", settings.source)
        return Planned(0, 0, 0)
    with planning_folder() as folder, contextlib.closing(Index(folder)) as index:

        def pages() -> Iterator[pa.Table]:
            for which, source in sources:
                for page in inputs.pages(
                    source,
                    output=settings.output,
                    threads=settings.listing_threads,
                    after=after if which == begin else None,
                ):
                    yield page.append_column(_SOURCE, pa.repeat(which, len(page)))

        def fresh() -> Iterator[pa.Table]:
            nonlocal listed, added
            for batch in _joined(pages(), lambda: min(max(index.size // 50, _BATCH[0]), _BATCH[1])):
                new = batch.take(index.add(batch))
                listed += len(batch)
                added += len(new)
                if progress is not None:
                    progress(listed, added)
                yield new

        for batch in _joined(state.inputs(parts, ["uri", "etag"]), lambda: _LOADED):
            index.load(batch)  # each version is in one part alone
        try:
            for part in _parts(fresh(), settings):
                [source], [last] = (part[name][-1:].to_pylist() for name in (_SOURCE, "uri"))
                state.add_part(number, part.drop_columns([_SOURCE]))
                state.note_listing((settings.inputs[source], last))
                number += 1
            state.note_listing(None)
        except FILE_ERRORS as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(settings.source, f"cannot be listed: {explain(error)}") from error
    if not listed and after is None and not unchanged:
        raise ConfigError(settings.source, "no audio was found in it")
    # Not of the inputs before `begin`: the run that listed them may have met older versions.
    seen = {source: versions[source] for _, source in sources if source in versions}
    state.note_listed({**dict(unchanged), **seen})
    return Planned(listed, added, number - first)


def _joined(tables: Iterable[pa.Table], least: Callable[[], int]) -> Iterator[pa.Table]:
    """``tables``, joined to larger ones of at least as many rows as ``least`` says."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows >= least():
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting)


def output_of(settings: BulkConfig, uri: str, etag: str | None, given: str | None, extension: str) -> str:
    """Where the output of an input goes: a function of its row alone, so that no listing changes it.

    No two inputs share an output: where the extension changes, it is added to the name, and also where a name
    looks as if that had been done.

    Args:
        settings: of the job.
        uri: of the input, as its storage has it.
        etag: of the input, for the layout "content".
        given: what a manifest says: an absolute path or URI, or a name below the output.
        extension: with its dot, of the output's format.
    """
    root = settings.output.rstrip("/")
    if given:
        return given if is_remote(given) or given.startswith("/") else f"{root}/{given}"
    if settings.layout == "content":
        digest = hashlib.sha256(f"{storable(uri)}\n{etag or ''}".encode()).hexdigest()
        return f"{root}/{digest[:2]}/{digest[2:4]}/{digest}{extension}"
    return f"{root}/{with_extension(_relative(settings, uri), extension)}"


def with_extension(name: str, extension: str) -> str:
    """``name``, to which ``extension`` is added where it has another one, or looks as if that had been done
    before: so no two names become one."""
    path = PurePosixPath(name)
    is_own = path.suffix.lower() == extension and not audio.is_known(path.stem)
    return name if is_own else f"{name}{extension}"


def whole_name(uri: str) -> str:
    """``uri`` without its protocol."""
    return uri.partition("://")[2] if is_remote(uri) else uri.lstrip("/")


def _relative(settings: BulkConfig, uri: str) -> str:
    """``uri`` without what all inputs share: the prefix; for a manifest or several inputs, the protocol."""
    [source, *others] = settings.inputs
    if not others and not is_manifest(source):
        base = glob_base(source) if is_glob(source) else source
        below = uri.removeprefix(f"{base.rstrip('/')}/")
        return below if below != uri else PurePosixPath(uri).name
    return whole_name(uri)


def _parts(found: Iterable[pa.Table], settings: BulkConfig) -> Iterator[pa.Table]:
    """Inputs in groups of the size that suits the job."""
    rest = iter(found)
    first: list[pa.Table] = []
    while sum(map(len, first)) < _LOOK_AHEAD and (table := next(rest, None)) is not None:
        first.append(table)
    most_files, most_bytes = settings.files_per_part, settings.gigabytes_per_part * 1e9
    if (count := sum(map(len, first))) < _LOOK_AHEAD:  # all of them: every actor shall get its share
        shares = _PARTS_PER_ACTOR * settings.most_actors
        sizes = np.concatenate([np.zeros(1), *map(_sizes, first)])
        most_files = min(most_files, max(1, -(-count // shares)))
        most_bytes = min(most_bytes, max(-(-sizes.sum() // shares), sizes.max()))
    files = size = 0.0
    open_part: list[pa.Table] = []
    for table in itertools.chain(first, rest):
        joined = pa.concat_tables([*open_part, table])
        ends = np.cumsum(_sizes(joined))
        start = 0
        while True:
            before = ends[start - 1] if start else 0.0
            most = max(most_bytes, size // _USUAL_PARTS)
            stop = int(np.searchsorted(ends, before + most, side="right"))
            stop = max(start + 1, min(stop, start + max(most_files, int(files // _USUAL_PARTS))))
            if stop >= len(joined):  # there may be more to come
                break
            yield joined.slice(start, stop - start)
            files, size = files + stop - start, size + ends[stop - 1] - before
            start = stop
        open_part = [joined.slice(start)]
    if open_part and len(open_part[0]):
        yield open_part[0]


def _sizes(table: pa.Table) -> np.ndarray:
    """Bytes of each row; nothing where that is not known."""
    return np.asarray(table["bytes"].fill_null(0).to_numpy(), np.float64)
