"""Small random models, and a corpus to train them on, for tests: the original's structure at no cost."""

import numpy as np
import soundfile
import torch

from enhance_ray.models.autoencoder import AutoencoderConfig
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.models.vocoder import VocoderConfig
from enhance_ray.models.wavenet import VelocityConfig
from enhance_ray.settings.options import MODEL_RATE

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


def write_small_corpus(root):
    """Ten tones that come and go for speech, ten noises and a room, in the folders of a corpus."""
    rng = np.random.default_rng(0)
    for folder in ("fg", "bg", "rir"):
        (root / folder).mkdir()
    time = np.arange(MODEL_RATE) / MODEL_RATE
    for i in range(10):
        voice = 0.3 * np.sin(2 * np.pi * (150 + 40 * i) * time) * (1 + np.sin(2 * np.pi * 4 * time))
        soundfile.write(root / "fg" / f"voice{i}.wav", voice, MODEL_RATE)
        soundfile.write(root / "bg" / f"noise{i}.wav", 0.1 * rng.standard_normal(20_000), MODEL_RATE)
    np.save(root / "rir" / "room.npy", np.eye(1, 2000, 44, dtype=np.float32)[0])
