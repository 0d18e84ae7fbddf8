"""Rows in numbers: means and intervals by condition and system, and differences of the same pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from enhance_ray import metrics
from enhance_ray.evaluation.pairs import RESERVED
from enhance_ray.evaluation.scoring import Row
from enhance_ray.evaluation.settings import INPUT
from enhance_ray.metrics import METRICS, Interval, Metric

RTF = Metric(title="RTF", unit="", higher_is_better=False, digits=3)
"""A column beside the metrics."""
RTF_MEANING = "Real-time factor: seconds that the model took per second of audio; lower is better."


def columns(rows: Sequence[Row]) -> dict[str, Metric]:
    """The metrics that ``rows`` hold, and their RTF where a model ran, in the order of tables."""
    found = {name: metric for name, metric in METRICS.items() if any(name in row for row in rows)}
    return {**found, "rtf": RTF} if any(_defined(row.get("rtf")) for row in rows) else found


def facts(rows: Sequence[Row]) -> list[str]:
    """What else is known in numbers of at least one pair."""
    names = dict.fromkeys(name for row in rows for name in row if name not in RESERVED)
    return [name for name in names if any(_defined(row.get(name)) for row in rows)]


def values(rows: Iterable[Row], name: str) -> list[float]:
    """The numbers called ``name`` that are defined and finite."""
    return [float(row[name]) for row in rows if _defined(row.get(name))]


def grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    """By the values of ``keys``, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return groups


def count(rows: Iterable[Row]) -> int:
    """Of pairs."""
    return len({(row["condition"], row["index"]) for row in rows})


def baseline(rows: Sequence[Row]) -> str | None:
    """The system that the others are compared with: the first that is not the input."""
    return next((str(row["system"]) for row in rows if row["system"] != INPUT), None)


@dataclass(frozen=True, slots=True)
class Difference:
    """A system's score less the baseline's, on the same pairs."""

    system: str
    name: str
    interval: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval.count > 1 and not self.interval.low <= 0 <= self.interval.high

    @property
    def is_better(self) -> bool | None:
        """Whether the system is ahead; None where 0 is best, and a difference does not say who is nearer."""
        better = METRICS[self.name].higher_is_better
        return None if better is None else (self.interval.mean > 0) == better


def differences(rows: Sequence[Row], against: str) -> list[Difference]:
    """By system and metric, of every system but ``against``."""
    base = {(row["condition"], row["index"]): row for row in rows if row["system"] == against}
    found = []
    for (system,), chosen in grouped(rows, "system").items():
        if system == against:
            continue
        for name in METRICS:
            both = (values([row, base[row["condition"], row["index"]]], name) for row in chosen)
            paired = [pair[0] - pair[1] for pair in both if len(pair) == 2]
            if paired:
                found.append(Difference(system, name, metrics.mean_interval(paired)))
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown: the mean of each score and half the width of its 95 % interval, by condition and system."""
    shown = columns(rows)
    titles = [f"{metric.title} {arrow(metric)}" for metric in shown.values()]
    lines = ["| " + " | ".join(["condition", "system", *titles]) + " |"]
    lines.append("|---|---|" + "---:|" * len(titles))
    for (condition, system), chosen in grouped(rows, "condition", "system").items():
        cells = []
        for name, metric in shown.items():
            interval = metrics.mean_interval(values(chosen, name))
            half = (interval.high - interval.low) / 2
            cells.append(
                f"{interval.mean:.{metric.digits}f} ± {half:.{metric.digits}f}" if interval.count else ""
            )
        lines.append("| " + " | ".join([condition, system, *cells]) + " |")
    return "\n".join(lines)


def means(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """condition -> system -> score -> mean, for machines; a score that is nowhere defined is left out."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (condition, system), chosen in grouped(rows, "condition", "system").items():
        scores = {name: values(chosen, name) for name in columns(rows)}
        found.setdefault(condition, {})[system] = {
            name: sum(numbers) / len(numbers) for name, numbers in scores.items() if numbers
        }
    return found


def save(path: str | Path, rows: Iterable[Row], *, append: bool = False) -> None:
    """Write ``rows`` as lines of JSON, in which what is not defined is null, as what is infinite."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a" if append else "w", encoding="utf-8") as file:
        for row in rows:
            finite = {
                key: value if not isinstance(value, float) or math.isfinite(value) else None
                for key, value in row.items()
            }
            file.write(f"{json.dumps(finite, ensure_ascii=False, allow_nan=False)}\n")


def arrow(metric: Metric) -> str:
    """Which way is better."""
    return {True: "↑", False: "↓", None: "→0"}[metric.higher_is_better]


def _defined(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
