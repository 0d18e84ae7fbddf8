"""The enhancer's networks computed as they are written down: the yardstick of speed.py.

Float32, channels first, one operation after the other, whole segments, nothing kept from one evaluation to
the next; on the weights of an `EnhancerNet` that was not frozen. Spec 3 and 4.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from enhance_ray.models import ode
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.layers import LEAKY_SLOPE
from enhance_ray.models.wavenet import embed_time


def denoise(net: EnhancerNet, waveform: Tensor) -> Tensor:
    """(batch, time) to the same shape."""
    denoised: Tensor = net.denoiser(waveform)
    return denoised


def encode(net: EnhancerNet, mel: Tensor) -> Tensor:
    """Normalised mel to scaled latent."""
    x = _autoencoder(net.autoencoder.encoder, mel)
    for layer in net.autoencoder.to_latent:
        x = F.conv1d(x, layer.weight)
    return net.config.latent_scale * x.tanh()


def decode(net: EnhancerNet, latent: Tensor) -> Tensor:
    """Scaled latent to vocoder features."""
    return _autoencoder(net.autoencoder.decoder, latent / net.config.latent_scale)


def _autoencoder(layers: Any, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, torch.nn.Conv1d):
            x = _conv(layer, x)
            continue
        branch = x
        for norm, conv in zip(list(layer)[::3], list(layer)[2::3], strict=True):
            branch = F.group_norm(branch, norm.num_groups, norm.weight, norm.bias, norm.eps)
            branch = _conv(conv, F.gelu(branch))
        x = x + branch
    return x


def velocity(net: EnhancerNet, x: Tensor, t: float, mel: Tensor) -> Tensor:
    """Velocity at ``x`` and time ``t``."""
    field = net.flow.net
    embedding = embed_time(torch.tensor([t], device=x.device), field.config.time_channels)[..., None]
    mel = F.instance_norm(mel)
    z = _conv(field.start, x)
    skips = []
    for layer in field.layers:
        hidden = _conv(layer.dconv, z + F.conv1d(embedding, layer.gconv.weight, layer.gconv.bias))
        hidden = hidden + _conv(layer.lconv, mel)
        filtered, gate = hidden.chunk(2, dim=1)
        residual, skip = _conv(layer.out, filtered.tanh() * gate.sigmoid()).chunk(2, dim=1)
        z = (z + residual) / math.sqrt(2)
        skips.append(skip)
    return _conv(field.end, torch.stack(skips).sum(dim=0) / math.sqrt(len(skips)))


def sample(net: EnhancerNet, start: Tensor, mel: Tensor, nfe: int) -> Tensor:
    """Latent at the end of the flow, by the midpoint rule."""
    return ode.integrate(
        lambda t, x: velocity(net, x, t, mel), start, solver="midpoint", nfe=nfe, divisor=net.flow.divisor
    )


def vocode(net: EnhancerNet, features: Tensor, noise: Tensor) -> Tensor:
    """Features (batch, feature, frame) to (batch, time)."""
    vocoder: Any = net.vocoder
    frames = features.shape[-1]
    features = F.pad(features, (0, vocoder.config.padding))
    x = _conv(vocoder.conv_pre, F.pad(noise, (3, 3), mode="reflect"), padding=0)
    for block in vocoder.blocks:
        stride = block.convt_pre[1].stride[0]
        x = F.conv_transpose1d(
            F.leaky_relu(x, LEAKY_SLOPE),
            block.convt_pre[1].weight,
            block.convt_pre[1].bias,
            stride=stride,
            padding=stride // 2 + stride % 2,
            output_padding=stride % 2,
        )
        branch = x
        for first, activation, second in block.amp_block:
            branch = _conv(second, _activation(activation, _conv(first, branch)))
        x = x + branch
        x = _modulated(block, x, features)
    x = F.pad(F.leaky_relu(x, LEAKY_SLOPE), (3, 3), mode="reflect")
    waveform = _conv(vocoder.conv_post[1], x, padding=0).tanh()[:, 0]
    return waveform[:, : frames * vocoder.config.hop]


def _activation(module: Any, x: Tensor) -> Tensor:
    """A snake between a doubling and a halving of the rate."""
    channels = x.shape[1]
    up = module.upsample.filter.expand(channels, 1, -1)
    x = 2 * F.conv_transpose1d(F.pad(x, (5, 5), mode="replicate"), up, stride=2, groups=channels)
    x = x[..., 15:-15]
    alpha, beta = (log.exp().clamp(0.01, 50)[:, None] for log in (module.act.log_alpha, module.act.log_beta))
    x = x + (alpha * x).sin() ** 2 / beta
    down = module.downsample.lowpass.filter.expand(channels, 1, -1)
    return F.conv1d(F.pad(x, (5, 6), mode="replicate"), down, stride=2, groups=channels)


def _modulated(block: Any, x: Tensor, features: Tensor) -> Tensor:
    """Four gated location-variable convolutions."""
    predictor = block.kernel_predictor
    hidden = F.leaky_relu(_conv(predictor.input_conv[0], features), LEAKY_SLOPE)
    for conv in predictor.residual_convs:
        inner = F.leaky_relu(_conv(conv[1], hidden), LEAKY_SLOPE)
        hidden = hidden + F.leaky_relu(_conv(conv[3], inner), LEAKY_SLOPE)
    batch, frames = hidden.shape[0], hidden.shape[-1]
    kernels = _conv(predictor.kernel_conv, hidden).view(batch, *predictor.shape, frames)
    biases = _conv(predictor.bias_conv, hidden).view(batch, predictor.shape[0], -1, frames)
    for i, conv in enumerate(block.conv_blocks):
        inner = F.leaky_relu(_conv(conv[1], F.leaky_relu(x, LEAKY_SLOPE)), LEAKY_SLOPE)
        windows = F.pad(inner, (1, 1)).unfold(2, block.hop + 2, block.hop).unfold(3, 3, 1)
        out = torch.einsum("bildk,biokl->bold", windows, kernels[:, i]) + biases[:, i, :, :, None]
        opening, filtered = out.flatten(2).chunk(2, dim=1)
        x = x + opening.sigmoid() * filtered.tanh()
    return x


def _conv(layer: Any, x: Tensor, padding: int | None = None) -> Tensor:
    """A convolution that keeps the length, with zeros beyond the ends, unless ``padding`` says otherwise."""
    dilation = layer.dilation[0]
    if padding is None:
        padding = dilation * (layer.kernel_size[0] // 2)
    return F.conv1d(x, layer.weight, layer.bias, padding=padding, dilation=dilation)
