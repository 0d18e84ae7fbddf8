"""The random numbers of training steps: functions of (seed, example), whatever batch or worker has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from enhance_ray.training.stages import FlowDraws

_VOCODER, _FLOW, _PRIOR = 101, 102, 103
"""Set the streams apart from each other and from those of `examples`."""


def vocoder_noise(
    seed: int, indices: Sequence[int], channels: int, frames: int
) -> Float[Tensor, "batch channel frame"]:
    """Standard normal noise for the vocoder, a row for each example."""
    rows = [_rng(seed, _VOCODER, i).standard_normal((channels, frames), np.float32) for i in indices]
    return torch.from_numpy(np.stack(rows))


def prior_noise(
    seed: int, indices: Sequence[int], latent: int, frames: int, temperature: tuple[float, float]
) -> tuple[Float[Tensor, "batch latent frame"], Float[Tensor, " batch"]]:
    """Where the flow of stage 3 starts: standard normal noise, and its share, uniform in ``temperature``."""
    noise, shares = [], []
    for index in indices:
        rng = _rng(seed, _PRIOR, index)
        shares.append(np.float32(rng.uniform(*temperature)))
        noise.append(rng.standard_normal((latent, frames), np.float32))
    return torch.from_numpy(np.stack(noise)), torch.from_numpy(np.stack(shares))


def flow_draws(
    seed: int,
    indices: Sequence[int],
    latent: int,
    frames: int,
    temperature_range: tuple[float, float] = (0.0, 1.0),
) -> FlowDraws:
    """The draws of stage 2 (spec 4.2, 4.5), a row for each example."""
    rows = []
    for index in indices:
        rng = _rng(seed, _FLOW, index)
        strength, temperature, time = rng.beta(0.2, 0.2), rng.uniform(*temperature_range), rng.random()
        normal = rng.standard_normal((2, latent, frames), np.float32)
        rows.append((np.float32(strength), np.float32(temperature), normal[0], np.float32(time), normal[1]))
    return FlowDraws(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


def _rng(seed: int, stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, index])
