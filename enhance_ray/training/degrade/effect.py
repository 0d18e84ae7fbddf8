"""What every degradation is made of: types, the base of the ranges, and how values are drawn from them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float32

from enhance_ray.settings.ranges import Probability, Range, WholeRange
from enhance_ray.settings.schema import settings

Waveform = Float32[np.ndarray, " time"]
Waveforms = Float32[np.ndarray, "*batch time"]
Response = Float32[np.ndarray, " tap"]


@settings
class Effect(ABC):
    """Ranges of one effect, from which a call draws."""

    probability: Probability = 0.0
    """How often the effect is applied."""

    @abstractmethod
    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        """Apply the effect once, whatever ``probability`` says."""


def draw_whole(rng: np.random.Generator, bounds: WholeRange) -> int:
    """A whole number, both ``bounds`` among them."""
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))


def draw_logarithmic(rng: np.random.Generator, bounds: Range) -> float:
    """A number whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))
