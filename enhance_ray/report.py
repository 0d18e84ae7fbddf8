"""What became of every input, as a page for people.

The page is one file that needs no network: pictures, styles, a few lines of script and short sounds are
inside. matplotlib draws, and is asked for only then.
"""

from __future__ import annotations

import base64
import importlib.resources
import importlib.util
import io
import json
import mimetypes
import os
import re
import string
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from enhance_ray import audio, metrics
from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.records import Record, Totals, totals

TABLE_ROWS = 2000
"""Records that the page lists; a browser is slow with many more."""
EXAMPLE_SECONDS = 15.0
"""How much of a recording its pictures show, from its start."""
EMBED_BYTES = 1_500_000
"""A sound up to this size is inside the page, a larger one is a link."""
RANGE_DB = 80.0
"""From the loudest to the darkest of a spectrogram."""
INK = "#808080"
"""Of the pictures' text and axes: can be read on white and on black."""
BEFORE, AFTER = "#9aa0a6", "#2f81f7"


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
    text = page(
        title,
        _totals_cards(totals(records)),
        [
            _run_section(records),
            _failures_section([record for record in records if record.status == "failed"]),
            _scores_section(records),
            _guard_of(records),
            section("Before and after", "".join(_example(record, path.parent) for record in shown)),
            _table_section(records),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def spectrogram_pair(
    before: NDArray[np.float32], after: NDArray[np.float32], sample_rate: int, path: str | Path
) -> None:
    """Draw two waveforms (time,) at ``sample_rate`` in Hz side by side into ``path`` (png, svg, pdf).

    Mel spectrograms over 80 dB below the louder one's maximum: the same colour is the same level in both.

    Raises:
        ConfigError: matplotlib is absent.
    """
    _pair_figure(before, after, sample_rate).savefig(path, transparent=True)


def require_pictures() -> None:
    """Call before a long run that ends in a page.

    Raises:
        ConfigError: matplotlib or librosa is absent.
    """
    new_figure(1, 1)
    if importlib.util.find_spec("librosa") is None:
        raise ConfigError("report", "pictures need librosa: pip install 'enhance-ray[eval]'")


def page(title: str, cards: Sequence[tuple[str, str, bool]], sections: Iterable[str]) -> str:
    """A page in this package's style, whole in itself.

    Args:
        title: of the page, plain text.
        cards: (value, what it is, whether that is bad), plain text.
        sections: HTML, as `section` gives it.
    """
    template = importlib.resources.files("enhance_ray").joinpath("report.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        title=escape(title),
        cards="".join(
            f'<div class="card{" bad" if bad else ""}"><b>{escape(value)}</b>{escape(name)}</div>'
            for value, name, bad in cards
        ),
        sections="\n".join(sections),
    )


def kind_of(reason: str) -> str:
    """Reasons that differ in numbers only are one kind."""
    return re.sub(r"\d+(\.\d+)?", "#", reason)


def section(heading: str, body: str) -> str:
    """HTML with a heading; empty where there is nothing below it."""
    return f"<section><h2>{heading}</h2>{body}</section>" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str | int | float | None]]) -> str:
    """A table that a click on its headings sorts; empty without rows. Numbers stand at the right."""
    lines = [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows]
    if not lines:
        return ""
    titles = "".join(f'<th><button type="button">{escape(title)}</button></th>' for title in head)
    body = f'<table class="sortable"><thead><tr>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide">{body}</div>'


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    return f'<td class="n">{text}</td>'


def bars(
    charts: Mapping[str, Sequence[tuple[str, NDArray[np.number]]]], edges: Mapping[str, NDArray[np.number]]
) -> str:
    """Histograms that were counted elsewhere, as a picture; empty where nothing was counted.

    Args:
        charts: by the text of the horizontal axis: (label, counts (bin,)), one or two of them.
        edges: by the same: (bin + 1,).

    Raises:
        ConfigError: matplotlib is absent.
    """
    charts = {name: series for name, series in charts.items() if any(counts.any() for _, counts in series)}
    if not charts:
        return ""
    columns = min(4, len(charts))
    figure = new_figure(2.9 * columns, 2.2 * -(-len(charts) // columns))
    axes = figure.subplots(-(-len(charts) // columns), columns, squeeze=False).flat
    for axis, (name, series) in zip(axes, charts.items(), strict=False):
        for (label, counts), colour in zip(series, (BEFORE, AFTER), strict=False):
            # One series alone is of the input.
            axis.stairs(counts, edges[name], fill=True, color=colour, alpha=0.65, label=label)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(name, color=INK)
        if len(series) > 1:
            axis.legend(frameon=False, labelcolor=INK, fontsize="small")
        paint(axis)
    figure.axes[0].set_ylabel("recordings", color=INK)
    for axis in figure.axes[len(charts) :]:
        axis.remove()
    return embed(figure, f"Histograms: {', '.join(charts)}")


def score_charts(
    values: Mapping[str, Sequence[Sequence[float]]],
) -> tuple[dict[str, list[tuple[str, NDArray[np.number]]]], dict[str, NDArray[np.number]]]:
    """What `bars` draws of scores: by name of the metric, those before and those after."""
    charts: dict[str, list[tuple[str, NDArray[np.number]]]] = {}
    edges: dict[str, NDArray[np.number]] = {}
    for name, pair in values.items():
        title = metrics.RECORDED[name].label
        bins = edges[title] = np.histogram_bin_edges(np.concatenate(pair), bins=24)
        sides = zip(("before", "after"), pair, strict=True)
        charts[title] = [(side, np.histogram(scores, bins)[0]) for side, scores in sides]
    return charts, edges


def _is_local_pair(record: Record) -> bool:
    return record.status == "done" and Path(record.input).is_file() and Path(record.output or "").is_file()


def _totals_cards(total: Totals) -> list[tuple[str, str, bool]]:
    return [
        (f"{total.done:,}", "done", False),
        (f"{total.failed:,}", "failed", total.failed > 0),
        (f"{total.skipped:,}", "done by an earlier run", False),
        (duration(total.seconds), "of audio", False),
        (duration(total.seconds_spent), "of work", False),
        (_number(total.rtf, 3), "real-time factor", False),
    ]


def _run_section(records: Sequence[Record]) -> str:
    """Models and options, each once: a report may hold several runs."""
    models = sorted({record.model for record in records if record.model})
    options = sorted({json.dumps(record.options, ensure_ascii=False) for record in records if record.options})
    lines = [f"<p>Model <code>{escape(model)}</code></p>" for model in models]
    lines += [f"<p>Options <code>{escape(text)}</code></p>" for text in options]
    return "".join(lines)


def _failures_section(failed: Sequence[Record]) -> str:
    kinds: dict[tuple[str, str], list[Record]] = {}
    for record in failed:
        kinds.setdefault((record.code or "", kind_of(record.reason or "")), []).append(record)
    rows = [
        f'<tr><td class="n">{len(group):,}</td><td>{escape(code)}</td>'
        f"<td>{escape(group[0].reason or '')}</td><td>{escape(group[0].input)}</td></tr>"
        for (code, _), group in sorted(kinds.items(), key=lambda item: -len(item[1]))
    ]
    head = "<tr><th>Inputs</th><th>Code</th><th>Reason</th><th>For example</th></tr>"
    return section(
        "Failures", f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    )


def _scores_section(records: Sequence[Record]) -> str:
    """Mean and 95 % interval before and after, and how the scores are spread."""
    values = {
        name: [
            [r.scores[name + side] for r in records if name + side in r.scores] for side in ("_in", "_out")
        ]
        for name in metrics.RECORDED
    }
    values = {name: pair for name, pair in values.items() if any(pair)}
    if not values:
        return ""
    rows = []
    for name, pair in values.items():
        metric = metrics.RECORDED[name]
        cells = "".join(
            f'<td class="n">{_interval(metrics.mean_interval(side), metric.digits)}</td>' for side in pair
        )
        better = {True: "higher", False: "lower", None: "0"}[metric.higher_is_better]
        rows.append(f"<tr><td>{metric.title}</td>{cells}<td>{metric.unit}</td><td>{better}</td></tr>")
    head = "<tr><th>Metric</th><th>Before</th><th>After</th><th>Unit</th><th>Better is</th></tr>"
    picture = bars(*score_charts(values))
    return section("Scores", f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{picture}")


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

    def section(self) -> str:
        """HTML; empty where there is nothing to tell."""
        rows = ((*key, times, self.seconds[key]) for key, times in self.times.most_common())
        return section("Guard", table(["Reason", "Kept", "Times", "Seconds"], rows))


def _guard_of(records: Sequence[Record]) -> str:
    tally = GuardTally()
    for record in records:
        tally.add(record.guard)
    return tally.section()


def _example(record: Record, folder: Path) -> str:
    """One recording as heard before and after; where it can no longer be read, that is said in its place."""
    assert record.output is not None
    caption = f"<figcaption>{escape(record.input)}</figcaption>"
    try:
        before, rate_before = _opening(record.input)
        after, rate = _opening(record.output)
    except AudioReadError as error:  # the files may have changed since: the page is about the rest, too
        return f"<figure>{caption}<p>{escape(str(error))}</p></figure>"
    before = metrics.resample(before, rate_before, rate)
    picture = embed(_pair_figure(before, after, rate), "Spectrograms before and after")
    players = "".join(_player(Path(path), folder) for path in (record.input, record.output))
    return f'<figure>{caption}{picture}<div class="players">{players}</div></figure>'


def _opening(path: str) -> tuple[NDArray[np.float32], int]:
    """The first `EXAMPLE_SECONDS` of ``path`` as (time,), channels averaged, and the rate in Hz."""
    with audio.decode(path, block_seconds=EXAMPLE_SECONDS, partial=True) as blocks:
        for block in blocks:
            return block.mean(axis=0), blocks.info.sample_rate
    raise AudioReadError(path, "it has no samples")


def _player(path: Path, folder: Path) -> str:
    if path.stat().st_size <= EMBED_BYTES:
        kind = mimetypes.guess_type(path.name)[0] or "audio/wav"
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    else:
        source = urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))
    return f'<audio controls preload="metadata" src="{escape(source)}"></audio>'


def _table_section(records: Sequence[Record]) -> str:
    ordered = sorted(
        records, key=lambda record: record.status != "failed"
    )  # stable: the order stays otherwise
    scores = [name + side for name in metrics.RECORDED for side in ("_in", "_out")]
    scores = [key for key in scores if any(key in record.scores for record in records)]
    titles = ["Input", "Status", "Length (s)", "RTF", "Rate (Hz)", "Channels", "Peak in (dBFS)", "Peak out"]
    titles += ["Loudness in (LUFS)", "Loudness out", *(_score_title(key) for key in scores), "Remark"]
    head = "".join(f'<th><button type="button">{title}</button></th>' for title in titles)
    rows = "".join(_row(record, scores) for record in ordered[:TABLE_ROWS])
    more = f"<p>The first {TABLE_ROWS:,} of {len(records):,}.</p>" if len(records) > TABLE_ROWS else ""
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return section("Recordings", f'{more}<div class="wide">{table}</div>')


def _score_title(key: str) -> str:
    name, _, side = key.rpartition("_")
    return f"{metrics.RECORDED[name].title} {side}"


def _row(record: Record, scores: Sequence[str]) -> str:
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
    cells = "".join(f'<td class="n">{_number(value, digits)}</td>' for value, digits in numbers)
    remark = escape(record.reason or record.warning or "")
    return (
        f'<tr class="{record.status}"><td>{escape(record.input)}</td><td>{record.status}</td>'
        f"{cells}<td>{remark}</td></tr>"
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(interval: metrics.Interval, digits: int) -> str:
    if interval.count == 0:
        return ""
    return f"{interval.mean:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def duration(seconds: float) -> str:
    """In the unit that leaves one to three digits before the point."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def new_figure(width: float, height: float) -> Any:
    """A figure of its own, in inches: no pyplot, whose figures are global and never freed.

    Raises:
        ConfigError: matplotlib is absent.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("report", "pictures need matplotlib: pip install 'enhance-ray[eval]'") from error
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _pair_figure(before: NDArray[np.float32], after: NDArray[np.float32], sample_rate: int) -> Any:
    figure = new_figure(10, 3.2)
    axes = figure.subplots(1, 2, sharey=True)
    levels = [mel_level(waveform, sample_rate) for waveform in (before, after)]
    loudest = max(level.max() for level in levels)
    for axis, title, level, waveform in zip(axes, ("Before", "After"), levels, (before, after), strict=True):
        image = draw_spectrogram(axis, level - loudest, waveform.size / sample_rate, sample_rate)
        axis.set_title(title, color=INK)
    axes[0].set_ylabel("frequency (kHz)", color=INK)
    bar = figure.colorbar(image, ax=axes, pad=0.01)
    bar.set_label("dB re the loudest", color=INK)
    paint(bar.ax)
    return figure


def draw_spectrogram(axis: Any, level: NDArray[np.float32], seconds: float, sample_rate: int) -> Any:
    """Draw what `mel_level` gave, in dB re the loudest, on ``axis``; the image, for a bar of its colours."""
    import librosa

    image = axis.imshow(
        level,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-RANGE_DB,
        vmax=0,
        extent=(0, seconds, 0, librosa.hz_to_mel(sample_rate / 2)),
    )
    ticks = [khz for khz in (0.5, 1, 2, 4, 8, 16) if 2000 * khz <= sample_rate]
    axis.set_xlabel("time (s)", color=INK)
    axis.set_yticks(librosa.hz_to_mel(1000 * np.array(ticks)), [f"{khz:g}" for khz in ticks])
    paint(axis)
    return image


def mel_level(waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Power of mel bands in dB, (mel, frame); at most about a thousand frames, as the picture has columns."""
    import librosa

    hop = max(256, waveform.size // 1000)
    waveform = np.pad(waveform, (0, max(0, 2048 - waveform.size)))
    power = librosa.feature.melspectrogram(
        y=waveform, sr=sample_rate, n_fft=2048, hop_length=hop, n_mels=128, norm=None
    )
    level: NDArray[np.float32] = 10 * np.log10(np.maximum(power, 1e-12))
    return level


def paint(axis: Any) -> None:
    """Give ``axis`` the colour that can be read on white and on black."""
    axis.tick_params(colors=INK)
    for spine in axis.spines.values():
        spine.set_color(INK)


def embed(figure: Any, text: str, kind: Literal["png", "webp"] = "png") -> str:
    """``figure`` as a picture that is inside the page; ``text`` stands for it where it cannot be seen.

    Of spectrograms, webp takes a fifth of what png does.
    """
    file = io.BytesIO()
    figure.savefig(file, format=kind, transparent=True)
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return f'<img alt="{escape(text)}" src="{source}">'
