"""What DNSMOS thinks of an estimate, as a loss.

The network of DNSMOS P.835 (Reddy et al. 2022, arXiv:2110.01763) in PyTorch, which can differentiate it, with
the weights in the package `speechmos`. It is used in training alone: a model that is trained contains none
of it. A net can learn to please the network more than ears: judge what was trained so by other metrics, too.
"""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.metrics import DNSMOS_CURVES, WIDEBAND_RATE
from enhance_ray.metrics.inputs import folder_of, require
from enhance_ray.settings.options import MODEL_RATE

_WINDOW, _HOP = 320, 160
_CHANNELS = (1, 128, 64, 64, 32, 32, 32, 64)
_HALVED = (3, 4, 5)
"""Convolutions after which time and frequency are halved."""
_FADING = 1e-3
"""Power of a bin below which its gradient fades: that of white noise at about -50 dBFS. The network hears
logarithms, so that what is nearly silent would have a greater gradient than all speech."""
_WANTED = 3.4
"""The rating, in MOS, with which it is content: that of the best clean speech."""
_NEAR = 0.01
"""Power of the error, as a share of the speech, at which the loss counts half."""


class DnsmosNet(nn.Module):
    """The network, with weights that do not learn."""

    basis: Tensor

    def __init__(self) -> None:
        """Read the weights.

        Raises:
            ConfigError: `onnx` or `speechmos` is absent.
        """
        super().__init__()
        onnx = require("onnx", extra="train")
        path = folder_of("speechmos", extra="train") / "dnsmos_models" / "sig_bak_ovr.onnx"
        stored = {
            each.name.removeprefix("mos_estimator_logpow/"): torch.from_numpy(
                np.array(onnx.numpy_helper.to_array(each))
            )
            for each in onnx.load(path).graph.initializer
        }
        # Windowed cosines and sines (sample, part of a bin).
        basis = [stored[f"time2freq/stft-{part}/kernel:0"][..., 0] for part in ("real", "imag")]
        self.register_buffer("basis", torch.cat(basis).T.contiguous())
        self.convolutions = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(pairwise(_CHANNELS)):
            name = f"conv2d_{index}" if index else "conv2d"
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
            convolution.load_state_dict(
                {"weight": stored[f"{name}/kernel:0"], "bias": stored[f"{name}/bias:0"]}
            )
            self.convolutions.append(convolution)
        self.dense = nn.ModuleList()
        for name in ("dense", "dense_1", "dense_3"):
            weight = stored[f"{name}/MatMul/ReadVariableOp/resource:0"].T
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict(
                {"weight": weight, "bias": stored[f"{name}/BiasAdd/ReadVariableOp/resource:0"]}
            )
            self.dense.append(linear)
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch scale"]:
        """Ratings in MOS of speech, background and whole, of 0.1 s or more at 16 kHz.

        `metrics.dnsmos` gives it windows of 9 s; of shorter ones the ratings are some tenths lower.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            parts = waveform.float().unfold(-1, _WINDOW, _HOP) @ self.basis
            power = parts.unflatten(-1, (2, -1)).square().sum(-2)
            smooth = (power + _FADING).log10()
            exact = power.clamp_min(1e-12).log10()
            hidden = (smooth + (exact - smooth).detach())[:, None]
        for index, convolution in enumerate(self.convolutions):
            hidden = convolution(hidden).relu()
            if index in _HALVED:
                hidden = F.max_pool2d(hidden, 2)
        with torch.autocast(waveform.device.type, enabled=False):
            hidden = hidden.amax((2, 3)).float()
            for index, linear in enumerate(self.dense):
                hidden = linear(hidden.relu() if index else hidden)
            powers = hidden[..., None] ** torch.arange(2, -1, -1, device=hidden.device)
            ratings: Tensor = (powers * torch.tensor(DNSMOS_CURVES, device=hidden.device)).sum(-1)
            return ratings


@functools.lru_cache(maxsize=1)
def _net(device: torch.device) -> DnsmosNet:
    return DnsmosNet().to(device)


def dnsmos_loss(
    estimate: Float[Tensor, "batch time"], target: Float[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """By how much the whole of ``estimate`` is rated lower than the best clean speech, in MOS.

    The target's own rating does not matter: that of a recording in a room is low, and the answer should be
    better. An answer that is near its target already is left alone: each counts by the share of its power
    that is wrong, and by half where the error is 20 dB below the speech. Only the first half of the batch is
    rated, as ratings take long. The loss knows neither what was said nor by whom, so that it needs others
    beside it.

    Args:
        estimate: what the net gave, at the model's rate; 0.1 s or more.
        target: what it should have given.

    Raises:
        ConfigError: `onnx` or `speechmos` is absent.
    """
    rated = slice(-(-len(estimate) // 2))
    estimate, target = estimate[rated], target[rated]
    with torch.no_grad():
        wrong, speech = (power.square().mean(-1) for power in (estimate - target, target))
        share = wrong / (wrong + _NEAR * speech + 1e-9)
    ratings: Tensor = _net(estimate.device)(_wideband(estimate))
    loss: Tensor = (share * (_WANTED - ratings[:, 2]).relu()).mean()
    return loss


def _wideband(waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch fewer"]:
    """At 16 kHz, by the Fourier transform of the whole, without a rest of less than 10 ms."""
    hundredths = waveform.shape[-1] * 100 // MODEL_RATE
    bins = torch.fft.rfft(waveform[..., : hundredths * MODEL_RATE // 100].float())
    length = hundredths * WIDEBAND_RATE // 100
    narrow: Tensor = torch.fft.irfft(bins[..., : length // 2 + 1], length)
    return narrow * (WIDEBAND_RATE / MODEL_RATE)
