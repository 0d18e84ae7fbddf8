"""An evaluation as a page: one file with tables, charts, spectrograms and sounds, which needs no network."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import fsspec
import yaml

from enhance_ray import audio, metrics, report
from enhance_ray.evaluation import charts, examples, tables
from enhance_ray.evaluation.examples import Excerpt
from enhance_ray.evaluation.facts import FACTS
from enhance_ray.evaluation.pairs import RESERVED, Item
from enhance_ray.evaluation.scoring import Row, Scored, Scorer
from enhance_ray.evaluation.settings import INPUT, EvaluateConfig
from enhance_ray.metrics import METRICS, Interval, Metric
from enhance_ray.settings import trees

FAILURES = 200
"""Pairs that could not be read which the page lists."""

_SCORES_NOTE = """Means over pairs with 95 % intervals (percentile bootstrap of the pairs). A star marks the
best mean of a column, which need not be clearly the best: see the differences. Headings sort. Beside metrics,
arrows say where better is: up, down, or towards 0."""
_DIFFERENCES_NOTE = """Score of a system less that of <b>{against}</b> on the same pair: mean and 95 %
interval. Where the interval excludes 0, the number is bold and a word says which way it goes. Of many such
numbers one in twenty is bold by chance."""
_PROTOCOL = """Every system gets the same input and is compared with the same clean recording. What is not
defined of a pair, or infinite, is left out of the means. Intervals hold 95 % of the means of 2,000 resamples
of the pairs."""


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
    bodies = {heading: body for heading, body in sections.items() if body}
    links = (f'<a href="#part{place}">{escape(heading)}</a>' for place, heading in enumerate(bodies))
    parts = (
        report.section(escape(heading), f'<a id="part{place}"></a>{body}')
        for place, (heading, body) in enumerate(bodies.items())
    )
    return report.page(title, _cards(rows, failed, settings), [f"<nav>{''.join(links)}</nav>", *parts])


def _charted(rows: Sequence[Row], settings: EvaluateConfig) -> list[str]:
    """The metrics of the charts that are measured; without any, the first that are."""
    measured = [name for name in tables.columns(rows) if name in METRICS]
    return [name for name in settings.page.charts if name in measured] or measured[:4]


def _cards(
    rows: Sequence[Row], failed: Sequence[Scored], settings: EvaluateConfig
) -> list[tuple[str, str, bool]]:
    inputs = [row for row in rows if row["system"] == INPUT]
    systems = [name for (name,) in tables.grouped(rows, "system") if name != INPUT]
    cards = [
        (f"{len(inputs):,}", "pairs", False),
        (f"{len(failed):,}", "failed", bool(failed)),
        (report.duration(sum(row["seconds"] for row in inputs)), "of audio", False),
        (str(len(systems)), "systems beside the input", False),
    ]
    last = {d.name: d.interval for d in tables.differences(rows, INPUT) if d.system == systems[-1]}
    for name in [name for name in _charted(rows, settings) if name in last][:2]:
        metric = METRICS[name]
        cards.append((f"{last[name].mean:+.{metric.digits}f}", f"{metric.title} by {systems[-1]}", False))
    return cards


# ------------------------------------------------------------------------------- tables


def _scores(rows: Sequence[Row]) -> str:
    parts = _parts(rows, "All conditions")
    summaries = (
        f"<h3>{escape(name)}, {tables.count(chosen)} pairs</h3>{_summary(chosen, name)}"
        for name, chosen in parts.items()
    )
    return f'<p class="note">{_SCORES_NOTE}</p>{"".join(summaries)}' if rows else ""


def _parts(rows: Sequence[Row], everything: str) -> dict[str, Sequence[Row]]:
    """All rows, and those of each condition where there are several."""
    groups: dict[str, Sequence[Row]] = {
        condition: chosen for (condition,), chosen in tables.grouped(rows, "condition").items()
    }
    return groups if len(groups) == 1 else {everything: rows, **groups}


def _summary(rows: Sequence[Row], name: str) -> str:
    shown = tables.columns(rows)
    pairs = tables.count(rows)
    intervals = {
        system: {key: metrics.mean_interval(tables.values(chosen, key)) for key in shown}
        for (system,), chosen in tables.grouped(rows, "system").items()
    }
    best = {key: _best([of[key] for of in intervals.values()], metric) for key, metric in shown.items()}
    lines = []
    for system, of in intervals.items():
        cells = (
            _interval_cell(of[key], metric.digits, pairs, "best" if of[key].mean == best[key] else "")
            for key, metric in shown.items()
        )
        lines.append(f"<tr><td>{escape(system)}</td>{''.join(cells)}</tr>")
    return _table(["System"], shown, lines, f"Scores, {name}")


def _best(intervals: Sequence[Interval], metric: Metric) -> float | None:
    """The best mean; None where there is nothing to choose from."""
    means = [interval.mean for interval in intervals if interval.count]
    if len(means) < 2:
        return None
    if metric.higher_is_better is None:
        return min(means, key=abs)
    return max(means) if metric.higher_is_better else min(means)


def _differences(rows: Sequence[Row]) -> str:
    against = tables.baseline(rows)
    if against is None:
        return ""
    names = {name: metric for name, metric in tables.columns(rows).items() if name in METRICS}
    lines = []
    for condition, chosen in _parts(rows, "all").items():
        found = {(d.system, d.name): d for d in tables.differences(chosen, against)}
        for system in dict.fromkeys(system for system, _ in found):
            cells = [_difference_cell(found.get((system, name)), tables.count(chosen)) for name in names]
            lines.append(f"<tr><td>{escape(system)}</td><td>{escape(condition)}</td>{''.join(cells)}</tr>")
    note = _DIFFERENCES_NOTE.format(against=escape(against))
    return f'<p class="note">{note}</p>{_table(["System", "Condition"], names, lines, "Differences")}'


def _difference_cell(difference: tables.Difference | None, pairs: int) -> str:
    if difference is None:
        return '<td class="n"></td>'
    word = ""
    if difference.is_clear:
        word = {True: "better", False: "worse", None: "differs"}[difference.is_better]
    return _interval_cell(difference.interval, METRICS[difference.name].digits, pairs, word, signed=True)


def _interval_cell(interval: Interval, digits: int, pairs: int, mark: str, *, signed: bool = False) -> str:
    """A mean with its interval below; bold and with its ``mark`` as a class, if that is not empty."""
    if interval.count == 0:
        return '<td class="n" data-value=""></td>'
    sign = "+" if signed else ""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    below = [f"{low} to {high}"]
    if interval.count < pairs:
        below.append(f"{interval.count} pairs")
    if mark and signed:
        below.append(mark)
    return (
        f'<td class="n {mark}" data-value="{interval.mean}">{f"<b>{mean}</b>" if mark else mean}'
        f"{''.join(f'<small>{text}</small>' for text in below)}</td>"
    )


def _recordings(rows: Sequence[Row]) -> str:
    shown = tables.columns(rows)
    digits: dict[str, int | None] = {key: metric.digits for key, metric in shown.items()}
    extra = list(dict.fromkeys(name for row in rows for name in row if name not in RESERVED))
    digits |= {name: FACTS[name].digits if name in FACTS else None for name in extra}
    lines = []
    for row in rows[: report.TABLE_ROWS]:
        texts = (f"<td>{escape(str(row[key]))}</td>" for key in ("name", "condition", "system"))
        cells = (_cell(row.get(key), places) for key, places in digits.items())
        lines.append(f"<tr>{''.join(texts)}{''.join(cells)}</tr>")
    more = f"<p>The first {report.TABLE_ROWS:,} of {len(rows):,}.</p>" if len(rows) > len(lines) else ""
    titles = [charts.fact_title(name) for name in extra]
    heads = ["Recording", "Condition", "System"]
    return f"{more}{_table(heads, shown, lines, 'Recordings', titles)}" if lines else ""


def _cell(value: Any, digits: int | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '<td class="n" data-value=""></td>'
    if not isinstance(value, (int, float)):
        return f"<td>{escape(str(value))}</td>"
    text = f"{value:g}" if digits is None else f"{value:.{digits}f}"
    return f'<td class="n" data-value="{value}">{text}</td>'


def _table(
    first: Iterable[str],
    shown: Mapping[str, Metric],
    lines: Sequence[str],
    name: str,
    last: Iterable[str] = (),
) -> str:
    """A table that its headings sort, and that scrolls by itself while its first column stays.

    Args:
        first: headings of columns of text.
        shown: columns of metrics, which get a hint.
        lines: the rows as HTML.
        name: for those who cannot see it.
        last: headings of columns of numbers.
    """
    heads = [f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in first]
    for key, metric in shown.items():
        title = f"{escape(metric.title)} {tables.arrow(metric)}<small>{escape(metric.unit)}</small>"
        hint = escape(_meaning(key)[0])
        heads.append(f'<th scope="col" class="n" title="{hint}"><button type="button">{title}</button></th>')
    heads += [
        f'<th scope="col" class="n"><button type="button">{escape(text)}</button></th>' for text in last
    ]
    return (
        f'<div class="wide tall" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="sortable"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _failures(failed: Sequence[Scored]) -> str:
    entries = "".join(
        f"<li><code>{escape(outcome.item.name)}</code>: {escape(outcome.failed or '')}</li>"
        for outcome in failed[:FAILURES]
    )
    more = f"<p>The first {FAILURES} of {len(failed):,}.</p>" if len(failed) > FAILURES else ""
    return f"{more}<ul>{entries}</ul>" if failed else ""


# ------------------------------------------------------------------------------- words


def _meanings(rows: Sequence[Row]) -> str:
    entries = []
    for name, metric in tables.columns(rows).items():
        unit = f" ({metric.unit})" if metric.unit else ""
        entries.append((f"{metric.title} {tables.arrow(metric)}{unit}", _meaning(name)))
    entries += [
        (charts.fact_title(name), _paragraphs(FACTS[name].measure))
        for name in tables.facts(rows)
        if name in FACTS
    ]
    lines = (
        f"<dt>{escape(title)}</dt>{''.join(f'<dd>{_code(text)}</dd>' for text in texts)}"
        for title, texts in entries
    )
    return f"<dl>{''.join(lines)}</dl>" if entries else ""


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


def _code(text: str) -> str:
    """Escaped; what is in backticks is code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text))


def _protocol(settings: EvaluateConfig, work: str) -> str:
    if settings.clean is not None:
        folders = " and ".join(
            f"<code>{escape(folder or '')}</code>" for folder in (settings.clean, settings.noisy)
        )
        source = f"Files of {folders}, matched by path without extension, channels averaged, at 44.1 kHz."
    else:
        source = (
            f"{settings.count} examples of {settings.seconds:g} s of each condition, made from what is held "
            f"out of <code>{escape(settings.corpus.root)}</code>, with seed {settings.seed}."
        )
    lines = [source, _PROTOCOL, escape(work)]
    tree = yaml.safe_dump(trees.to_tree(settings), sort_keys=False, allow_unicode=True)
    details = f"<details><summary>Settings</summary><pre>{escape(tree)}</pre></details>"
    return "".join(f"<p>{line}</p>" for line in lines if line) + details
