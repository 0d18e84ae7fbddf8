"""The noise that generation starts from, as a field over a recording's frames.

The value at an absolute frame depends on (seed, field, frame) and on nothing else: two segments that
overlap see the same noise where they do, and neither batch, order, worker nor retry can change a
recording's sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 512  # frames that are drawn at once


def noise_field(
    field: Literal["prior", "vocoder"], channels: int, starts: Sequence[int], frames: int, *, seed: int
) -> Float[Tensor, "row channel frame"]:
    """Standard normal noise of the frames from ``start`` on, a row for each of ``starts``.

    Args:
        field: of the flow or of the vocoder; they are independent.
        channels: of the noise.
        starts: first absolute frame of each row.
        frames: of each row.
        seed: not negative; another seed gives another field.
    """
    rows = {start: _row(field, channels, start, frames, seed) for start in set(starts)}
    return torch.from_numpy(np.stack([rows[start] for start in starts]))


def _row(field: str, channels: int, start: int, frames: int, seed: int) -> np.ndarray:
    number = {"prior": 0, "vocoder": 1}[field]
    first, last = start // _BLOCK, -(-(start + frames) // _BLOCK)
    blocks = [
        np.random.default_rng([seed, number, block]).standard_normal((_BLOCK, channels), np.float32)
        for block in range(first, last)
    ]
    offset = start - first * _BLOCK
    return np.concatenate(blocks)[offset : offset + frames].T
