"""Histograms and spectrograms that can be read on white and on black. matplotlib draws, and is asked for only
then."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from enhance_ray import metrics
from enhance_ray.errors import ConfigError

RANGE_DB = 80.0
"""From the loudest to the darkest of a spectrogram."""
INK = "#808080"
"""Of the pictures' text and axes: can be read on white and on black."""
BEFORE, AFTER = "#9aa0a6", "#2f81f7"


def require_pictures() -> None:
    """Call before a long run that ends in a page.

    Raises:
        ConfigError: matplotlib or librosa is absent.
    """
    new_figure(1, 1)
    if importlib.util.find_spec("librosa") is None:
        raise ConfigError("report", "pictures need librosa: pip install 'enhance-ray[eval]'")


def spectrogram_pair(
    before: NDArray[np.float32], after: NDArray[np.float32], sample_rate: int, path: str | Path
) -> None:
    """Draw two waveforms (time,) at ``sample_rate`` in Hz side by side into ``path`` (png, svg, pdf).

    Mel spectrograms over 80 dB below the louder one's maximum: the same colour is the same level in both.

    Raises:
        ConfigError: matplotlib is absent.
    """
    pair_figure(before, after, sample_rate).savefig(path, transparent=True)


def bars(
    charts: Mapping[str, Sequence[tuple[str, NDArray[np.number]]]], edges: Mapping[str, NDArray[np.number]]
) -> Markup:
    """Histograms that were counted elsewhere, as a picture; empty where nothing was counted.

    Args:
        charts: by the text of the horizontal axis: (label, counts (bin,)), one or two of them.
        edges: by the same: (bin + 1,).

    Raises:
        ConfigError: matplotlib is absent.
    """
    charts = {name: series for name, series in charts.items() if any(counts.any() for _, counts in series)}
    if not charts:
        return Markup()
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


def pair_figure(before: NDArray[np.float32], after: NDArray[np.float32], sample_rate: int) -> Any:
    """What `spectrogram_pair` draws, as a figure."""
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


def embed(figure: Any, text: str, kind: Literal["png", "webp"] = "png") -> Markup:
    """``figure`` as a picture that is inside the page; ``text`` stands for it where it cannot be seen.

    Of spectrograms, webp takes a fifth of what png does.
    """
    file = io.BytesIO()
    figure.savefig(file, format=kind, transparent=True)
    source = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Markup('<img alt="{}" src="{}">').format(text, source)
