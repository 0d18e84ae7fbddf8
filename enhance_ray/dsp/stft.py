"""The short-time Fourier transform and its inverse, framed as the models want it.

A waveform of `time` samples gives `time // hop` frames: the transform is centred, which makes one
frame more, and the last one is dropped. The inverse repeats the last frame to make up for it.
Spec 2.4.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional as F


def stft(
    waveform: Float[Tensor, "batch time"], *, n_fft: int, hop: int
) -> Complex[Tensor, "batch freq frame"]:
    """Centred transform with a periodic Hann window of ``n_fft`` samples and reflect padding.

    Args:
        waveform: more than ``n_fft // 2`` samples, which reflection needs. Computed in float32.
        n_fft: transform and window length in samples.
        hop: samples from one frame to the next.

    Returns:
        ``n_fft // 2 + 1`` bins by ``time // hop`` frames.
    """
    spectrum = torch.stft(
        waveform.float(),
        n_fft,
        hop_length=hop,
        window=_hann(n_fft, waveform.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    return spectrum[..., : waveform.shape[-1] // hop]


def istft(
    spectrum: Complex[Tensor, "batch freq frame"], *, n_fft: int, hop: int, length: int
) -> Float[Tensor, "batch time"]:
    """Inverse of `stft`: ``hop * frame`` samples, zero-padded on the right to ``length``."""
    spectrum = torch.cat([spectrum, spectrum[..., -1:]], dim=-1)
    waveform = torch.istft(spectrum, n_fft, hop_length=hop, window=_hann(n_fft, spectrum.device), center=True)
    return F.pad(waveform, (0, length - waveform.shape[-1]))


def _hann(n_fft: int, device: torch.device) -> Float[Tensor, " n_fft"]:
    return torch.hann_window(n_fft, periodic=True, device=device, dtype=torch.float32)
