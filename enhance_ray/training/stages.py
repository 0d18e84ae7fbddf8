"""One training step of each stage: a batch in, a loss and named numbers out. Spec 3.3 and 6.6."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.training.losses import DenoiserLossConfig, denoiser_loss, stft_loss


class StepResult(NamedTuple):
    """What a step hands back: nothing is left behind on the modules."""

    loss: Tensor
    """Scalar to call backward on."""
    metrics: dict[str, Tensor]
    """Detached scalars on the device; the loop copies them to the host when it logs."""
    estimate: Tensor
    """What the net gave, detached."""


def denoiser_step(
    denoiser: nn.Module,
    noisy: Float[Tensor, "batch time"],
    target: Float[Tensor, "batch time"],
    config: DenoiserLossConfig,
) -> StepResult:
    """Denoise ``noisy`` and compare with ``target``, which is speech without the noise.

    Args:
        denoiser: gives speech at the level of the peak-normalised input.
        noisy: mixtures.
        target: the speech in them, at the level it has there.
        config: which losses, and how the target is scaled.
    """
    if config.keep_level:
        target = target / (noisy.abs().amax(dim=-1, keepdim=True) + 1e-7)
    else:
        target = normalise_peak(target)
    estimate = denoiser(noisy)
    loss, metrics = denoiser_loss(estimate, target, config)
    return StepResult(loss, metrics, estimate.detach())


class AutoencoderResult(NamedTuple):
    """What a step of stage 1 hands back."""

    loss: Tensor
    """Scalar to call backward on, without the critics' part."""
    metrics: dict[str, Tensor]
    """Detached scalars on the device."""
    estimate: Tensor
    """The waveform made again, for the critics; not detached."""


def autoencoder_step(
    net: EnhancerNet,
    clean: Float[Tensor, "batch time"],
    vocoder_noise: Float[Tensor, "batch noise padded_frame"],
) -> AutoencoderResult:
    """Stage 1: make ``clean`` speech again from the latent of its mel.

    Takes the statistics of the mel and of the latents into account, which is why it is no pure function.

    Args:
        net: of which autoencoder, vocoder and both normalizers learn.
        clean: speech at any level.
        vocoder_noise: standard normal, ``padding`` frames longer than the mel.
    """
    clean = normalise_peak(clean)
    with torch.no_grad():
        raw = net.mel(clean)
        # The original sees the input once as what it is conditioned by, before the statistics are updated.
        net.latent_statistics.update(net.autoencoder.encode(net.normalizer(raw)))
        net.normalizer.update(raw)
    mel = net.normalizer(raw)
    latent = net.autoencoder.encode(mel)
    net.latent_statistics.update(latent.detach())
    features = net.autoencoder.decode(latent)
    parts = {"mse": F.mse_loss(net.autoencoder.reconstruct(features), mel)}
    estimate = net.vocoder(features, vocoder_noise)
    parts |= stft_loss(estimate, clean)
    loss = torch.stack(list(parts.values())).sum()
    return AutoencoderResult(loss, {name: value.detach() for name, value in parts.items()}, estimate)


class FlowDraws(NamedTuple):
    """The random numbers of one step of stage 2, in the order in which the original draws them."""

    strength: Float[Tensor, " batch"]
    """Share of denoised mel in the conditioning, from Beta(0.2, 0.2): mostly near 0 or 1."""
    temperature: Float[Tensor, " batch"]
    """Share of noise in the start, from U(0, 1)."""
    prior: Float[Tensor, "batch latent frame"]
    """Standard normal, of the start."""
    time: Float[Tensor, " batch"]
    """From U(0, 1), where on the path."""
    path: Float[Tensor, "batch latent frame"]
    """Standard normal, around the path."""


def flow_step(
    net: EnhancerNet,
    noisy: Float[Tensor, "batch time"],
    distorted: Float[Tensor, "batch time"],
    clean: Float[Tensor, "batch time"],
    draws: FlowDraws,
) -> StepResult:
    """Stage 2: the flow learns to undo noise and distortion, the denoiser noise alone. Spec 4.2 and 6.6.

    Args:
        net: of which flow and denoiser learn; the autoencoder is frozen.
        noisy: distorted speech with noise, at any level.
        distorted: what the denoiser should give.
        clean: what the flow should give.
        draws: random numbers.
    """
    noisy, distorted, clean = (normalise_peak(part) for part in (noisy, distorted, clean))
    denoised = net.denoiser(noisy)
    parts = {"denoiser_l1": F.l1_loss(denoised, distorted)}
    with torch.no_grad():
        mel = net.normalise(noisy)
        strength = draws.strength[:, None, None]
        conditioning = strength * net.normalise(denoised) + (1 - strength) * mel
        end = net.config.latent_scale * net.autoencoder.encode(net.normalise(clean))
        start = net.start(mel, draws.prior, draws.temperature[:, None, None])
    parts["flow_l1"] = net.flow.loss(start, end, conditioning, uniform=draws.time, noise=draws.path)
    loss = torch.stack(list(parts.values())).sum()
    return StepResult(loss, {name: value.detach() for name, value in parts.items()}, denoised.detach())
