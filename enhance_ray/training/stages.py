"""One training step of each stage: a batch in, a loss and named numbers out. Spec 3.3 and 6.6."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.flow import Flow
from enhance_ray.models.layers import Total, alone
from enhance_ray.settings.options import Solver
from enhance_ray.training.losses import (
    AutoencoderLossConfig,
    DenoiserLossConfig,
    compressed_spectral_loss,
    denoiser_loss,
    gap_loss,
    stft_loss,
)


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
    mixture: Float[Tensor, "batch time"] | None = None,
) -> StepResult:
    """Denoise ``noisy`` and compare with ``target``, which is speech without the noise.

    Args:
        denoiser: gives speech at the level of the peak-normalised input.
        noisy: mixtures.
        target: the speech in them, at the level it has there.
        config: which losses, and how the target is scaled.
        mixture: what ``noisy`` was made from, for a net that stands behind another.
    """
    if config.keep_level:
        target = target / (noisy.abs().amax(dim=-1, keepdim=True) + 1e-7)
    else:
        target = normalise_peak(target)
    estimate = denoiser(noisy) if mixture is None else denoiser(noisy, mixture)
    # What was clipped, or nearly lost, goes beyond the input: such a row would count more than all others.
    level = target.abs().amax(dim=-1, keepdim=True).clamp_min(1)
    loss, metrics = denoiser_loss(estimate / level, target / level, config)
    return StepResult(loss, metrics, estimate.detach())


class AutoencoderResult(NamedTuple):
    """What a step of stage 1 hands back."""

    loss: Tensor
    """Scalar to call backward on, without the critics' part."""
    metrics: dict[str, Tensor]
    """Detached scalars on the device."""
    estimate: Tensor
    """The waveform made again, for the critics; not detached."""
    latent: Tensor
    """Detached."""


def autoencoder_step(
    net: EnhancerNet,
    clean: Float[Tensor, "batch time"],
    vocoder_noise: Float[Tensor, "batch noise padded_frame"],
    *,
    guide: Float[Tensor, "batch time"] | None = None,
    loss: AutoencoderLossConfig | None = None,
    total: Total = alone,
) -> AutoencoderResult:
    """Stage 1: make ``clean`` speech again from the latent of its mel.

    Takes the statistics of the mel and of the latents into account, which is why it is no pure function.
    Arguments as those of `autoencoder_loss`.
    """
    clean = normalise_peak(clean)
    with torch.no_grad():
        raw = net.mel(clean)
        # The original sees the input once as what it is conditioned by, before the statistics are updated.
        net.latent_statistics.update(net.autoencoder.encode(net.normalizer(raw)), total)
        net.normalizer.update(raw, total)
    result = _reconstruction(net, clean, raw, vocoder_noise, guide, loss, total)
    net.latent_statistics.update(result.latent, total)
    return result


def autoencoder_loss(
    net: EnhancerNet,
    clean: Float[Tensor, "batch time"],
    vocoder_noise: Float[Tensor, "batch noise padded_frame"],
    *,
    guide: Float[Tensor, "batch time"] | None = None,
    loss: AutoencoderLossConfig | None = None,
    total: Total = alone,
) -> AutoencoderResult:
    """How well ``clean`` speech is made again from the latent of its mel.

    Args:
        net: of which autoencoder and vocoder learn.
        clean: speech at any level.
        vocoder_noise: standard normal, `EnhancerConfig.noise_padding` frames longer than the mel.
        guide: for a source-filter vocoder, the same speech degraded and denoised; by default itself.
        loss: weights; the original's by default.
        total: adds up over workers.
    """
    clean = normalise_peak(clean)
    return _reconstruction(net, clean, net.mel(clean), vocoder_noise, guide, loss, total)


def _reconstruction(
    net: EnhancerNet,
    clean: Tensor,
    raw: Tensor,
    vocoder_noise: Tensor,
    guide: Tensor | None,
    loss: AutoencoderLossConfig | None,
    total: Total,
) -> AutoencoderResult:
    """`autoencoder_loss` of ``clean`` with a peak of 1, whose mel, not yet normalised, is ``raw``."""
    weights = loss or AutoencoderLossConfig()
    mel = net.normalizer(raw)
    latent = net.autoencoder.encode(mel)
    features = net.autoencoder.decode(latent)
    parts = {"mse": weights.mse * F.mse_loss(net.autoencoder.reconstruct(features), mel)}
    whole = features.shape[-1] * net.hop
    # At a peak of 1, because a source-filter vocoder answers at its guide's level.
    guide = clean if guide is None else normalise_peak(guide)
    estimate = net.synthesise(features, guide[:, :whole], vocoder_noise)
    parts |= _waveform_losses(estimate, _at_level_of(guide, clean, net), guide, weights, total)
    whole_loss = torch.stack(list(parts.values())).sum()
    metrics = {name: value.detach() for name, value in parts.items()}
    return AutoencoderResult(whole_loss, metrics, estimate, latent.detach())


def vocoder_step(
    net: EnhancerNet,
    noisy: Float[Tensor, "batch time"],
    clean: Float[Tensor, "batch time"],
    vocoder_noise: Float[Tensor, "batch noise padded_frame"],
    prior: Float[Tensor, "batch latent frame"],
    temperature: Float[Tensor, " batch"],
    *,
    nfe: int,
    loss: AutoencoderLossConfig | None = None,
    total: Total = alone,
) -> StepResult:
    """Stage 3, which the original lacks: the vocoder learns to speak from what the flow gives.

    A flow's latents are not those of clean speech. A vocoder that has met them knows how far to trust them,
    and where its guide is the better witness.

    Args:
        net: of which the vocoder learns.
        noisy: degraded speech at any level.
        clean: what the chain should give.
        vocoder_noise: standard normal, as in `autoencoder_loss`.
        prior: standard normal, where the flow starts.
        temperature: share of it in the start.
        nfe: evaluations of the velocity field.
        loss: weights; that of the mel does not count.
        total: adds up over workers.
    """
    noisy, clean = normalise_peak(noisy), normalise_peak(clean)
    with torch.no_grad():
        denoised, start, conditioning = flow_inputs(net, noisy, prior, temperature)
        latent = net.flow.sample(start, conditioning, solver="midpoint", nfe=nfe)
        features = net.autoencoder.decode(latent / net.config.latent_scale)
    guide = normalise_peak(denoised)[:, : features.shape[-1] * net.hop]
    estimate = net.synthesise(features, guide, vocoder_noise)
    wanted = _at_level_of(guide, clean, net)
    parts = _waveform_losses(estimate, wanted, guide, loss or AutoencoderLossConfig(), total)
    whole = torch.stack(list(parts.values())).sum()
    return StepResult(whole, {name: value.detach() for name, value in parts.items()}, estimate.detach())


def _at_level_of(guide: Tensor, clean: Tensor, net: EnhancerNet) -> Tensor:
    """``clean``, for a source-filter vocoder as loud as it is in its ``guide``, whose level the answer has.

    The guide lost its peak with noise, room and band: at a peak of 1 for both, flow and vocoder would learn
    to add too little. A projection, in which a bin weighs by its magnitude in the guide: what the guide lacks
    does not count.
    """
    if net.config.source_filter is None or guide is clean:
        return clean

    def spectrum(waveform: Tensor) -> Tensor:
        window = torch.hann_window(2048, device=waveform.device)
        return torch.stft(waveform, 2048, 1024, window=window, return_complex=True, pad_mode="constant")

    length = min(guide.shape[-1], clean.shape[-1])
    known, wanted = spectrum(guide[:, :length]), spectrum(clean[:, :length])
    weight = known.abs()
    both = (weight * (known.real * wanted.real + known.imag * wanted.imag)).sum(dim=(1, 2))
    gain = both / ((weight * wanted.abs().square()).sum(dim=(1, 2)) + 1e-7)
    return gain.clamp(0.1, 2.0)[:, None] * clean  # what hardly passed the denoiser is not asked to vanish


def _waveform_losses(
    estimate: Tensor, clean: Tensor, guide: Tensor, weights: AutoencoderLossConfig, total: Total
) -> dict[str, Tensor]:
    parts: dict[str, Tensor] = {}
    if weights.stft:
        parts |= {name: weights.stft * part for name, part in stft_loss(estimate, clean, total).items()}
    if weights.spectrum:
        clean, guide = (waveform[:, : estimate.shape[-1]] for waveform in (clean, guide))
        by_resolution = [
            compressed_spectral_loss(
                estimate,
                clean,
                window_length=window,
                complex_share=weights.complex_share,
                guide=guide,
                guided_share=weights.guided_share,
            )
            for window in weights.resolutions
        ]
        parts["spectrum"] = weights.spectrum * torch.stack(by_resolution).mean()
    if weights.gaps:
        clean, guide = (waveform[:, : estimate.shape[-1]] for waveform in (clean, guide))
        parts["gaps"] = weights.gaps * gap_loss(estimate, clean, guide)
    return parts


class FlowDraws(NamedTuple):
    """The random numbers of one step of stage 2, in the order in which the original draws them."""

    strength: Float[Tensor, " batch"]
    """Share of denoised mel in the conditioning, from Beta(0.2, 0.2): mostly near 0 or 1."""
    temperature: Float[Tensor, " batch"]
    """Share of noise in the start, from U(0, 1) or less of it."""
    prior: Float[Tensor, "batch latent frame"]
    """Standard normal, of the start."""
    time: Float[Tensor, " batch"]
    """From U(0, 1), where on the path."""
    path: Float[Tensor, "batch latent frame"]
    """Standard normal, around the path."""


def flow_inputs(
    net: EnhancerNet,
    noisy: Float[Tensor, "batch time"],
    prior: Float[Tensor, "batch latent frame"],
    temperature: Float[Tensor, " batch"],
) -> tuple[Tensor, Tensor, Tensor]:
    """What comes before the flow, for recordings with a peak of 1: denoised sound, start and conditioning."""
    denoised = net.repaired(net.denoiser(noisy).float(), noisy)
    mel = net.normalise(noisy)
    start = net.start(mel, prior, temperature[:, None, None])
    return denoised, start, net.conditioning(denoised, mel, 1.0)


def distil_step(
    net: EnhancerNet,
    teacher: Flow,
    noisy: Float[Tensor, "batch time"],
    draws: FlowDraws,
    *,
    nfe: int,
    solver: Solver,
) -> StepResult:
    """Distillation: the flow learns the straight way to where the teacher's many evaluations lead.

    A flow's paths bend, because training lets many ways cross in one point and the velocity is their mean;
    those from each start to its own end cross less, and a straight path needs few evaluations. "Reflow": Liu,
    Gong and Liu 2023, "Flow straight and fast", arXiv:2209.03003, section 2.2.

    Args:
        net: of which the flow learns.
        teacher: the flow that it is to equal.
        noisy: degraded speech at any level; nothing clean is needed.
        draws: random numbers, of which the strength does not count.
        nfe: evaluations of the teacher.
        solver: with which it is followed.
    """
    noisy = normalise_peak(noisy)
    with torch.no_grad():
        denoised, start, conditioning = flow_inputs(net, noisy, draws.prior, draws.temperature)
        end = teacher.sample(start, conditioning, solver=solver, nfe=nfe)
    loss = net.flow.loss(start, end, conditioning, uniform=draws.time, noise=draws.path)
    return StepResult(loss, {"distil_l1": loss.detach()}, denoised)


def flow_step(
    net: EnhancerNet,
    noisy: Float[Tensor, "batch time"],
    distorted: Float[Tensor, "batch time"],
    clean: Float[Tensor, "batch time"],
    draws: FlowDraws,
    *,
    train_denoiser: bool = True,
) -> StepResult:
    """Stage 2: the flow learns to undo noise and distortion, the denoiser noise alone. Spec 4.2 and 6.6.

    Args:
        net: of which flow and denoiser learn; the autoencoder is frozen.
        noisy: distorted speech with noise, at any level.
        distorted: what the denoiser should give.
        clean: what the flow should give, at any level.
        draws: random numbers.
        train_denoiser: off, the denoiser stays what it is, and ``distorted`` is not looked at.
    """
    noisy, distorted, clean = (normalise_peak(part) for part in (noisy, distorted, clean))
    with torch.set_grad_enabled(train_denoiser and torch.is_grad_enabled()):
        denoised = net.denoiser(noisy)
    parts = {"denoiser_l1": F.l1_loss(denoised, distorted)} if train_denoiser else {}
    with torch.no_grad():
        mel = net.normalise(noisy)
        strength = draws.strength[:, None, None]
        repaired = net.repaired(denoised.float(), noisy)
        conditioning = strength * net.normalise(repaired) + (1 - strength) * mel
        wanted = net.normalise(_at_level_of(repaired, clean, net))
        end = net.config.latent_scale * net.autoencoder.encode(wanted)
        start = net.start(mel, draws.prior, draws.temperature[:, None, None])
    parts["flow_l1"] = net.flow.loss(start, end, conditioning, uniform=draws.time, noise=draws.path)
    loss = torch.stack(list(parts.values())).sum()
    return StepResult(loss, {name: value.detach() for name, value in parts.items()}, denoised.detach())
