"""Small random models for tests: the structure of the original's, at sizes that cost nothing."""

import torch

from enhance_ray.models.autoencoder import AutoencoderConfig
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.models.vocoder import VocoderConfig
from enhance_ray.models.wavenet import VelocityConfig

SMALL_DENOISER = DenoiserConfig(hidden=4, blocks=2, middle_blocks=1, features="compressed", bands=32)
SMALL_ENHANCER = EnhancerConfig(
    mels=24,
    autoencoder=AutoencoderConfig(latent=8, extra=4, hidden=32, blocks=1),
    velocity=VelocityConfig(hidden=16, layers=4, time_channels=16),
    vocoder=VocoderConfig(channels=8, predictor_hidden=8),
)


def small_enhancer_net() -> tuple[Denoiser, EnhancerNet]:
    """The denoiser in an enhancer, and the enhancer; the same weights every time."""
    torch.manual_seed(0)
    net = EnhancerNet(SMALL_ENHANCER, SMALL_DENOISER)
    net.normalizer.update(torch.rand(100))
    net.latent_statistics.update(torch.randn(100))
    return net.denoiser, net.eval()
