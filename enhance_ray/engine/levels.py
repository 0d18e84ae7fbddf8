"""The loudness of an output, which is known at its end."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from enhance_ray.dsp.levels import Meter
from enhance_ray.options import MODEL_RATE

PEAK_LIMIT = -1.0
"""Highest peak in dBFS that a loudness target may lead to."""

_SPOOLED_IN_MEMORY = 64 * 2**20  # bytes


class LoudnessSpool:
    """Holds an output back, beyond 64 MB in a temporary file, until its loudness is known.

    The alternative would be to run the model twice.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._file = tempfile.SpooledTemporaryFile(max_size=_SPOOLED_IN_MEMORY)  # noqa: SIM115 - closed by drain
        self._meter: Meter | None = None
        self._lengths: list[tuple[int, int]] = []
        self.warning: str | None = None

    def add(self, block: Tensor) -> None:
        self._meter = self._meter or Meter(MODEL_RATE, len(block))
        self._meter.push(block)
        self._file.write(block.contiguous().numpy().tobytes())
        self._lengths.append((block.shape[0], block.shape[1]))

    def drain(self) -> Iterator[Tensor]:
        gain = 10 ** (self._decibels() / 20)
        self._file.seek(0)
        with self._file:
            for channels, length in self._lengths:
                samples = np.frombuffer(self._file.read(4 * channels * length), dtype=np.float32)
                yield torch.from_numpy(samples * np.float32(gain)).view(channels, length)

    def _decibels(self) -> float:
        if self._meter is None or self._meter.loudness == -math.inf:
            self.warning = "it is too short or too quiet to have a loudness; its level was left as it is"
            return 0.0
        wanted = self._target - self._meter.loudness
        possible = PEAK_LIMIT - self._meter.peak
        if wanted > possible:
            self.warning = (
                f"its loudness is {self._meter.loudness + possible:.1f} LUFS, not {self._target:.1f}: "
                f"with more gain its peaks would pass {PEAK_LIMIT:.0f} dBFS"
            )
        return min(wanted, possible)
