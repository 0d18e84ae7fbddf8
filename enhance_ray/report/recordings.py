"""What became of every input, as a page for people."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from enhance_ray import audio, metrics
from enhance_ray.errors import AudioReadError
from enhance_ray.records import Record, Totals, totals
from enhance_ray.report import pages, pictures
from enhance_ray.report.pages import Card, Cell, duration, kind_of, number, table

EXAMPLE_SECONDS = 15.0
"""How much of a recording its pictures show, from its start."""
EMBED_BYTES = 1_500_000
"""A sound up to this size is inside the page, a larger one is a link."""


def html(
    path: str | Path, records: Sequence[Record], *, title: str = "Restored recordings", examples: int = 6
) -> None:
    """Write ``records`` as a page at ``path``.

    Args:
        path: the page; replaced where it exists. Sounds too large to be inside are links relative to it.
        records: in the order of the table, failures first.
        title: of the page.
        examples: how many records done here, local files both, are shown as pictures and players.

    Raises:
        ConfigError: matplotlib is absent.
    """
    path = Path(path)
    shown = [record for record in records if _is_local_pair(record)][:examples]
    sections = {
        "Run": _run(records),
        "Failures": _failures([record for record in records if record.status == "failed"]),
        "Scores": _scores(records),
        "Guard": _guard(records),
        "Before and after": Markup().join(_example(record, path.parent) for record in shown),
        "Recordings": _table(records),
    }
    text = pages.page(title, _cards(totals(records)), sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _is_local_pair(record: Record) -> bool:
    return record.status == "done" and Path(record.input).is_file() and Path(record.output or "").is_file()


def _cards(total: Totals) -> list[Card]:
    return [
        Card(f"{total.done:,}", "done"),
        Card(f"{total.failed:,}", "failed", total.failed > 0),
        Card(f"{total.skipped:,}", "done by an earlier run"),
        Card(duration(total.seconds), "of audio"),
        Card(duration(total.seconds_spent), "of work"),
        Card(number(total.rtf, 3).text, "real-time factor"),
    ]


def _run(records: Sequence[Record]) -> Markup:
    """Models and options, each once: a report may hold several runs."""
    models = sorted({record.model for record in records if record.model})
    options = sorted({json.dumps(record.options, ensure_ascii=False) for record in records if record.options})
    text: Markup = pages.macros("recordings.html").run(models, options)
    return text


def _failures(failed: Sequence[Record]) -> Markup:
    kinds: dict[tuple[str, str], list[Record]] = {}
    for record in failed:
        kinds.setdefault((record.code or "", kind_of(record.reason or "")), []).append(record)
    rows = [
        [len(group), code, group[0].reason or "", group[0].input]
        for (code, _), group in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    return table(["Inputs", "Code", "Reason", "For example"], rows)


def _scores(records: Sequence[Record]) -> Markup:
    """Mean and 95 % interval before and after, and how the scores are spread."""
    values = {
        name: [
            [r.scores[name + side] for r in records if name + side in r.scores] for side in ("_in", "_out")
        ]
        for name in metrics.RECORDED
    }
    values = {name: pair for name, pair in values.items() if any(pair)}
    rows: list[list[Cell | str]] = []
    for name, pair in values.items():
        metric = metrics.RECORDED[name]
        cells = [_interval(metrics.mean_interval(side), metric.digits) for side in pair]
        better = {True: "higher", False: "lower", None: "0"}[metric.higher_is_better]
        rows.append([metric.title, *cells, metric.unit, better])
    summary = table(["Metric", "Before", "After", "Unit", "Better is"], rows)
    return summary + pictures.bars(*pictures.score_charts(values))


def _interval(interval: metrics.Interval, digits: int) -> Cell:
    if interval.count == 0:
        return Cell("")
    mean, low, high = (f"{value:.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    return Cell(f"{mean} ({low} to {high})", interval.mean)


@dataclass(slots=True)
class GuardTally:
    """How often a guard kept another version, and why, over any number of recordings."""

    times: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By reason and version."""
    seconds: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, spans: Iterable[Mapping[str, Any]]) -> None:
        """Count what `Record.guard` holds."""
        for span in spans:
            key = span["reason"], span["kept"]
            self.times[key] += 1
            self.seconds[key] += span["stop"] - span["start"]

    def table(self) -> Markup:
        """For a page; empty where there is nothing to tell."""
        rows = ((*key, times, self.seconds[key]) for key, times in self.times.most_common())
        return table(["Reason", "Kept", "Times", "Seconds"], rows)


def _guard(records: Sequence[Record]) -> Markup:
    tally = GuardTally()
    for record in records:
        tally.add(record.guard)
    return tally.table()


def _example(record: Record, folder: Path) -> Markup:
    """One recording as heard before and after; where it can no longer be read, that is said in its place."""
    assert record.output is not None
    parts = pages.macros("recordings.html")
    try:
        before, rate_before = _opening(record.input)
        after, rate = _opening(record.output)
    except AudioReadError as error:  # the files may have changed since: the page is about the rest, too
        said: Markup = parts.unreadable(record.input, str(error))
        return said
    before = metrics.resample(before, rate_before, rate)
    picture = pictures.embed(pictures.pair_figure(before, after, rate), "Spectrograms before and after")
    sounds = [_sound(Path(path), folder) for path in (record.input, record.output)]
    shown: Markup = parts.example(record.input, picture, sounds)
    return shown


def _opening(path: str) -> tuple[NDArray[np.float32], int]:
    """The first `EXAMPLE_SECONDS` of ``path`` as (time,), channels averaged, and the rate in Hz."""
    with audio.decode(path, block_seconds=EXAMPLE_SECONDS, partial=True) as blocks:
        for block in blocks:
            return block.mean(axis=0), blocks.info.sample_rate
    raise AudioReadError(path, "it has no samples")


def _sound(path: Path, folder: Path) -> str:
    """Where a player finds ``path``: in the page itself, or from ``folder``."""
    if path.stat().st_size <= EMBED_BYTES:
        kind = mimetypes.guess_type(path.name)[0] or "audio/wav"
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))


def _table(records: Sequence[Record]) -> Markup:
    ordered = sorted(
        records, key=lambda record: record.status != "failed"
    )  # stable: the order stays otherwise
    shown = ordered[: pages.TABLE_ROWS]
    scores = [name + side for name in metrics.RECORDED for side in ("_in", "_out")]
    scores = [key for key in scores if any(key in record.scores for record in records)]
    titles = ["Input", "Status", "Length (s)", "RTF", "Rate (Hz)", "Channels", "Peak in (dBFS)", "Peak out"]
    titles += ["Loudness in (LUFS)", "Loudness out", *(_score_title(key) for key in scores), "Remark"]
    return table(
        titles,
        (_row(record, scores) for record in shown),
        marks=[record.status for record in shown],
        total=len(records),
    )


def _score_title(key: str) -> str:
    name, _, side = key.rpartition("_")
    return f"{metrics.RECORDED[name].title} {side}"


def _row(record: Record, scores: Sequence[str]) -> list[Cell | str]:
    numbers: list[tuple[float | None, int]] = [
        (record.seconds, 1),
        (record.rtf, 3),
        (record.sample_rate, 0),
        (record.channels, 0),
        (record.peak_in, 1),
        (record.peak_out, 1),
        (record.loudness_in, 1),
        (record.loudness_out, 1),
        *((record.scores.get(key), metrics.RECORDED[key.rpartition("_")[0]].digits) for key in scores),
    ]
    cells = [number(value, digits) for value, digits in numbers]
    return [record.input, record.status, *cells, record.reason or record.warning or ""]
