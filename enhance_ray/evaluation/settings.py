"""What an evaluation is told: the pairs, the systems, the numbers and the page."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from pydantic import AfterValidator

from enhance_ray.errors import ConfigError
from enhance_ray.metrics import METRICS
from enhance_ray.settings import messages
from enhance_ray.settings.options import EnhanceOptions
from enhance_ray.settings.ranges import Count, Name, NotEmpty, Whole
from enhance_ray.settings.schema import settings
from enhance_ray.training.examples import CorpusConfig

Condition = Literal["noisy", "narrow", "narrow_noisy"]
Mode = Literal["denoise", "enhance"]


def _known(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"unknown metric '{name}'; {messages.nearest(name, METRICS, 'known')}")
    return name


MetricName = Annotated[str, AfterValidator(_known)]
"""A key of `metrics.METRICS`."""

INPUT = "input"
"""The system that does nothing: what the others are to improve on."""


@settings
class SystemConfig:
    """One of those compared: a model with a setting, or a folder of what something else has made.

    Raises:
        ConfigError: it is neither or both, or its modes contradict each other.
    """

    name: Name
    model: str | None = None
    """Model folder, training folder, "default", run folder of the original, or hf://; None: that of all."""
    mode: Mode | None = None
    """What is run; None: what the options say."""
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    folder: str | None = None
    """Files that are enhanced already, named as those of `clean` and `noisy`; path or URI."""

    def __post_init__(self) -> None:
        if self.name == INPUT:
            raise ConfigError("name", f"must not be '{INPUT}', which is always compared")
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


@settings
class PageConfig:
    """What the page shows beside its tables."""

    charts: tuple[MetricName, ...] = ("pesq_wb", "estoi", "dnsmos_ovrl", "lsd")
    """Metrics drawn over noise, reverberation, bandwidth and the table's numbers, where they are measured."""
    examples: Whole = 3
    """Pairs to look at and listen to, from what the last system helped most to what it helped least."""
    example_metric: MetricName | None = None
    """By which that is told; None: the first of the charts."""
    example_seconds: Annotated[float, Interval(ge=0.5, le=6)] = 5.0
    """Their length, at most 6: sounds are inside the page."""


@settings
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
    metrics: tuple[MetricName, ...] = ()
    """Names of `metrics.METRICS`; empty: all."""

    clean: str | None = None
    """Folder or URI of clean recordings."""
    noisy: str | None = None
    """Folder or URI of the same, degraded: files are matched by their paths without extension."""
    table: str | None = None
    """CSV file about them: ``file``, ``condition`` (by which tables are split), and what else is known."""

    conditions: NotEmpty[Condition] = ("noisy", "narrow", "narrow_noisy")
    """Of examples made from the corpus."""
    count: Count = 40
    """Examples of each condition."""
    seconds: Annotated[float, Ge(1)] = 6.0
    """Length of each."""
    snr_db: tuple[float, float] = (0.0, 20.0)
    """Of the noisy ones, where speech is active."""
    seed: int = 0
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Of which the held-out part is used."""

    page: PageConfig = field(default_factory=PageConfig)

    def __post_init__(self) -> None:
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
