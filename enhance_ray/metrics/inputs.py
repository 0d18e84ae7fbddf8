"""What all metrics begin with: a pair of waveforms, at the metric's own rate, and its package."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enhance_ray.errors import ConfigError

Waveform = NDArray[np.floating[Any]]


def resample(waveform: Waveform, rate_in: int, rate_out: int) -> Waveform:
    """``waveform`` (time,) at another rate, by libsoxr at high quality; as it is if the rates are equal."""
    if rate_in == rate_out:
        return waveform
    import soxr

    resampled: Waveform = soxr.resample(waveform, rate_in, rate_out)
    length = -(-len(waveform) * rate_out // rate_in)  # libsoxr rounds, and may end a sample earlier
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


def pair(estimate: Waveform, reference: Waveform) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in double precision.

    Raises:
        ValueError: they are not (time,) of equal length.
    """
    if estimate.ndim != 1 or estimate.shape != reference.shape:
        raise ValueError(
            f"expected two waveforms (time,) of equal length, got {estimate.shape}, {reference.shape}"
        )
    return estimate.astype(np.float64), reference.astype(np.float64)


def require(package: str, extra: str = "eval") -> Any:
    """The module ``package``, which comes with ``extra``.

    Raises:
        ConfigError: it is absent.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise _missing(package, extra) from error


def folder_of(package: str, extra: str = "eval") -> Path:
    """Where ``package``, which comes with ``extra``, keeps its files, found without running its code.

    Raises:
        ConfigError: it is absent.
    """
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise _missing(package, extra)
    return Path(specification.origin).parent


def _missing(package: str, extra: str) -> ConfigError:
    key = "scores" if extra == "eval" else "loss"
    return ConfigError(key, f"need the package {package}: pip install 'enhance-ray[{extra}]'")
