"""A few pairs to look at and to listen to, from what was helped most to what was helped least."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soundfile
from markupsafe import Markup

from enhance_ray import report
from enhance_ray.evaluation import tables
from enhance_ray.evaluation.pairs import Item, Waveform
from enhance_ray.evaluation.scoring import Row
from enhance_ray.evaluation.settings import INPUT
from enhance_ray.metrics import METRICS
from enhance_ray.settings.options import MODEL_RATE

AUDIO_BYTES = 4_000_000
"""Of all sounds in a page together, before they are written as text, which takes a third more."""


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair to be shown."""

    condition: str
    index: int
    name: str
    label: str
    """Why it is shown."""

    def is_of(self, item: Item) -> bool:
        """Whether ``item`` is that pair."""
        return (item.condition, item.index) == (self.condition, self.index)


class Excerpt(NamedTuple):
    """A part of a pair."""

    choice: ShownPair
    waveforms: Mapping[str, Waveform]
    """(time,) at `MODEL_RATE`, of equal length: "clean", then by system."""


def choose(rows: Sequence[Row], metric: str | None, count: int) -> list[ShownPair]:
    """``count`` pairs, evenly over the gain of the last system on the input: the best, the worst, between.

    Args:
        rows: of all pairs.
        metric: by which the gain is told; None, or where it is measured of no pair: the first that is.
        count: how many.
    """
    directed = [n for n in tables.columns(rows) if n in METRICS and METRICS[n].higher_is_better is not None]
    name = metric if metric in directed else next(iter(directed), None)
    system = rows[-1]["system"] if rows else INPUT
    if name is None or system == INPUT:
        return []
    sign = 1 if METRICS[name].higher_is_better else -1
    before = {(row["condition"], row["index"]): row for row in rows if row["system"] == INPUT}
    ranked = []
    for row in rows:
        pair = tables.values([before[row["condition"], row["index"]], row], name)
        if row["system"] == system and len(pair) == 2:
            ranked.append((sign * (pair[1] - pair[0]), pair, row))
    ranked.sort(key=lambda entry: -entry[0])
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).astype(int))
    chosen = []
    for place in map(int, places):
        _, (first, last), row = ranked[place]
        rank = f"{_word(place, len(ranked))} by the gain of {system} in {METRICS[name].title}"
        digits = METRICS[name].digits
        label = f"{rank}: {first:.{digits}f} to {last:.{digits}f} {METRICS[name].unit}".rstrip()
        chosen.append(ShownPair(row["condition"], row["index"], row["name"], label))
    return chosen


def _word(place: int, count: int) -> str:
    words = {(count - 1) // 2: "Median", count - 1: "Worst", 0: "Best"}
    return f"{words.get(place, f'Number {place + 1}')} of {count}"


def excerpt(choice: ShownPair, waveforms: Mapping[str, Waveform], seconds: float) -> Excerpt:
    """The ``seconds`` of ``waveforms`` in which most is said."""
    length = int(seconds * MODEL_RATE)
    energy = np.cumsum(np.pad(np.square(waveforms["clean"], dtype=np.float64), (1, 0)))
    start = int(np.argmax(energy[length:] - energy[:-length])) if energy.size > length else 0
    return Excerpt(choice, {name: wave[start : start + length] for name, wave in waveforms.items()})


def section(excerpts: Sequence[Excerpt]) -> Markup:
    """Spectrograms and players side by side.

    Raises:
        ConfigError: matplotlib is absent.
    """
    shown = [(example.choice, _panels(example)) for example in _fitted(excerpts)]
    html: Markup = report.macros("evaluation.html").examples(shown) if shown else Markup()
    return html


def _fitted(excerpts: Sequence[Excerpt]) -> list[Excerpt]:
    """As they are, or cut to what leaves the page small."""
    size = sum(len(_flac(wave)) for excerpt in excerpts for wave in excerpt.waveforms.values())
    share = min(1.0, AUDIO_BYTES / max(1, size))
    return [
        Excerpt(choice, {name: wave[: int(share * wave.size)] for name, wave in waveforms.items()})
        for choice, waveforms in excerpts
    ]


def _panels(example: Excerpt) -> list[tuple[str, Markup, str]]:
    """Of each system its name, picture and sound."""
    choice, waveforms = example
    peak = max(float(np.abs(wave).max(initial=0)) for wave in waveforms.values())
    levels = {name: report.mel_level(wave, MODEL_RATE) for name, wave in waveforms.items()}
    loudest = max(float(level.max()) for level in levels.values())
    panels = []
    for name, wave in waveforms.items():
        figure = report.new_figure(3.6, 2.5)
        axis = figure.subplots()
        report.draw_spectrogram(axis, levels[name] - loudest, wave.size / MODEL_RATE, MODEL_RATE)
        axis.set_ylabel("frequency (kHz)", color=report.INK)
        picture = report.embed(figure, f"Spectrogram of {choice.name}, {name}", "webp")
        sound = base64.b64encode(_flac(wave * (0.9 / max(peak, 1e-6)))).decode()
        panels.append((name, picture, f"data:audio/flac;base64,{sound}"))
    return panels


def _flac(waveform: Waveform) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, MODEL_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
