"""A recording whose damage is repaired at its own rate, before anything else is done to it, as it streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Repair = Callable[[Float[Tensor, "channel time"], int], Float[Tensor, "channel time"]]
"""From a waveform and its rate in Hz to a waveform of the same length, which depends on less than
`MARGIN_SECONDS` of what stands around a sample."""

MARGIN_SECONDS = 0.5
_CHUNK_MARGINS = 20
"""That are worked on at once, with one more on either side."""


class Mender:
    """Repairs one after the other, for a recording that comes in blocks: the same, whatever their lengths."""

    def __init__(self, repairs: Sequence[Repair], channels: int, sample_rate: int) -> None:
        """Begin a recording of ``channels`` at ``sample_rate`` Hz."""
        self._repairs = repairs
        self._sample_rate = sample_rate
        self._margin = max(1, round(MARGIN_SECONDS * sample_rate))
        self._chunk = _CHUNK_MARGINS * self._margin
        self._waiting = torch.zeros(channels, 0)
        self._behind = 0  # samples that wait although they were given back: what comes next looks at them

    def push(self, block: Float[Tensor, "channel time"]) -> Float[Tensor, "channel ready"]:
        """Take the next samples; give back those that are ready."""
        self._waiting = torch.cat([self._waiting, block], dim=-1)
        ready = [self._waiting[:, :0]]
        while self._waiting.shape[-1] >= self._behind + self._chunk + self._margin:
            stop = self._behind + self._chunk
            mended = self._repaired(self._waiting[:, : stop + self._margin])
            ready.append(mended[:, self._behind : stop])
            self._waiting = self._waiting[:, stop - self._margin :].clone()
            self._behind = self._margin
        return torch.cat(ready, dim=-1)

    def finish(self) -> Float[Tensor, "channel rest"]:
        """Give back what is left."""
        return self._repaired(self._waiting)[:, self._behind :]

    def _repaired(self, waveform: Tensor) -> Tensor:
        for repair in self._repairs:
            waveform = repair(waveform, self._sample_rate)
        return waveform
