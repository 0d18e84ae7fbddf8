"""What listeners would say of a recording: a small net that learned from DNSMOS, at a fraction of its cost.

    waveform -> power of mel bands, relative to the active frames' ─┐
             -> how uneven the bins of each band are ───────────────┴─> convolutions
             -> mean, spread and peak over time -> (SIG, BAK, OVRL)

DNSMOS P.835 (Reddy et al. 2022, arXiv:2110.01763) predicts the opinion of listeners from sound alone. It
depends on level; here a gain changes nothing: the answer is an estimate of what DNSMOS says where the RMS of
the active frames is -26 dBFS. Nothing above 8 kHz is heard.
"""

from __future__ import annotations

import functools
import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from enhance_ray.dsp.mel import slaney_filter_bank
from enhance_ray.models import packaged

SHORTEST = 44_100
"""Samples at 44.1 kHz from which on an answer means something."""
SILENCE = (2.51, 3.47, 1.84)
"""What DNSMOS says of digital silence."""

_N_FFT, _HOP = 1024, 735
_BINS, _BANDS = 187, 48
"""Up to 8.01 kHz."""
_EMPTY = 1e-8
"""Power of a bin or band relative to white noise at the level that counts as none; 16 bits round to more."""
_SILENT = -1.99
"""Where no band's feature is above this, nothing is heard."""
_FRAME, _ACTIVE = 882, 1e-4
"""Frames of 20 ms are active from this share of the loudest one's power on."""


class OpinionNet(nn.Module):
    """44.1 kHz mono at any level -> estimates of DNSMOS SIG, BAK and OVRL."""

    filter_bank: Tensor
    window: Tensor

    def __init__(self, *, widths: tuple[int, ...] = (16, 32, 48, 64), hidden: int = 64) -> None:
        """Build with random weights.

        Args:
            widths: channels of the convolutions, each of which halves the number of bands.
            hidden: width of the layer before the answer.
        """
        super().__init__()
        # The first bins of the transform are those of a shorter one at a lower rate.
        bank = slaney_filter_bank(44_100 * (2 * _BINS - 2) // _N_FFT, 2 * _BINS - 2, _BANDS)
        self.register_buffer("filter_bank", bank / bank.sum(dim=0), persistent=False)
        self.register_buffer("window", torch.hann_window(_N_FFT), persistent=False)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((2, *widths)):
            # Frames are many and alike at first.
            kernel, stride = (3, 2) if layers else (5, (2, 3))
            conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        pooled = 3 * widths[-1] * -(-_BANDS // 2 ** len(widths))
        self.head = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(pooled, hidden), nn.ReLU(), nn.Linear(hidden, len(SILENCE))
        )

    def forward(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch 3"]:
        """Estimate SIG, BAK and OVRL, MOS of 1 to 5, of sounds of at least `SHORTEST` samples.

        It learned from clips of 6 s; of longer recordings take the mean over such windows. Of digital
        silence it says `SILENCE`.
        """
        features = self.features(waveform)
        heard = features[:, 0].amax(dim=(1, 2))[:, None] > _SILENT
        return torch.where(heard, self.judge(features), features.new_tensor(SILENCE))

    def features(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch 2 band frame"]:
        """How loud each band is, and how uneven.

        Row 0 is the log of its power: 0.25 for 10 dB, 0 for white noise at the level of the active frames.
        Row 1 is the log of its bins' arithmetic over their geometric mean, the inverse of spectral flatness:
        up to 0.25 for noise, more for harmonics and for the islands that denoisers leave.
        """
        level = _active_power(waveform).clamp_min(1e-30)  # of silence
        # Not torch.stft, which takes twice the time for frames that hardly overlap.
        spectrum = torch.fft.rfft(waveform.unfold(-1, _N_FFT, _HOP) * self.window)[..., :_BINS]
        power: Tensor = spectrum.real.square() + spectrum.imag.square()
        relative = power / (level[..., None] * self.window.square().sum())
        bands = (relative @ self.filter_bank + _EMPTY).log10()
        uneven = bands - (relative + _EMPTY).log10() @ self.filter_bank
        return torch.stack([bands / 4, uneven], dim=1).transpose(2, 3)

    def judge(self, features: Float[Tensor, "batch 2 band frame"]) -> Float[Tensor, "batch 3"]:
        """SIG, BAK and OVRL from `features`: the part that learns."""
        x = self.convolutions(features).flatten(1, 2)
        mean = x.mean(dim=-1)
        spread = (x.square().mean(dim=-1) - mean.square()).clamp_min(0).add(1e-4).sqrt()
        pooled = torch.cat([mean, spread, x.amax(dim=-1)], dim=-1)
        rating: Tensor = 1 + 4 * torch.sigmoid(self.head(pooled))
        return rating


def _active_power(waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch 1"]:
    """Mean power of the frames of 20 ms within 40 dB of the loudest; 0 for silence."""
    power = waveform.unfold(-1, _FRAME, _FRAME).square().mean(dim=-1)
    active = power >= _ACTIVE * power.amax(dim=-1, keepdim=True)
    return (power * active).sum(dim=-1, keepdim=True) / active.sum(dim=-1, keepdim=True)


@functools.cache
def load() -> OpinionNet:
    """The net with the weights that ship in the package, in evaluation mode; one for all callers.

    Raises:
        CheckpointError: the weights are absent or do not fit.
    """
    return packaged.load(OpinionNet(), "opinion")
