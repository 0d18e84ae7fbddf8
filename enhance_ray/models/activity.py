"""Is speech heard, is music heard? A small net that answers for every fifth of a second.

    waveform -> log-mel bands relative to the loudest moment nearby -> convolutions -> (speech, music) logits

The two answers are independent: an announcement over a music bed is both, rain is neither. `music_alone`
makes of them what a guard needs that lets jingles pass a speech enhancer unharmed. Nothing above 7.5 kHz is
looked at, so that a telephone's band is judged like any other.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.dsp.mel import slaney_filter_bank
from enhance_ray.models import packaged

STEP = 8400
"""Samples at 44.1 kHz from one answer to the next: 20 frames of the models, 190 ms."""
REACH = 27
"""Steps to either side that an answer depends on, 5.1 s: 16 by convolutions, 10 by level, 1 by the STFT."""

WINDOW = 11
"""Steps, 2.1 s, over which `music_alone` averages."""
MUSIC_THRESHOLD = -0.5
"""Mean music logit above which music is heard. Lower catches more music, and more beeps and birds with it."""
SPEECH_THRESHOLD = 0.0
"""Mean speech logit below which no speech is heard. Lower lets less speech over loud music pass for music."""

_HOP, _N_FFT = 1050, 2048
_FRAMES = STEP // _HOP
_BANDS_TO_NYQUIST, _BANDS = 64, 48
"""The lowest 48 of 64 mel bands: centres from 61 Hz to 7.5 kHz."""
_LEVEL_REACH = 10
_FLOOR, _FLOOR_DECADES = 1e-6, 6
"""Power below the reference at which a band counts as empty."""
_SILENCE = 1e-12
"""Mean band power of noise near -130 dB of full scale, below what 16 bits hold."""


class ActivityNet(nn.Module):
    """44.1 kHz mono at any level -> logits of "speech is heard" and "music is heard"."""

    window: Tensor
    filter_bank: Tensor

    def __init__(self, *, channels: int = 48) -> None:
        """Build with random weights; ``channels`` is the width of the part that sees seconds."""
        super().__init__()
        bank = slaney_filter_bank(44_100, _N_FFT, _BANDS_TO_NYQUIST)[:, :_BANDS]
        bins = int(bank.any(dim=1).nonzero().max()) + 1
        self.register_buffer("filter_bank", bank[:bins], persistent=False)
        self.register_buffer("window", torch.hann_window(_N_FFT), persistent=False)
        # Along time the kernels are as even as their strides, which keeps a step centred on its samples.
        self.near = nn.Sequential(
            *_convolve(1, 16, kernel=(5, 4), stride=(2, 2), padding=(2, 1)),
            *_convolve(16, 24, kernel=(3, 6), stride=(2, 4), padding=(1, 1)),
        )
        self.merge = nn.Sequential(
            nn.Conv1d(24 * _BANDS // 4, channels, 1, bias=False), nn.BatchNorm1d(channels), nn.ReLU()
        )
        self.far = nn.ModuleList(_Block(channels, dilation) for dilation in (1, 2, 4, 8))
        self.head = nn.Conv1d(channels, 2, 1)

    def forward(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch 2 step"]:
        """Judge each of the ``ceil(time / STEP)`` steps; the last may be shorter than the others.

        Step k is about samples ``k * STEP`` to ``(k + 1) * STEP``. Row 0 is speech, row 1 music.
        """
        return self.classify(self.features(waveform))

    def features(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch band frame"]:
        """Log power of the bands: 0 where empty, 2 at the mean band power of the loudest step within 1.9 s.

        There are 8 frames for each step. Silence is 0 everywhere.
        """
        length = waveform.shape[-1]
        steps = -(-length // STEP)
        margin = (_N_FFT - _HOP) // 2  # centres a window on its hop
        padded = F.pad(waveform.float(), (margin, steps * STEP - length + margin))
        spectrum = torch.stft(
            padded, _N_FFT, hop_length=_HOP, window=self.window, center=False, return_complex=True
        )[:, : len(self.filter_bank)]
        power = spectrum.real.square() + spectrum.imag.square()
        bands = self.filter_bank.T @ power
        level = F.avg_pool1d(bands.mean(dim=1, keepdim=True), _FRAMES)
        reference = F.max_pool1d(level, 2 * _LEVEL_REACH + 1, stride=1, padding=_LEVEL_REACH)
        relative = bands / (reference + _SILENCE).repeat_interleave(_FRAMES, dim=-1)
        return ((relative + _FLOOR).log10() + _FLOOR_DECADES) * (2 / _FLOOR_DECADES)

    def classify(self, features: Float[Tensor, "batch band frame"]) -> Float[Tensor, "batch 2 step"]:
        """Logits from `features`: the part that learns."""
        x = self.near(features[:, None])
        x = self.merge(x.flatten(1, 2))
        for block in self.far:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


class _Block(nn.Module):
    """Residual convolution over steps."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, dilation=dilation, padding=dilation, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Float[Tensor, "batch channel step"]) -> Float[Tensor, "batch channel step"]:
        y: Tensor = x + self.norm(self.conv(x)).relu()
        return y


def _convolve(
    channels_in: int,
    channels_out: int,
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[nn.Module, ...]:
    """Convolution over (band, frame), norm, rectifier."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
    return conv, nn.BatchNorm2d(channels_out), nn.ReLU()


def music_alone(logits: Float[Tensor, "batch 2 step"]) -> Bool[Tensor, "batch step"]:
    """Where music is heard and speech is not, judged over the `WINDOW` around each step.

    Args:
        logits: from `ActivityNet`; a window is cut short at their ends.
    """
    return is_music_alone(smooth(logits))


def is_music_alone(logits: Float[Tensor, "batch 2 step"]) -> Bool[Tensor, "batch step"]:
    """The same by each step's own logits, smoothed or not."""
    speech, music = logits.unbind(dim=1)
    return (music > MUSIC_THRESHOLD) & (speech < SPEECH_THRESHOLD)


def smooth(logits: Float[Tensor, "batch 2 step"]) -> Float[Tensor, "batch 2 step"]:
    """Mean over `WINDOW` of logits, which are limited to ±6 first: no step outvotes all others."""
    return F.avg_pool1d(logits.clamp(-6, 6), WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)


@functools.cache
def load() -> ActivityNet:
    """The net with the weights that ship in the package, in evaluation mode; one for all callers.

    Raises:
        CheckpointError: the weights are absent or do not fit.
    """
    return packaged.load(ActivityNet(), "activity")
