"""An evaluation as a page: one file with tables, charts, spectrograms and sounds, which needs no network."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import yaml
from markupsafe import Markup, escape

from enhance_ray import audio, metrics, report
from enhance_ray.evaluation import charts, examples, tables
from enhance_ray.evaluation.examples import Excerpt
from enhance_ray.evaluation.facts import FACTS
from enhance_ray.evaluation.pairs import RESERVED, Item
from enhance_ray.evaluation.scoring import Row, Scored, Scorer
from enhance_ray.evaluation.settings import INPUT, EvaluateConfig
from enhance_ray.metrics import METRICS, Interval, Metric
from enhance_ray.report import Card, Cell, Column
from enhance_ray.settings import trees

FAILURES = 200
"""Pairs that could not be read which the page lists."""


def select(rows: Sequence[Row], settings: EvaluateConfig) -> list[examples.ShownPair]:
    """The pairs that the page is to show."""
    names = _charted(rows, settings)
    metric = settings.page.example_metric or (names[0] if names else None)
    return examples.choose(rows, metric, settings.page.examples)


def listen(scorer: Scorer, items: Sequence[Item], rows: Sequence[Row]) -> list[Excerpt]:
    """What there is to hear of the pairs that `select` chooses of ``rows``; their models run again."""
    settings = scorer.config
    return [
        examples.excerpt(choice, scorer.hear(item), settings.page.example_seconds)
        for choice in select(rows, settings)
        for item in items
        if choice.is_of(item)
    ]


def write(path: str, text: str) -> None:
    """Write a page to ``path``: a local path, whose folder is created, or an fsspec URI."""
    if not audio.is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with fsspec.open(path, "w", encoding="utf-8") as file:
        file.write(text)


def page(
    outcomes: Sequence[Scored],
    settings: EvaluateConfig,
    excerpts: Sequence[Excerpt] = (),
    *,
    title: str = "Evaluation",
    work: str = "",
) -> str:
    """The page of an evaluation, as HTML.

    Args:
        outcomes: of every pair.
        settings: what `resolve` gave.
        excerpts: of what `select` chose.
        title: of the page.
        work: which code ran, and on what, for readers of real-time factors; sentences, or empty.

    Raises:
        ConfigError: matplotlib is absent.
    """
    rows = [row for outcome in outcomes for row in outcome.rows]
    failed = [outcome for outcome in outcomes if outcome.failed is not None]
    sections = {
        "Failed": _failures(failed),
        "Scores": _scores(rows),
        "Differences": _differences(rows),
        **charts.charts(rows, _charted(rows, settings)),
        "Examples": examples.section(excerpts),
        "Recordings": _recordings(rows),
        "What is measured": _meanings(rows),
        "How": _protocol(settings, work),
    }
    return report.page(title, _cards(rows, failed, settings), sections, has_contents=True)


def _charted(rows: Sequence[Row], settings: EvaluateConfig) -> list[str]:
    """The metrics of the charts that are measured; without any, the first that are."""
    measured = [name for name in tables.columns(rows) if name in METRICS]
    return [name for name in settings.page.charts if name in measured] or measured[:4]


def _cards(rows: Sequence[Row], failed: Sequence[Scored], settings: EvaluateConfig) -> list[Card]:
    inputs = [row for row in rows if row["system"] == INPUT]
    systems = [name for (name,) in tables.grouped(rows, "system") if name != INPUT]
    cards = [
        Card(f"{len(inputs):,}", "pairs"),
        Card(f"{len(failed):,}", "failed", bool(failed)),
        Card(report.duration(sum(row["seconds"] for row in inputs)), "of audio"),
        Card(str(len(systems)), "systems beside the input"),
    ]
    last = {d.name: d.interval for d in tables.differences(rows, INPUT) if d.system == systems[-1]}
    for name in [name for name in _charted(rows, settings) if name in last][:2]:
        metric = METRICS[name]
        cards.append(Card(f"{last[name].mean:+.{metric.digits}f}", f"{metric.title} by {systems[-1]}"))
    return cards


def _macros() -> Any:
    """The macros of the page's sections."""
    return report.macros("evaluation.html")


# ------------------------------------------------------------------------------- tables


def _scores(rows: Sequence[Row]) -> Markup:
    parts = [
        (name, tables.count(chosen), _summary(chosen, name))
        for name, chosen in _parts(rows, "All conditions").items()
    ]
    html: Markup = _macros().scores(parts) if rows else Markup()
    return html


def _parts(rows: Sequence[Row], everything: str) -> dict[str, Sequence[Row]]:
    """All rows, and those of each condition where there are several."""
    groups: dict[str, Sequence[Row]] = {
        condition: chosen for (condition,), chosen in tables.grouped(rows, "condition").items()
    }
    return groups if len(groups) == 1 else {everything: rows, **groups}


def _summary(rows: Sequence[Row], name: str) -> Markup:
    shown = tables.columns(rows)
    pairs = tables.count(rows)
    intervals = {
        system: {key: metrics.mean_interval(tables.values(chosen, key)) for key in shown}
        for (system,), chosen in tables.grouped(rows, "system").items()
    }
    best = {key: _best([of[key] for of in intervals.values()], metric) for key, metric in shown.items()}
    lines = [
        [
            system,
            *(
                _interval_cell(of[key], metric.digits, pairs, "best" if of[key].mean == best[key] else "")
                for key, metric in shown.items()
            ),
        ]
        for system, of in intervals.items()
    ]
    return report.table(["System", *_columns(shown)], lines, name=f"Scores, {name}")


def _best(intervals: Sequence[Interval], metric: Metric) -> float | None:
    """The best mean; None where there is nothing to choose from."""
    means = [interval.mean for interval in intervals if interval.count]
    if len(means) < 2:
        return None
    if metric.higher_is_better is None:
        return min(means, key=abs)
    return max(means) if metric.higher_is_better else min(means)


def _differences(rows: Sequence[Row]) -> Markup:
    against = tables.baseline(rows)
    if against is None:
        return Markup()
    names = {name: metric for name, metric in tables.columns(rows).items() if name in METRICS}
    lines = []
    for condition, chosen in _parts(rows, "all").items():
        found = {(d.system, d.name): d for d in tables.differences(chosen, against)}
        for system in dict.fromkeys(system for system, _ in found):
            cells = (_difference_cell(found.get((system, name)), tables.count(chosen)) for name in names)
            lines.append([system, condition, *cells])
    table = report.table(["System", "Condition", *_columns(names)], lines, name="Differences")
    html: Markup = _macros().differences(against, table)
    return html


def _difference_cell(difference: tables.Difference | None, pairs: int) -> Cell:
    if difference is None:
        return Cell("")
    word = ""
    if difference.is_clear:
        word = {True: "better", False: "worse", None: "differs"}[difference.is_better]
    return _interval_cell(difference.interval, METRICS[difference.name].digits, pairs, word, signed=True)


def _interval_cell(interval: Interval, digits: int, pairs: int, mark: str, *, signed: bool = False) -> Cell:
    """A mean with its interval below."""
    if interval.count == 0:
        return Cell("")
    sign = "+" if signed else ""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    below = [f"{low} to {high}"]
    if interval.count < pairs:
        below.append(f"{interval.count} pairs")
    if mark and signed:
        below.append(mark)
    return Cell(mean, interval.mean, mark, below)


def _recordings(rows: Sequence[Row]) -> Markup:
    shown = tables.columns(rows)
    digits: dict[str, int | None] = {key: metric.digits for key, metric in shown.items()}
    extra = list(dict.fromkeys(name for row in rows for name in row if name not in RESERVED))
    digits |= {name: FACTS[name].digits if name in FACTS else None for name in extra}
    lines = [
        [
            *(str(row[key]) for key in ("name", "condition", "system")),
            *(_cell(row.get(key), places) for key, places in digits.items()),
        ]
        for row in rows[: report.TABLE_ROWS]
    ]
    heads = ["Recording", "Condition", "System", *_columns(shown)]
    heads += [Column(charts.fact_title(name)) for name in extra]
    return report.table(heads, lines, name="Recordings", total=len(rows))


def _cell(value: Any, digits: int | None) -> Cell | str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if not isinstance(value, (int, float)):
        return str(value)
    return Cell(f"{value:g}" if digits is None else f"{value:.{digits}f}", value)


def _columns(shown: Mapping[str, Metric]) -> list[str | Column]:
    return [
        Column(f"{metric.title} {tables.arrow(metric)}", metric.unit, _meaning(key)[0])
        for key, metric in shown.items()
    ]


def _failures(failed: Sequence[Scored]) -> Markup:
    listed = [(outcome.item.name, outcome.failed) for outcome in failed[:FAILURES]]
    html: Markup = _macros().failures(listed, len(failed)) if failed else Markup()
    return html


# ------------------------------------------------------------------------------- words


def _meanings(rows: Sequence[Row]) -> Markup:
    entries = []
    for name, metric in tables.columns(rows).items():
        unit = f" ({metric.unit})" if metric.unit else ""
        entries.append((f"{metric.title} {tables.arrow(metric)}{unit}", _meaning(name)))
    entries += [
        (charts.fact_title(name), _paragraphs(FACTS[name].measure))
        for name in tables.facts(rows)
        if name in FACTS
    ]
    marked = [(title, [_code(text) for text in texts]) for title, texts in entries]
    html: Markup = _macros().meanings(marked) if entries else Markup()
    return html


def _meaning(name: str) -> list[str]:
    """What the function that computes ``name`` says of itself, by paragraphs."""
    if name == "rtf":
        return [tables.RTF_MEANING]
    measure = getattr(metrics, name, None)
    while not callable(measure) and "_" in name:  # `dnsmos_ovrl` is one of what `dnsmos` gives
        name = name.rpartition("_")[0]
        measure = getattr(metrics, name, None)
    return _paragraphs(measure) if callable(measure) else [""]


def _paragraphs(function: Callable[..., Any]) -> list[str]:
    """Of a docstring, up to its lists of arguments and errors."""
    text = re.split(r"\n\n(?:Args|Returns|Raises):\n", inspect.getdoc(function) or "")[0]
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _code(text: str) -> Markup:
    """Escaped; what is in backticks is code."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))


def _protocol(settings: EvaluateConfig, work: str) -> Markup:
    tree = yaml.safe_dump(trees.to_tree(settings), sort_keys=False, allow_unicode=True)
    html: Markup = _macros().protocol(settings, tree, work)
    return html
