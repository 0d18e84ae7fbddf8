"""One training step of each stage: a batch in, a loss and named numbers out. Spec 3.3 and 6.6."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.training.losses import DenoiserLossConfig, denoiser_loss


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
