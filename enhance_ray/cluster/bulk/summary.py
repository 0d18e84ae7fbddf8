"""What a job came to: all its records in numbers, as `report.json` for programs and `report.html` for people.

Records are read a few parts at a time and only added up, column by column, so a report of millions needs no
more memory than one of hundreds.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from enhance_ray import metrics, report
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState
from enhance_ray.errors import ConfigError
from enhance_ray.report import Card

logger = logging.getLogger(__name__)

STAGES = ("decode", "prepare", "wait", "encode", "model")
_SLOWEST = 25
_REASONS = 50
_LEVELS = np.arange(-70, 2.5, 2.5)
_MOS = np.linspace(1, 5, 41)
_LENGTHS = np.arange(-0.5, 5.25, 0.25)  # log10 of seconds
_COLUMNS = [
    "uri", "status", "code", "reason", "seconds", "input_bytes", "output_bytes", "loudness_in",
    "loudness_out", "actor", "guard", "scores", *(f"{stage}_seconds" for stage in STAGES),
]  # fmt: skip


@dataclass(slots=True)
class _Spread:
    """Of a score on a scale of 1 to 5, over any number of recordings."""

    count: int = 0
    total: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_MOS) - 1, np.int64))

    def add(self, score: float) -> None:
        self.count += 1
        self.total += score
        self.counts[min(max(int((score - _MOS[0]) * 10), 0), len(self.counts) - 1)] += 1

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass(kw_only=True, slots=True)
class JobTotals:
    """A job in numbers."""

    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    """Of audio that was done."""
    input_bytes: int = 0
    output_bytes: int = 0
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds in decode, prepare, wait, encode and model (see `Record`), over all files."""
    actor_seconds: float = 0.0
    """That actors were there, in all runs."""
    seconds_computed: float = 0.0
    """Of audio, what was done twice included, as far as actors told: not what a lost one did since its last
    news."""
    deaths: int = 0
    """Actors that were lost."""
    runs: int = 0
    """How often the job was started with something left to do."""
    cost: float | None = None
    """Of the actors, in the currency of the prices; None where there are none."""

    @property
    def cost_per_hour(self) -> float | None:
        """Of audio."""
        return self.cost / (self.seconds / 3600) if self.cost is not None and self.seconds else None


@dataclass(slots=True)
class _Sums:
    """Everything that the page shows."""

    totals: JobTotals = field(default_factory=JobTotals)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    slowest: list[tuple[float, str, float, float]] = field(default_factory=list)
    """(seconds spent, uri, of audio, of the model)."""
    actors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0, 0.0]))
    """Files, seconds of audio and of the model, by actor."""
    levels: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(len(_LENGTHS) - 1, np.int64))
    scores: dict[str, _Spread] = field(default_factory=lambda: defaultdict(_Spread))
    guard: report.GuardTally = field(default_factory=report.GuardTally)


def write(settings: BulkConfig, state: JobState) -> JobTotals:
    """Add up the records of a job and the usage of its runs; write `report.json` and `report.html`."""
    sums = _Sums()
    names = sorted(state.finished())
    for table in state.records(names, _COLUMNS):
        _add(sums, table)
    usage = _add_usage(sums.totals, settings, state)
    tree = {
        **dataclasses.asdict(sums.totals),
        "cost_per_hour": sums.totals.cost_per_hour,
        "parts": len(state.parts()),
        "parts_finished": len(names),
        "scores": {name: spread.mean for name, spread in sorted(sums.scores.items())},
        "guard_seconds": {" ".join(key): seconds for key, seconds in sums.guard.seconds.items()},
        "failures": [
            {"code": code, "reason": reason, "files": count, "example": sums.examples[code, reason]}
            for (code, reason), count in sums.reasons.most_common(_REASONS)
        ],
    }
    state.folder.write("report.json", json.dumps(tree, indent=2, ensure_ascii=False).encode())
    try:
        state.folder.write("report.html", _page(settings, sums, usage).encode())
    except ConfigError as error:  # the numbers are there all the same
        logger.warning("no report.html: %s", error)
    return sums.totals


def _add(sums: _Sums, table: pa.Table) -> None:
    totals = sums.totals
    failed = table.filter(pc.equal(table["status"], "failed"))
    done = table.filter(pc.equal(table["status"], "done"))
    totals.done += len(done)
    totals.failed += len(failed)
    totals.seconds += _sum(done["seconds"])
    totals.input_bytes += int(_sum(table["input_bytes"]))
    totals.output_bytes += int(_sum(done["output_bytes"]))
    for stage in STAGES:
        totals.stages[stage] = totals.stages.get(stage, 0.0) + _sum(done[f"{stage}_seconds"])
    _add_failures(sums, failed)
    spent = sum(done[f"{stage}_seconds"].fill_null(0).to_numpy() for stage in STAGES if stage != "wait")
    most = np.argsort(spent)[-_SLOWEST:]
    columns = (done.take(most)[name].fill_null(0).to_pylist() for name in ("seconds", "model_seconds"))
    found = zip(spent[most].tolist(), done["uri"].take(most).to_pylist(), *columns, strict=True)
    sums.slowest = heapq.nlargest(_SLOWEST, [*sums.slowest, *found])
    shares = [("uri", "count"), ("seconds", "sum"), ("model_seconds", "sum")]
    for row in done.group_by("actor").aggregate(shares).to_pylist():
        share = sums.actors[row["actor"]]
        share[0] += row["uri_count"]
        share[1] += row["seconds_sum"] or 0.0
        share[2] += row["model_seconds_sum"] or 0.0
    for name in ("loudness_in", "loudness_out"):
        levels = np.array(done[name].drop_null(), np.float64)
        counts = np.histogram(np.clip(levels, _LEVELS[0], _LEVELS[-1]), _LEVELS)[0]
        sums.levels[name] = sums.levels.get(name, np.zeros(len(_LEVELS) - 1, np.int64)) + counts
    lengths = np.log10(np.maximum(np.array(done["seconds"], np.float64), 0.33))
    sums.lengths += np.histogram(np.clip(lengths, _LENGTHS[0], _LENGTHS[-1]), _LENGTHS)[0]
    for text in done["scores"].drop_null().to_pylist():
        for name, score in json.loads(text).items():
            sums.scores[name].add(score)
    for text in done["guard"].drop_null().to_pylist():
        sums.guard.add(json.loads(text))


def _add_failures(sums: _Sums, failed: pa.Table) -> None:
    """Reasons that differ in numbers only are one kind."""
    kinds = pc.replace_substring_regex(failed["reason"].fill_null(""), report.NUMBER, "#")
    table = pa.table({"code": failed["code"].fill_null(""), "kind": kinds, "uri": failed["uri"]})
    for row in table.group_by(["code", "kind"]).aggregate([("uri", "count"), ("uri", "min")]).to_pylist():
        kind = row["code"], row["kind"]
        sums.reasons[kind] += row["uri_count"]
        sums.examples.setdefault(kind, row["uri_min"])


def _sum(column: Any) -> float:
    return float(pc.sum(column).as_py() or 0)


def _add_usage(totals: JobTotals, settings: BulkConfig, state: JobState) -> dict[str, float]:
    """Take in what the runs used; seconds that each actor was there."""
    seconds: dict[str, float] = {}
    hours: defaultdict[int, float] = defaultdict(float)
    for run in state.runs():
        totals.runs += 1
        totals.deaths += run["deaths"]
        for actor, (present, computed, kind) in run["actors"].items():
            seconds[actor] = present
            totals.actor_seconds += present
            totals.seconds_computed += computed
            hours[kind] += present / 3600
    totals.cost = settings.cost(hours)
    return seconds


def _page(settings: BulkConfig, sums: _Sums, usage: Mapping[str, float]) -> str:
    totals = sums.totals
    again = max(0.0, totals.seconds_computed - totals.seconds)
    cards = [
        Card(f"{totals.done:,}", "done"),
        Card(f"{totals.failed:,}", "failed", totals.failed > 0),
        Card(report.duration(totals.seconds), "of audio"),
        Card(_size(totals.input_bytes), "read"),
        Card(_size(totals.output_bytes), "written"),
        Card(report.duration(totals.actor_seconds), "of actors"),
        Card(f"{totals.deaths:,}", "actors lost"),
        Card(report.duration(again), "of audio computed again, at least"),
    ]
    if totals.actor_seconds:
        cards.append(Card(f"{totals.seconds / totals.actor_seconds:,.0f}", "h of audio per actor-hour"))
    if totals.cost is not None and totals.cost_per_hour is not None:
        cards += [
            Card(f"{totals.cost:,.2f}", "cost"),
            Card(f"{totals.cost_per_hour:.4f}", "per hour of audio"),
        ]
    failures = [
        [count, code, reason, sums.examples[code, reason]]
        for (code, reason), count in sums.reasons.most_common(_REASONS)
    ]
    slowest = [
        [uri, spent, model, seconds] for spent, uri, seconds, model in sorted(sums.slowest, reverse=True)
    ]
    sections = {
        "Failures": report.table(["Files", "Code", "Reason", "For example"], failures),
        "Where the time went": _stage_table(totals),
        "Actors": _actor_table(sums, usage),
        "Distributions": _charts(sums),
        "Guard": sums.guard.table(),
        "The most work": report.table(["Input", "Work (s)", "of it the model (s)", "Audio (s)"], slowest),
    }
    return report.page(f"Restored: {settings.source}", cards, sections)


def _stage_table(totals: JobTotals) -> Markup:
    explained = {
        "decode": "reading and decoding",
        "prepare": "resampling, levels, joining",
        "wait": "for the model's answers",
        "encode": "encoding and writing",
        "model": "the model (while files wait for it)",
    }
    hours = totals.seconds / 3600 or 1.0
    return report.table(
        ["Stage", "Seconds", "Seconds per hour of audio"],
        (
            [explained[stage], seconds, seconds / hours]
            for stage, seconds in totals.stages.items()
            if totals.done
        ),
    )


def _actor_table(sums: _Sums, usage: Mapping[str, float]) -> Markup:
    rows: list[list[str | int | float | None]] = []
    for actor, (files, seconds, model) in sorted(sums.actors.items()):
        present = usage.get(actor)
        speed, busy = (seconds / present, model / present) if present else (None, None)
        rows.append([actor, int(files), seconds / 3600, present, speed, busy])
    head = ["Actor", "Files", "Audio (h)", "Present (s)", "Times real time", "Model busy (share)"]
    return report.table(head, rows[: report.TABLE_ROWS], total=len(rows))


def _charts(sums: _Sums) -> Markup:
    loudness, length = "integrated loudness (LUFS)", "length (log10 of s)"
    charts = {
        metric.label: [
            (side, sums.scores[f"{name}_{ending}"].counts)
            for side, ending in (("before", "in"), ("after", "out"))
        ]
        for name, metric in metrics.OPINIONS.items()
    }
    levels = [(name.removeprefix("loudness_"), counts) for name, counts in sorted(sums.levels.items())]
    return report.bars(
        {length: [("files", sums.lengths)], loudness: levels, **charts},
        {length: _LENGTHS, loudness: _LEVELS, **dict.fromkeys(charts, _MOS)},
    )


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"
