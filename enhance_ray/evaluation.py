"""How good a model is: a fixed set of degraded speech from a corpus' held-out part, before and after.

    noisy           speech with noise
    narrow          speech of which nothing above 4 kHz is left
    narrow_noisy    both, as an old telephone recording has it

Each condition has the same recordings; example i depends on (seed, i) alone, so that models are compared on
the same sounds and work can be shared out. The reference is the speech in the mixture, at its level there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32

from enhance_ray import metrics
from enhance_ray.errors import ConfigError
from enhance_ray.metrics import METRICS, Metric
from enhance_ray.options import MODEL_RATE, EnhanceOptions
from enhance_ray.pipeline import Enhancer
from enhance_ray.training.degrade import limit_bandwidth
from enhance_ray.training.examples import Banks, CorpusConfig, ExampleConfig, make_example

Condition = Literal["noisy", "narrow", "narrow_noisy"]
Mode = Literal["denoise", "enhance"]

NARROW_RATE = 8000
"""Hz; a recording at this rate holds nothing above 4 kHz."""
SCORES: dict[str, Metric] = {
    **METRICS,
    "lsd_high": Metric(title="LSD above 4 kHz", unit="log10 power", higher_is_better=False, digits=3),
}
"""What is measured, in the order of tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """An evaluation.

    Raises:
        ConfigError: a value is out of its range.
    """

    model: str = "default"
    """Model folder, training folder, "default", run folder of the original, or hf://."""
    modes: tuple[Mode, ...] = ("denoise", "enhance")
    """What is compared, beside the input itself."""
    conditions: tuple[Condition, ...] = ("noisy", "narrow", "narrow_noisy")
    count: int = 40
    """Examples of each condition."""
    seconds: float = 6.0
    """Length of each."""
    snr_db: tuple[float, float] = (0.0, 20.0)
    """Of the noisy ones, where speech is active."""
    seed: int = 0
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    """How the model is run."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Of which the held-out part is used."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds < 1:
            raise ConfigError("count, seconds", "must be at least 1")
        if not self.modes or not self.conditions:
            raise ConfigError("modes, conditions", "must name at least one each")


class Example(NamedTuple):
    """What goes in, and what should come out."""

    degraded: Float32[np.ndarray, " time"]
    reference: Float32[np.ndarray, " time"]


Row = dict[str, Any]
"""condition, index, system ("input" or a mode), and a number for each of `SCORES`."""


def make(banks: Banks, config: EvaluateConfig, condition: Condition, index: int) -> Example:
    """Example ``index`` of a condition."""
    recipe = ExampleConfig(
        crop_seconds=config.seconds,
        silence_probability=0,
        distort_probability=0,
        snr_db=config.snr_db,
        join_clips=True,
    )
    drawn = make_example(banks, recipe, np.random.default_rng([config.seed, 3, index]))
    degraded = drawn.target if condition == "narrow" else drawn.noisy
    if condition != "noisy":
        degraded = limit_bandwidth(degraded, MODEL_RATE, NARROW_RATE)
    return Example(degraded, drawn.target)


def score(enhancer: Enhancer, banks: Banks, config: EvaluateConfig, index: int) -> Iterator[Row]:
    """All rows of example ``index``: every condition, of the input and of every mode.

    Raises:
        ConfigError: the model cannot do a mode, or a package of the `eval` extra is absent.
    """
    for condition in config.conditions:
        example = make(banks, config, condition, index)
        heard = {"input": example.degraded}
        for mode in config.modes:
            run = enhancer.denoise if mode == "denoise" else enhancer.enhance
            options = dataclasses.replace(config.options, mode=mode)
            heard[mode] = run(example.degraded, MODEL_RATE, options)[0]
        for system, waveform in heard.items():
            numbers = metrics.score(waveform, example.reference, MODEL_RATE)
            high = metrics.lsd(waveform, example.reference, MODEL_RATE, band=(4000.0, MODEL_RATE / 2))
            yield {"condition": condition, "index": index, "system": system, **numbers, "lsd_high": high}


def table(rows: Sequence[Row]) -> str:
    """Markdown: the mean of each score and half the width of its 95 % interval, by condition and system."""
    titles = [f"{m.title} {'↑' if m.higher_is_better else '↓'}" for m in SCORES.values()]
    lines = ["| " + " | ".join(["condition", "system", *titles]) + " |"]
    lines.append("|---|---|" + "---:|" * len(titles))
    for (condition, system), chosen in _grouped(rows).items():
        cells = []
        for name, metric in SCORES.items():
            interval = metrics.mean_interval([row[name] for row in chosen])
            half = (interval.high - interval.low) / 2
            cells.append(f"{interval.mean:.{metric.digits}f} ± {half:.{metric.digits}f}")
        lines.append("| " + " | ".join([condition, system, *cells]) + " |")
    return "\n".join(lines)


def means(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """condition -> system -> score -> mean, for machines."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (condition, system), chosen in _grouped(rows).items():
        scores = {name: float(np.nanmean([row[name] for row in chosen])) for name in SCORES}
        found.setdefault(condition, {})[system] = scores
    return found


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """By condition and system, in the order in which they come."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["system"]), []).append(row)
    return groups
