"""A two-dimensional U-Net over a spectrogram (spec 3.2).

    input_proj -> encoder (each halves both axes, doubles channels) -> middle -> decoder -> head
                     └────────────── skips, added, not concatenated ────────────┘

Pre-activation residual blocks (He et al. 2016, arXiv:1603.05027) with group norm, after
Ronneberger et al. 2015, arXiv:1505.04597. Resolution changes are nearest-neighbour: nothing is
learned there. Module names are the keys of published checkpoints (spec 7.4).
"""

from __future__ import annotations

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS_PER_GROUP = 16


class PreactResBlock(nn.Sequential):
    """``x + conv(gelu(norm(conv(gelu(norm(x))))))`` at constant width."""

    def __init__(self, channels: int) -> None:
        """Build for ``channels``, a multiple of 16 or fewer than 16."""
        groups = max(1, channels // CHANNELS_PER_GROUP)
        super().__init__(
            nn.GroupNorm(groups, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(
        self, x: Float[Tensor, "batch channel freq frame"]
    ) -> Float[Tensor, "batch channel freq frame"]:
        """Add the residual branch to ``x``."""
        branch: Tensor = super().forward(x)
        return x + branch


class UNetBlock(nn.Module):
    """One level of the encoder, the middle or the decoder: a change of width and two residual blocks."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Build a level from ``channels_in`` to ``channels_out`` channels."""
        super().__init__()
        self.pre_conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.res_block1 = PreactResBlock(channels_out)
        self.res_block2 = PreactResBlock(channels_out)

    def forward(
        self, x: Float[Tensor, "batch channel freq frame"]
    ) -> Float[Tensor, "batch channel_out freq frame"]:
        """Transform at constant resolution."""
        out: Tensor = self.res_block2(self.res_block1(self.pre_conv(x)))
        return out


class RecurrentBlock(nn.Module):
    """``x`` and what a GRU in both directions of time makes of each band of it; the bands share its weights.

    Convolutions at the lowest resolution see about a second; this sees the whole recording in order, which
    tells what has been there all the time from what begins. Cho et al. 2014, arXiv:1406.1078. The last layer
    starts at zero: until it has learned something, the block changes nothing.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        """Build for ``channels``, with ``hidden`` units in each direction."""
        super().__init__()
        self.norm = nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)
        self.gru = nn.GRU(channels, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "batch channel freq frame"]
    ) -> Float[Tensor, "batch channel freq frame"]:
        """Add the recurrent branch to ``x``."""
        batch, channels, freq, frames = x.shape
        rows = self.norm(x).permute(0, 2, 3, 1).reshape(batch * freq, frames, channels)
        answer: Tensor = self.out(self.gru(rows)[0])
        return x + answer.reshape(batch, freq, frames, channels).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """The whole net, for maps of any size."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        hidden: int = 16,
        blocks: int = 4,
        middle_blocks: int = 2,
        recurrent: int = 0,
    ) -> None:
        """Build with ``hidden`` channels at full resolution, doubled at each of ``blocks`` levels.

        With ``recurrent`` units a `RecurrentBlock` follows the middle blocks.
        """
        super().__init__()
        widths = [hidden * 2**level for level in range(blocks + 1)]
        pairs = list(itertools.pairwise(widths))
        self.multiple = 2**blocks
        self.input_proj = nn.Conv2d(channels_in, hidden, 3, padding=1)
        self.encoder_blocks = nn.ModuleList(UNetBlock(narrow, wide) for narrow, wide in pairs)
        self.middle_blocks = nn.ModuleList(UNetBlock(widths[-1], widths[-1]) for _ in range(middle_blocks))
        self.recurrent = RecurrentBlock(widths[-1], recurrent) if recurrent else None
        self.decoder_blocks = nn.ModuleList(UNetBlock(wide, narrow) for narrow, wide in reversed(pairs))
        self.head = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1), nn.GELU(), nn.Conv2d(hidden, channels_out, 1)
        )

    def forward(
        self, x: Float[Tensor, "batch channel freq frame"]
    ) -> Float[Tensor, "batch channel_out freq frame"]:
        """Map ``x`` to a map of the same size; both axes are zero-padded at their ends inside."""
        freq, frames = x.shape[-2:]
        x = F.pad(x, (0, -frames % self.multiple, 0, -freq % self.multiple))
        x = self.input_proj(x)
        skips = []
        for block in self.encoder_blocks:
            x = block(x)
            skips.append(x)
            x = x[..., ::2, ::2]
        for block in self.middle_blocks:
            x = block(x)
        if self.recurrent is not None:
            x = self.recurrent(x)
        for block in self.decoder_blocks:
            x = block(F.interpolate(x, scale_factor=2, mode="nearest") + skips.pop())
        out: Tensor = self.head(x)
        return out[..., :freq, :frames]
