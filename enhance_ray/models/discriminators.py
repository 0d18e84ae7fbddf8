"""The critics of stage 1: does this waveform sound like speech? Spec 4.8.

By period (MPD): the waveform folded into pictures of 2, 3, 7, 13 and 17 columns; Kong, Kim and Bae 2020,
"HiFi-GAN", arXiv:2010.05646. By resolution (MRD): magnitude spectrograms of three sizes; Jang et al. 2021,
"UnivNet", arXiv:2106.07889.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, MinLen
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.errors import ConfigError
from enhance_ray.models.layers import LEAKY_SLOPE, weight_norm
from enhance_ray.settings.ranges import Count
from enhance_ray.settings.schema import settings

RESOLUTIONS = ((100, 400, 512), (256, 1024, 1024), (512, 2048, 2048))
"""(hop, window, transform) in samples: of the critics by resolution, and of the loss on spectrograms."""


@settings
class DiscriminatorConfig:
    """Sizes of the discriminators. The defaults are the original's."""

    periods: tuple[Annotated[int, Ge(2)], ...] = (2, 3, 7, 13, 17)
    """Columns of the folded waveform."""
    period_channels: Annotated[tuple[int, ...], MinLen(2)] = (64, 128, 256, 512, 1024)
    """Channels of the convolutions by period."""
    resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS
    """(hop, window, transform) of the spectrograms, in samples."""
    resolution_channels: Count = 32
    """Channels of the convolutions by resolution."""

    def __post_init__(self) -> None:
        if any(not 0 < hop <= window <= n_fft for hop, window, n_fft in self.resolutions):
            raise ConfigError("resolutions", f"expected hop <= window <= transform, got {self.resolutions}")


class PeriodDiscriminator(nn.Module):
    """Judges a waveform folded at one period."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        """Build with random weights."""
        super().__init__()
        self.period = period
        widths = [1, *channels]
        strides = [3] * (len(channels) - 1) + [1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, (5, 1), (stride, 1), (2, 0)))
            for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch score"]:
        """Scores of its places."""
        padded = F.pad(waveform[:, None], (0, -waveform.shape[-1] % self.period), mode="reflect")
        return _judge(padded.unflatten(-1, (-1, self.period)), self.convs, self.conv_post)


class ResolutionDiscriminator(nn.Module):
    """Judges a waveform's magnitude spectrogram at one resolution; its window is rectangular."""

    window: Tensor

    def __init__(self, hop: int, window: int, n_fft: int, channels: int) -> None:
        """Build with random weights."""
        super().__init__()
        self.hop, self.n_fft = hop, n_fft
        self.register_buffer("window", torch.ones(window), persistent=False)
        self.convs = nn.ModuleList(
            weight_norm(conv)
            for conv in (
                nn.Conv2d(1, channels, (3, 9), padding=(1, 4)),
                *(nn.Conv2d(channels, channels, (3, 9), (1, 2), (1, 4)) for _ in range(3)),
                nn.Conv2d(channels, channels, (3, 3), padding=1),
            )
        )
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=1))

    def forward(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch score"]:
        """Scores of its places."""
        magnitude = torch.stft(
            waveform.float(),
            self.n_fft,
            hop_length=self.hop,
            win_length=len(self.window),
            window=self.window,
            center=False,
            return_complex=True,
        ).abs()
        return _judge(magnitude[:, None], self.convs, self.conv_post)


def _judge(
    picture: Float[Tensor, "batch 1 height width"], convs: nn.ModuleList, last: nn.Module
) -> Float[Tensor, "batch score"]:
    for conv in convs:
        picture = F.leaky_relu(conv(picture), LEAKY_SLOPE)
    return last(picture).flatten(1)  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """All critics together."""

    def __init__(self, config: DiscriminatorConfig | None = None) -> None:
        """Build with random weights; the sizes default to the original's."""
        super().__init__()
        config = config or DiscriminatorConfig()
        self.mpd = nn.ModuleList(
            PeriodDiscriminator(period, config.period_channels) for period in config.periods
        )
        self.mrd = nn.ModuleList(
            ResolutionDiscriminator(hop, window, n_fft, config.resolution_channels)
            for hop, window, n_fft in config.resolutions
        )

    def forward(self, waveform: Float[Tensor, "batch time"]) -> dict[str, list[Float[Tensor, "batch _"]]]:
        """Scores by period under "mpd", by resolution under "mrd"."""
        return {
            "mpd": [critic(waveform) for critic in self.mpd],
            "mrd": [critic(waveform) for critic in self.mrd],
        }
