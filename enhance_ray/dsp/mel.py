"""Waveform -> normalised log-mel spectrogram, the models' view of sound. Spec 2.3.

pre-emphasis -> |STFT| -> Slaney mel -> dB above the floor -> scaled so that the floor is 0 and +15 dB is 1
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HEADROOM_DB = 15.0


class MelSpectrogram(nn.Module):
    """Log-mel spectrogram with its window and filter bank as buffers.

    They are buffers, and not recomputed, because a published checkpoint carries them rounded to
    half precision and its models expect exactly those (spec 8.2).
    """

    window: Tensor
    filter_bank: Tensor

    def __init__(
        self,
        *,
        sample_rate: int = 44_100,
        n_fft: int = 2048,
        window_length: int = 2048,
        hop: int = 420,
        mels: int = 128,
        magnitude_floor: float = 1e-4,
        preemphasis: float = 0.97,
    ) -> None:
        """Set up for ``mels`` bands from 0 Hz to half of ``sample_rate`` (Hz); lengths in samples."""
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.magnitude_floor, self.preemphasis = magnitude_floor, preemphasis
        self.register_buffer("window", torch.hann_window(window_length, periodic=True))
        self.register_buffer("filter_bank", slaney_filter_bank(sample_rate, n_fft, mels))

    def forward(
        self, waveform: Float[Tensor, "batch time"], *, drop_last: bool = True
    ) -> Float[Tensor, "batch mel frame"]:
        """Transform float32 audio; digital silence gives exactly 0.

        Args:
            waveform: at the rate given to the constructor.
            drop_last: give ``time // hop`` frames; otherwise one more.
        """
        waveform = waveform.float()
        emphasised = waveform - self.preemphasis * F.pad(waveform, (1, 0))[..., :-1]
        magnitude = torch.stft(
            emphasised,
            self.n_fft,
            hop_length=self.hop,
            win_length=len(self.window),
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).abs()
        mel = torch.einsum("...ft,fm->...mt", magnitude, self.filter_bank)
        decibels = 20 * torch.log10(mel.clamp_min(self.magnitude_floor))
        floor_db = 20 * torch.log10(torch.tensor(self.magnitude_floor)).item()
        mel = (decibels - floor_db) / (HEADROOM_DB - floor_db)
        return mel[..., :-1] if drop_last else mel


def slaney_filter_bank(sample_rate: int, n_fft: int, mels: int) -> Float[Tensor, "freq mel"]:
    """Triangular filters of equal area on Slaney's mel scale, linear to 1 kHz and logarithmic above.

    M. Slaney, Auditory Toolbox, Technical Report 1998-010.
    """
    points = _mel_to_hz(torch.linspace(0, _hz_to_mel(sample_rate / 2), mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    low, centre, high = points[:-2], points[1:-1], points[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    area = 2 / (high - low)
    return (torch.minimum(rising, falling).clamp_min(0) * area).float()


_BREAK_HZ, _BREAK_MEL, _LOG_STEP = 1000.0, 15.0, 27.0
_LOG_RATIO = math.log(6.4)


def _hz_to_mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return 3 * hz / 200
    return _BREAK_MEL + _LOG_STEP * math.log(hz / _BREAK_HZ) / _LOG_RATIO


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(
        mel < _BREAK_MEL, mel * 200 / 3, _BREAK_HZ * torch.exp((mel - _BREAK_MEL) * _LOG_RATIO / _LOG_STEP)
    )


def erb_weights(bins: int, sample_rate: int = 44_100) -> Float[Tensor, " freq"]:
    """Weights of ``bins`` from 0 Hz to half of ``sample_rate``, with a mean of 1: how much of the ear's scale
    of frequency a bin takes up.

    That is the density of the ERB-rate scale, which falls with 1 / (f + 229 Hz): Glasberg and Moore 1990,
    doi:10.1016/0378-5955(90)90170-T, equation 4.
    """
    hertz = torch.linspace(0, sample_rate / 2, bins, dtype=torch.float64)
    density = 1 / (1 + 4.37e-3 * hertz)
    return (density / density.mean()).float()
