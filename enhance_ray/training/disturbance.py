"""What PESQ hears of a difference, as a loss.

The perceptual model of ITU-T P.862, section 10.2, with the input filter of P.862.2. Against the standard:

- spectra are taken at the model's rate, from which the input filter and the bands are applied, too;
- the Bark scale is that of ITU-R BS.1387 and the threshold of hearing that of Terhardt 1979
  (doi:10.1016/0378-5955(79)90025-X), as formulas in place of tables;
- nothing is aligned in time, since a net delays nothing.

As a loss beside others: Martin-Donas et al. 2018, doi:10.1109/LSP.2018.2871419.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from enhance_ray.settings.options import MODEL_RATE

_WINDOW = 1440
"""Samples: PESQ's frames of 32 ms, at a length that transforms fast."""
_BANDS, _HIGHEST_HZ = 49, 8000.0
_SPEAKING = slice(round(325 * _WINDOW / MODEL_RATE), round(3250 * _WINDOW / MODEL_RATE))
"""Bins whose power is the level of speech."""
_LISTENING_POWER = 10**7.9
"""The level at which it is listened to: 79 dB SPL."""
_LOUDNESS_SCALE = 0.1866055
_MOST = 45.0
"""Of the disturbance of a frame."""


class _Hearing(NamedTuple):
    bank: Tensor
    """Bands with the input filter (bin, band)."""
    widths: Tensor
    """Of the bands, in Bark."""
    threshold: Tensor
    """Powers from which on they are heard."""
    exponents: Tensor
    """From power to loudness."""


def disturbance_loss(
    estimate: Float[Tensor, "batch time"], target: Float[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """What the disturbances of ``estimate`` take off the score of PESQ, before that is mapped to a MOS.

    It hears nothing above 8 kHz and no phases, so that it needs other losses beside it.

    Args:
        estimate: what the net gave, at the model's rate; 33 ms or more.
        target: what it should have given; where that is silent, nothing is lost.

    Returns:
        The mean over the batch, 0 to 5; 4.5 less that is the raw score of a recording.
    """
    hearing = _Hearing(*(part.to(estimate.device) for part in _hearing()))
    heard, wanted = (_band_powers(waveform, hearing) for waveform in (estimate, target))
    is_speech = _audible(wanted, hearing, 100).sum(-1, keepdim=True) >= 1e7
    heard, wanted = _forgive_filters_and_gains(heard, wanted, is_speech, hearing)
    louder, quieter = _loudness(heard, hearing), _loudness(wanted, hearing)
    # What is small beside what masks it is not heard.
    off = ((louder - quieter).abs() - 0.25 * torch.minimum(louder, quieter)).clamp_min(0)
    # What was added is worse than what is missing.
    added = ((heard + 50) / (wanted + 50)) ** 1.2
    added = torch.where(added < 3, 0, added).clamp_max(12)
    total = hearing.widths.sum()
    symmetric = ((off * hearing.widths).square().sum(-1) / total + 1e-12).sqrt() * total
    asymmetric = (off * added * hearing.widths).sum(-1)
    level = _audible(wanted, hearing, 1).sum(-1)
    weight = ((level + 1e5) / 1e7) ** 0.04
    frames = (torch.stack([symmetric, asymmetric], 1) / weight[:, None]).clamp_max(_MOST)
    # Of every 20 frames the worst count most, and all of these alike.
    stretches = (frames.unfold(-1, min(20, frames.shape[-1]), 10) ** 6).mean(-1)
    of_recordings = ((stretches + 1e-12) ** (1 / 3)).mean(-1).sqrt()
    taken = of_recordings @ torch.tensor([0.1, 0.0309], device=estimate.device)
    return torch.where(is_speech.any(1)[:, 0], taken, 0).mean()


@functools.cache
def _hearing() -> _Hearing:
    hertz = torch.linspace(0, MODEL_RATE / 2, _WINDOW // 2 + 1, dtype=torch.float64)
    edges = torch.linspace(0, 7 * math.asinh(_HIGHEST_HZ / 650), _BANDS + 1, dtype=torch.float64)
    # A bin is shared by the bands that it reaches into: the lowest are narrower than a bin.
    half = MODEL_RATE / _WINDOW / 2
    low, high = 7 * torch.asinh((hertz - half) / 650), 7 * torch.asinh((hertz + half) / 650)
    reach = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
    bank = reach.clamp_min(0) / (high - low)[:, None] * (hertz <= _HIGHEST_HZ)[:, None]
    z = torch.exp(-2j * torch.pi * hertz.clamp_max(_HIGHEST_HZ) / 16_000)
    highpass = (2.740826 - 5.4816519 * z + 2.740826 * z**2) / (1 - 1.9444777 * z + 0.94597794 * z**2)
    centres = (edges[1:] + edges[:-1]) / 2
    kilohertz = 0.65 * torch.sinh(centres / 7)
    threshold_db = (
        3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
    )
    exponents = 0.23 * (6 / (centres + 2)).clamp(1, 2) ** 0.15
    parts = (bank * highpass.abs().square()[:, None], edges.diff(), 10 ** (threshold_db / 10), exponents)
    return _Hearing(*(part.float() for part in parts))


def _band_powers(waveform: Tensor, hearing: _Hearing) -> Tensor:
    """(batch, frame, band), at the level at which speech is listened to."""
    window = torch.hann_window(_WINDOW, device=waveform.device)
    bins = torch.stft(waveform, _WINDOW, _WINDOW // 2, window=window, return_complex=True, center=False)
    power = torch.view_as_real(bins.transpose(1, 2)).square().sum(-1)
    level = power[..., _SPEAKING].sum(-1).mean(-1)
    return (_LISTENING_POWER / level.clamp_min(1e-7))[:, None, None] * power @ hearing.bank


def _audible(power: Tensor, hearing: _Hearing, times: float) -> Tensor:
    """Only what is so many times above the threshold."""
    return torch.where(power > times * hearing.threshold, power, 0)


def _forgive_filters_and_gains(
    heard: Tensor, wanted: Tensor, is_speech: Tensor, hearing: _Hearing
) -> tuple[Tensor, Tensor]:
    """Filter ``wanted`` as ``heard`` was on average, and give ``heard`` the level of that in each frame."""
    frames = is_speech.sum(1).clamp_min(1)
    means = [(_audible(power, hearing, 100) * is_speech).sum(1) / frames for power in (heard, wanted)]
    wanted = wanted * ((means[0] + 1000) / (means[1] + 1000)).clamp(0.01, 100)[:, None]
    levels = [_audible(power, hearing, 1).sum(-1) for power in (heard, wanted)]
    gain = (levels[1] + 5e3) / (levels[0] + 5e3)
    gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], 1).clamp(3e-4, 5)
    return heard * gain[..., None], wanted


def _loudness(power: Tensor, hearing: _Hearing) -> Tensor:
    """Specific loudness by Zwicker's law, nothing below the threshold."""
    threshold, exponents = hearing.threshold, hearing.exponents
    heard = (threshold / 0.5) ** exponents * ((0.5 + 0.5 * power / threshold) ** exponents - 1)
    return _LOUDNESS_SCALE * torch.where(power > threshold, heard, 0)
