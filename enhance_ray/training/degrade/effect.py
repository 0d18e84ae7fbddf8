"""What every degradation is made of: types, the base of the ranges, and how values are drawn from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from enhance_ray.errors import ConfigError

Waveform = Float32[np.ndarray, " time"]
Waveforms = Float32[np.ndarray, "*batch time"]
Response = Float32[np.ndarray, " tap"]
Range = tuple[float, float]
WholeRange = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Effect(ABC):
    """Ranges of one effect, from which a call draws.

    Raises:
        ConfigError: a probability or a range is not what it can be.
    """

    LIMITS: ClassVar[Mapping[str, Range]] = {}
    """Smallest and largest value that makes sense, for each field that is a range."""

    probability: float = 0.0
    """How often the effect is applied, in [0, 1]."""

    def __post_init__(self) -> None:
        check_probability("probability", self.probability)
        for name, (floor, ceiling) in self.LIMITS.items():
            low, high = getattr(self, name)
            if not floor <= low <= high <= ceiling:
                wanted = f"[low, high] with {floor:g} <= low <= high <= {ceiling:g}"
                raise ConfigError(name, f"expected {wanted}, got [{low:g}, {high:g}]")

    @abstractmethod
    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        """Apply the effect once, whatever ``probability`` says."""


def draw_whole(rng: np.random.Generator, bounds: WholeRange) -> int:
    """A whole number, both ``bounds`` among them."""
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))


def draw_logarithmic(rng: np.random.Generator, bounds: Range) -> float:
    """A number whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def check_probability(name: str, value: float) -> None:
    """Refuse what is no probability, by a `ConfigError` for the setting ``name``."""
    if not 0 <= value <= 1:
        raise ConfigError(name, f"expected a number within [0, 1], got {value:g}")
