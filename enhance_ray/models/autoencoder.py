"""The autoencoder whose latents the flow moves: mel -> latent -> vocoder features. Spec 4.3.

    encoder: conv, 4 residual blocks, 4 linear maps in a row, tanh          decoder: conv, 4 residual
    blocks, conv

The linear maps in a row, which one matrix could replace, make training prefer latents of low rank: Jing,
Zbontar and LeCun 2020, "Implicit Rank-Minimizing Autoencoder", arXiv:2010.00679. The decoder answers more
channels than the mel has; the rest is what the vocoder cares to know.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from enhance_ray.errors import ConfigError
from enhance_ray.models.layers import Conv1d, GroupNorm, weight_norm
from enhance_ray.settings.ranges import Count, Whole
from enhance_ray.settings.schema import settings

_DILATIONS = (1, 2, 4, 8)


@settings
class AutoencoderConfig:
    """Sizes of the autoencoder. The defaults are the original's."""

    latent: Count = 64
    """Channels of the latent."""
    extra: Whole = 32
    """Channels of the vocoder features beyond as many as the mel has."""
    hidden: Count = 1024
    """Channels inside."""
    blocks: Whole = 4
    """Residual blocks of encoder and of decoder."""
    linear_maps: Count = 4
    """Linear maps in a row that end the encoder."""
    groups: Count = 32
    """Groups of the norms."""

    def __post_init__(self) -> None:
        if self.hidden % self.groups:
            raise ConfigError("hidden", f"must be a multiple of groups ({self.groups}), got {self.hidden}")


class ResidualBlock(nn.Sequential):
    """``x`` plus four times (norm, GELU, dilated convolution) of it."""

    def __init__(self, channels: int, groups: int) -> None:
        """Build at constant width."""
        layers: list[nn.Module] = []
        for dilation in _DILATIONS:
            layers += [
                GroupNorm(groups, channels),
                nn.GELU(),
                weight_norm(Conv1d(channels, channels, 3, dilation=dilation)),
            ]
        super().__init__(*layers)

    def forward(self, x: Float[Tensor, "batch channel frame"]) -> Float[Tensor, "batch channel frame"]:
        """Add the branch to ``x``, in float32."""
        branch: Tensor = super().forward(x)
        return x.float() + branch


class LinearMaps(nn.Sequential):
    """Linear maps over channels, one after the other; frozen, they are one."""

    def freeze(self, dtype: torch.dtype) -> None:
        """Multiply the matrices."""
        matrix, *others = (layer.get_parameter("weight").double()[:, :, 0] for layer in self)
        for other in others:
            matrix = other @ matrix
        conv = Conv1d(matrix.shape[1], matrix.shape[0], 1, bias=False)
        conv.weight.data = matrix.float()[:, :, None]
        del self[:]
        self.append(conv.requires_grad_(False))


class Autoencoder(nn.Module):
    """Normalised mel to latent in (-1, 1), and latent to vocoder features."""

    def __init__(self, mels: int, config: AutoencoderConfig) -> None:
        """Build for mels of ``mels`` bands, with random weights."""
        super().__init__()
        hidden = config.hidden
        self.encoder = nn.Sequential(
            Conv1d(mels, hidden, 3),
            *(ResidualBlock(hidden, config.groups) for _ in range(config.blocks)),
        )
        self.to_latent = LinearMaps(
            Conv1d(hidden, config.latent, 1, bias=False),
            *(Conv1d(config.latent, config.latent, 1, bias=False) for _ in range(config.linear_maps - 1)),
        )
        self.decoder = nn.Sequential(
            Conv1d(config.latent, hidden, 3),
            *(ResidualBlock(hidden, config.groups) for _ in range(config.blocks)),
            Conv1d(hidden, mels + config.extra, 1),
        )
        self.head = nn.Sequential(Conv1d(mels + config.extra, hidden, 3), nn.GELU(), Conv1d(hidden, mels, 1))

    def encode(self, mel: Float[Tensor, "batch mel frame"]) -> Float[Tensor, "batch latent frame"]:
        """Latent of a normalised mel, float32."""
        latent: Tensor = self.to_latent(self.encoder(mel))
        return latent.float().tanh()

    def decode(self, latent: Float[Tensor, "batch latent frame"]) -> Float[Tensor, "batch feature frame"]:
        """Vocoder features of a latent."""
        features: Tensor = self.decoder(latent)
        return features

    def reconstruct(self, features: Float[Tensor, "batch feature frame"]) -> Float[Tensor, "batch mel frame"]:
        """The normalised mel that vocoder ``features`` stand for: training alone asks."""
        mel: Tensor = self.head(features)
        return mel
