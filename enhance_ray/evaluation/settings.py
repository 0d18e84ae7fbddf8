"""What an evaluation is told: the pairs, the systems, the numbers and the page."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Literal

from enhance_ray.errors import ConfigError
from enhance_ray.metrics import METRICS
from enhance_ray.settings.options import EnhanceOptions
from enhance_ray.training.examples import CorpusConfig

Condition = Literal["noisy", "narrow", "narrow_noisy"]
Mode = Literal["denoise", "enhance"]

INPUT = "input"
"""The system that does nothing: what the others are to improve on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemConfig:
    """One of those compared: a model with a setting, or a folder of what something else has made.

    Raises:
        ConfigError: it is neither or both, or its modes contradict each other.
    """

    name: str
    model: str | None = None
    """Model folder, training folder, "default", run folder of the original, or hf://; None: that of all."""
    mode: Mode | None = None
    """What is run; None: what the options say."""
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    folder: str | None = None
    """Files that are enhanced already, named as those of `clean` and `noisy`; path or URI."""

    def __post_init__(self) -> None:
        if not self.name or self.name == INPUT:
            raise ConfigError("name", f"must be there, and not '{INPUT}', which is always compared")
        if self.folder is not None and (
            self.model is not None or self.mode is not None or self.options != EnhanceOptions()
        ):
            raise ConfigError("folder", "is of files that are enhanced already: no model, mode or options")
        if self.mode == "denoise" and self.options.mode == "enhance":
            raise ConfigError("mode", "is denoise, but options.mode is enhance")

    @property
    def resolved(self) -> EnhanceOptions:
        """The options with the mode in them."""
        return dataclasses.replace(self.options, mode=self.mode or self.options.mode)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    """What the page shows beside its tables.

    Raises:
        ConfigError: a value is out of its range, or no metric.
    """

    charts: tuple[str, ...] = ("pesq_wb", "estoi", "dnsmos_ovrl", "lsd")
    """Metrics drawn over noise, reverberation, bandwidth and the table's numbers, where they are measured."""
    examples: int = 3
    """Pairs to look at and listen to, from what the last system helped most to what it helped least."""
    example_metric: str | None = None
    """By which that is told; None: the first of the charts."""
    example_seconds: float = 5.0
    """Their length, at most 6: sounds are inside the page."""

    def __post_init__(self) -> None:
        _check_metrics("charts", self.charts)
        if self.example_metric is not None:
            _check_metrics("example_metric", (self.example_metric,))
        if self.examples < 0 or not 0.5 <= self.example_seconds <= 6:
            raise ConfigError("examples, example_seconds", "must not be negative; seconds within [0.5, 6]")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """An evaluation, of recordings in two folders, or else of examples made from a corpus.

    Raises:
        ConfigError: a value is out of its range, or two systems share a name.
    """

    model: str = "default"
    """Of the systems that name none."""
    modes: tuple[Mode, ...] = ()
    """What ``model`` is to do, where no systems are listed; empty: all it can."""
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    """How, where no systems are listed."""
    systems: tuple[SystemConfig, ...] = ()
    """What is compared, beside the input; empty: the modes of ``model``."""
    metrics: tuple[str, ...] = ()
    """Names of `metrics.METRICS`; empty: all."""

    clean: str | None = None
    """Folder or URI of clean recordings."""
    noisy: str | None = None
    """Folder or URI of the same, degraded: files are matched by their paths without extension."""
    table: str | None = None
    """CSV file about them: ``file``, ``condition`` (by which tables are split), and what else is known."""

    conditions: tuple[Condition, ...] = ("noisy", "narrow", "narrow_noisy")
    """Of examples made from the corpus."""
    count: int = 40
    """Examples of each condition."""
    seconds: float = 6.0
    """Length of each."""
    snr_db: tuple[float, float] = (0.0, 20.0)
    """Of the noisy ones, where speech is active."""
    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Of which the held-out part is used."""

    page: PageConfig = field(default_factory=PageConfig)

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds < 1:
            raise ConfigError("count, seconds", "must be at least 1")
        if not self.conditions:
            raise ConfigError("conditions", "must name at least one")
        _check_metrics("metrics", self.metrics)
        if (self.clean is None) != (self.noisy is None):
            raise ConfigError("clean, noisy", "go together: one folder each")
        if self.clean is None and self.table is not None:
            raise ConfigError("table", "is about recordings in folders: give clean and noisy, too")
        names = [system.name for system in self.systems]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError("systems", f"two are called '{name}'; their names must differ")
        folders = [system.name for system in self.systems if system.folder is not None]
        if self.clean is None and folders:
            raise ConfigError("systems", f"'{folders[0]}' is a folder, which needs clean and noisy folders")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What is measured, in the order of tables."""
        return tuple(name for name in METRICS if not self.metrics or name in self.metrics)


def _check_metrics(where: str, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, list(METRICS), n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(METRICS)}"
            raise ConfigError(where, f"unknown metric '{name}'; {advice}")
