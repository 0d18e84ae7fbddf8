"""Means of metrics over what is known of the pairs: one chart for each metric and number."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from enhance_ray import metrics, report
from enhance_ray.evaluation import tables
from enhance_ray.evaluation.facts import FACTS
from enhance_ray.evaluation.scoring import Row
from enhance_ray.metrics import METRICS

BINS = 6
"""Most columns of a chart, about."""
COLOURS = ("#8b949e", "#2f81f7", "#e3742f", "#2da44e", "#a475f9", "#d4a72c", "#e85aad", "#17a2a2")
"""Of systems in their order: each can be told on white and on black."""
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
"""matplotlib's mark, and the letter that looks like it."""


class Bin(NamedTuple):
    """A range of numbers."""

    label: str
    low: float
    high: float
    """The first number that no longer belongs."""


def charts(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Markup]:
    """Heading -> HTML: for each number in which pairs differ, a chart of each of the metrics ``names``."""
    systems = [system for (system,) in tables.grouped(rows, "system")]
    found = {}
    for fact in tables.facts(rows):
        ranges = bins(tables.values(rows, fact), scale=1000 if _in_hertz(fact) else 1)
        if len(ranges) < 2:
            continue
        figures = []
        for name in names:
            title = METRICS[name].title
            picture = report.embed(_chart(rows, fact, name, systems, ranges), f"{title} by {fact}")
            figures.append((f"{title} {tables.arrow(METRICS[name])}", picture))
        about = FACTS[fact].measure.__doc__ or "" if fact in FACTS else "As the table says."
        found[f"By {_axis_title(fact)}"] = report.macros("evaluation.html").charts(
            about.partition("\n")[0], _key(systems), figures
        )
    return found


def bins(numbers: Sequence[float], scale: float = 1) -> list[Bin]:
    """A bin for each of a few values that were chosen; of others, ranges between round numbers.

    A value that was measured has more than four digits. Ranges have something in them; labels are of what the
    numbers are when they are divided by ``scale``.
    """
    values: NDArray[np.float64] = np.unique(np.asarray(numbers, dtype=np.float64))
    if values.size <= BINS and all(value == float(f"{value:.4g}") for value in values):
        return [Bin(f"{value / scale:.4g}", value, np.nextafter(value, np.inf)) for value in values]
    from matplotlib.ticker import MaxNLocator

    edges = list(MaxNLocator(BINS).tick_values(values[0], values[-1]))
    labels = [f"{low / scale:.4g} to\n{high / scale:.4g}" for low, high in itertools.pairwise(edges)]
    edges[-1] = np.nextafter(edges[-1], np.inf)  # the last range holds its end, too
    ranges = map(Bin, labels, edges[:-1], edges[1:])
    return [bin for bin in ranges if ((values >= bin.low) & (values < bin.high)).any()]


def fact_title(name: str) -> str:
    """With its unit."""
    return f"{FACTS[name].title} ({FACTS[name].unit})" if name in FACTS else name


def _in_hertz(name: str) -> bool:
    return name.lower().endswith("_hz")


def _axis_title(name: str) -> str:
    """`fact_title`, in kHz for what is in Hz."""
    if not _in_hertz(name):
        return fact_title(name)
    return f"{FACTS[name].title if name in FACTS else re.sub('_hz$', '', name, flags=re.IGNORECASE)} (kHz)"


def _chart(rows: Sequence[Row], fact: str, name: str, systems: Sequence[str], ranges: Sequence[Bin]) -> Any:
    """The metric's means with their intervals for each system; below, how many pairs there are."""
    figure = report.new_figure(3.9, 3.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    places = np.arange(len(ranges))
    held = [[row for row in rows if low <= _number(row.get(fact)) < high] for _, low, high in ranges]
    for place, system in enumerate(systems):
        intervals = [
            metrics.mean_interval(tables.values([row for row in chosen if row["system"] == system], name))
            for chosen in held
        ]
        reach = np.array([(i.mean - i.low, i.high - i.mean) for i in intervals]).T
        above.errorbar(
            places + 0.06 * (place - (len(systems) - 1) / 2),
            [interval.mean for interval in intervals],
            yerr=np.maximum(reach, 0),
            color=COLOURS[place % len(COLOURS)],
            marker=list(MARKERS)[place % len(MARKERS)],
            markersize=5,
            linewidth=1.4,
            elinewidth=1,
            capsize=2,
        )
    below.bar(places, [tables.count(chosen) for chosen in held], width=0.7, color=report.BEFORE, alpha=0.6)
    below.set_xticks(places, [bin.label for bin in ranges], fontsize="small")
    below.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    below.set_ylabel("pairs", color=report.INK, fontsize="small")
    # A dollar would begin a formula.
    below.set_xlabel(_axis_title(fact).replace("$", r"\$"), color=report.INK)
    above.set_ylabel(METRICS[name].unit or METRICS[name].title, color=report.INK)
    above.grid(axis="y", color=report.INK, alpha=0.25, linewidth=0.6)
    for axis in (above, below):
        report.paint(axis)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _key(systems: Sequence[str]) -> list[tuple[str, str, str]]:
    """Which colour and mark belongs to whom."""
    letters = list(MARKERS.values())
    return [
        (system, COLOURS[place % len(COLOURS)], letters[place % len(letters)])
        for place, system in enumerate(systems)
    ]
