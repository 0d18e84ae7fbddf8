"""Every metric with what its number means, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

from enhance_ray.errors import ConfigError
from enhance_ray.metrics import listeners, signals
from enhance_ray.metrics.inputs import Waveform, pair, resample
from enhance_ray.metrics.listeners import ESTOI_RATE, NARROWBAND_RATE, WIDEBAND_RATE
from enhance_ray.metrics.signals import MCD_RATE


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a number of `score` means."""

    title: str
    unit: str
    higher_is_better: bool | None
    """None: 0 is best."""
    digits: int
    """Decimals worth printing."""
    needs_reference: bool = True
    """False: it hears the estimate alone."""

    @property
    def label(self) -> str:
        """The title with the unit, if there is one."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS = {
    "si_sdr": Metric(title="SI-SDR", unit="dB", higher_is_better=True, digits=2),
    "pesq_wb": Metric(title="PESQ-WB", unit="MOS-LQO", higher_is_better=True, digits=3),
    "pesq_nb": Metric(title="PESQ-NB", unit="MOS-LQO", higher_is_better=True, digits=3),
    "estoi": Metric(title="ESTOI", unit="", higher_is_better=True, digits=3),
    "lsd": Metric(title="LSD", unit="log10 power", higher_is_better=False, digits=3),
    "lsd_high": Metric(title="LSD above 4 kHz", unit="log10 power", higher_is_better=False, digits=3),
    "mel_distance": Metric(title="mel distance", unit="dB", higher_is_better=False, digits=2),
    "mcd": Metric(title="MCD", unit="dB", higher_is_better=False, digits=2),
    "phone_error": Metric(title="phone error", unit="", higher_is_better=False, digits=3),
    "speaker_similarity": Metric(title="speaker similarity", unit="", higher_is_better=True, digits=3),
    "dnsmos_sig": Metric(
        title="DNSMOS SIG", unit="MOS", higher_is_better=True, digits=3, needs_reference=False
    ),
    "dnsmos_bak": Metric(
        title="DNSMOS BAK", unit="MOS", higher_is_better=True, digits=3, needs_reference=False
    ),
    "dnsmos_ovrl": Metric(
        title="DNSMOS OVRL", unit="MOS", higher_is_better=True, digits=3, needs_reference=False
    ),
    "loudness_change": Metric(title="loudness change", unit="LU", higher_is_better=None, digits=2),
    "clipped": Metric(title="clipped", unit="share", higher_is_better=False, digits=5, needs_reference=False),
}
"""Every number of `score`, in the order of tables."""

OPINIONS = {
    f"opinion_{scale}": Metric(
        title=f"{scale.upper()} (estimate)",
        unit="MOS",
        higher_is_better=True,
        digits=2,
        needs_reference=False,
    )
    for scale in ("sig", "bak", "ovrl")
}
"""What records of many recordings carry (`engine.scores`): a small net's estimate of DNSMOS."""
RECORDED = {**METRICS, **OPINIONS}
"""Everything that `records.Record.scores` may hold."""


def score(
    estimate: Waveform, reference: Waveform, sample_rate: int, names: Collection[str] | None = None
) -> dict[str, float]:
    """Those of `METRICS` that ``names`` asks for, or all, for ``estimate`` of the clean ``reference``.

    Whatever the order of ``names``, the answer has that of `METRICS`. Some metrics hear ``estimate`` alone
    (`Metric.needs_reference`). Nothing is computed that no name needs.

    Raises:
        ConfigError: a name is unknown, or a package of the `eval` extra is absent.
        ValueError: the waveforms are not (time,) of equal length.
    """
    asked = METRICS if names is None else names
    for name in asked:
        if name not in METRICS:
            raise ConfigError("scores", f"unknown metric '{name}'; known: {', '.join(METRICS)}")
    pair(estimate, reference)

    @cache
    def heard(rate: int) -> Waveform:
        return resample(estimate, sample_rate, rate)

    @cache
    def meant(rate: int) -> Waveform:
        return resample(reference, sample_rate, rate)

    @cache
    def opinion() -> dict[str, float]:
        return listeners.dnsmos(heard(WIDEBAND_RATE), WIDEBAND_RATE)

    def at(rate: int, metric: Callable[[Waveform, Waveform, int], float]) -> float:
        return metric(heard(rate), meant(rate), rate)

    compute: dict[str, Callable[[], float]] = {
        "si_sdr": lambda: signals.si_sdr(estimate, reference),
        "pesq_wb": lambda: at(WIDEBAND_RATE, listeners.pesq_wb),
        "pesq_nb": lambda: at(NARROWBAND_RATE, listeners.pesq_nb),
        "estoi": lambda: at(ESTOI_RATE, listeners.estoi),
        "lsd": lambda: at(sample_rate, signals.lsd),
        "lsd_high": lambda: at(sample_rate, signals.lsd_high),
        "mel_distance": lambda: at(sample_rate, signals.mel_distance),
        "mcd": lambda: at(MCD_RATE, signals.mcd),
        "phone_error": lambda: at(WIDEBAND_RATE, listeners.phone_error),
        "speaker_similarity": lambda: at(WIDEBAND_RATE, listeners.speaker_similarity),
        "dnsmos_sig": lambda: opinion()["sig"],
        "dnsmos_bak": lambda: opinion()["bak"],
        "dnsmos_ovrl": lambda: opinion()["ovrl"],
        "loudness_change": lambda: at(sample_rate, signals.loudness_change),
        "clipped": lambda: signals.clipped(estimate),
    }
    return {name: compute[name]() for name in METRICS if name in asked}
