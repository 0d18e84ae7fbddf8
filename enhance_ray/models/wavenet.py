"""The velocity field: a WaveNet-like stack of gated dilated convolutions over latents. Spec 4.6.

    z = start(x)
    layer i:   h = dconv(z + gconv(time)) + lconv(mel)        z <- (z + residual) / sqrt 2
               residual, skip = out(tanh(h_1) sigmoid(h_2))
    v = end(sum of the skips / sqrt(layers))

van den Oord et al. 2016, arXiv:1609.03499, not causal. What depends on the mel alone (`condition`) and on
time alone (`time_biases`) is computed once for a segment and once for a schedule, not for each of the many
evaluations in between; the original recomputes both.

Frozen in float32 on a CPU, the field computes the same with half of the operations (`VelocityField.freeze`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, cast

import torch
from annotated_types import Ge, MultipleOf, Predicate
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.models import kernels, winograd
from enhance_ray.models.layers import Conv1d
from enhance_ray.settings.ranges import Count, Words
from enhance_ray.settings.schema import settings


@settings
class VelocityConfig:
    """Sizes of the velocity field. The defaults are the original's."""

    hidden: Count = 512
    """Channels of a layer's input."""
    layers: Count = 30
    """Gated layers."""
    kernel: Annotated[int, Ge(1), Predicate(lambda taps: taps % 2), Words("an odd number from 1 on")] = 3
    """Taps of the dilated convolutions; odd."""
    dilation_cycle: Count = 5
    """Dilations double from layer to layer and start again after as many."""
    time_channels: Annotated[int, Ge(4), MultipleOf(2)] = 128
    """Length of the embedding of time; even."""


class Layer(nn.Module):
    """One gated layer."""

    tile_weights: Tensor
    residual: Tensor
    skip: Tensor

    def __init__(self, mels: int, config: VelocityConfig, dilation: int) -> None:
        """Build with random weights."""
        super().__init__()
        hidden = config.hidden
        self.dilation = dilation
        self.gconv = nn.Conv1d(config.time_channels, hidden, 1)
        self.lconv = Conv1d(mels, 2 * hidden, 1)
        self.dconv = Conv1d(hidden, 2 * hidden, config.kernel, dilation=dilation)
        self.out = Conv1d(hidden, 2 * hidden, 1)

    def to_matrices(self, end: Float[Tensor, "latent hidden"], before: Float[Tensor, " hidden"]) -> Tensor:
        """Put matrices in the place of the convolutions that see the state.

        Args:
            end: what the sum of the skips is multiplied with after the last layer.
            before: the biases of the layers before, as they arrive in this one's input.

        Returns:
            ``before`` of the next layer, and what this layer's bias adds to the field's answer, side by side.
        """
        hidden = len(before)
        outward = self.out.weight.data.double()[:, :, 0]
        self.register_buffer("tile_weights", winograd.transformed(self.dconv.weight.data), False)
        self.register_buffer("residual", outward[:hidden].T.float().contiguous(), False)
        self.register_buffer("skip", (end @ outward[hidden:]).T.float().contiguous(), False)
        assert self.dconv.bias is not None and self.lconv.bias is not None and self.out.bias is not None
        assert self.gconv.bias is not None
        self.lconv.bias.data = self.lconv.bias.data + self.dconv.bias.data
        self.gconv.bias.data = self.gconv.bias.data + before.float()
        added = self.out.bias.data.double()
        del self.dconv, self.out
        return torch.cat([math.sqrt(0.5) * (before + added[:hidden]), end @ added[hidden:]])


class VelocityField(nn.Module):
    """v(x, time; mel), for latents (batch, latent, frame)."""

    def __init__(self, latent: int, mels: int, config: VelocityConfig) -> None:
        """Build with random weights."""
        super().__init__()
        self.config = config
        self.start = Conv1d(latent, config.hidden, 1)
        self.layers = nn.ModuleList(
            Layer(mels, config, 2 ** (i % config.dilation_cycle)) for i in range(config.layers)
        )
        self.end = Conv1d(config.hidden, latent, 1)
        self._gate, self._advance = kernels.gate, kernels.advance
        self._gate_in_place = kernels.gate_in_place
        self._is_matrices = False

    def forward(
        self,
        x: Float[Tensor, "batch latent frame"],
        time_biases: Float[Tensor, "layer row hidden"],
        conditions: list[Float[Tensor, "batch frame channel"]],
    ) -> Float[Tensor, "batch latent frame"]:
        """Velocity at ``x``.

        Args:
            x: latents on their way.
            time_biases: of one time, or of one for each row.
            conditions: what `condition` made of the mel.
        """
        if self._is_matrices:
            return self._by_matrices(x, time_biases, conditions)
        z = self.start(x).transpose(1, 2).float()
        skips = torch.zeros_like(z)
        # The bias comes before the convolution's padding: at the ends it is not what a bias would be.
        biases = time_biases[:, :, None]
        inner = z + biases[0]
        # The last layer has none after it: what `advance` makes for that is not used.
        following = [*biases[1:], biases[0]]
        for layer, bias, condition in zip(self._layers(), following, conditions, strict=True):
            hidden = layer.dconv(inner.transpose(1, 2)).transpose(1, 2)
            out = layer.out(self._gate(hidden, condition).transpose(1, 2)).transpose(1, 2)
            z, skips, inner = self._advance(z, skips, out, bias)
        velocity: Tensor = self.end((skips / math.sqrt(self.config.layers)).transpose(1, 2))
        return velocity.float()

    def _by_matrices(self, x: Tensor, time_biases: Tensor, conditions: list[Tensor]) -> Tensor:
        """`forward` after `freeze` has put matrices in the place of convolutions."""
        assert self.end.bias is not None
        z = self.start(x).transpose(1, 2).contiguous()
        batch, frames, _ = z.shape
        velocity = self.end.bias.repeat(batch * frames, 1)  # it is written to
        half = math.sqrt(0.5)
        *others, last = self._layers()
        for layer, bias, condition in zip((*others, last), time_biases[:, :, None], conditions, strict=True):
            hidden = winograd.convolve(z, layer.tile_weights, layer.dilation, bias)
            gated = self._gate_in_place(hidden, condition).flatten(0, 1)
            velocity.addmm_(gated, layer.skip)
            if layer is not last:
                z.flatten(0, 1).addmm_(gated, layer.residual, beta=half, alpha=half)
        by_row: Tensor = velocity.unflatten(0, (batch, frames))
        return by_row.transpose(1, 2)

    def freeze(self, dtype: torch.dtype) -> None:
        """In float32 on a CPU, compute the same from matrices, with half of the operations.

        The convolutions are computed in tiles (`winograd`). The skips meet in a sum that the last convolution
        multiplies with a matrix: each layer's skip is multiplied with it beforehand, and comes out with as
        many channels as the answer has. What remains of the biases joins those of time and mel.
        """
        layers = list(self._layers())
        if dtype != torch.float32 or not winograd.pays(layers[0].dconv.weight.data):
            return
        end = self.end.weight.data.double()[:, :, 0] / math.sqrt(len(layers))
        assert self.end.bias is not None
        before, answer = torch.zeros(self.config.hidden, dtype=torch.float64), self.end.bias.data.double()
        for layer in layers:
            before, added = layer.to_matrices(end, before).split([len(before), len(answer)])
            answer = answer + added
        self.end.bias.data = answer.float()
        self._is_matrices = True

    def compile_kernels(self) -> None:
        """Compile what lies between the convolutions (`kernels.compiled`)."""
        self._gate_in_place = kernels.compiled(kernels.gate_in_place)
        self._gate = kernels.compiled(kernels.gate)
        self._advance = kernels.compiled(kernels.advance)

    def condition(self, mel: Float[Tensor, "batch mel frame"]) -> list[Float[Tensor, "batch frame channel"]]:
        """What each layer adds for ``mel``, which is normalised over time (instance norm, eps 1e-5)."""
        mel = mel.float()
        mean, var = mel.mean(-1, keepdim=True), mel.var(-1, keepdim=True, correction=0)
        mel = (mel - mean) * (var + 1e-5).rsqrt()
        return [layer.lconv(mel).transpose(1, 2).contiguous() for layer in self._layers()]

    def time_biases(self, t: Float[Tensor, " time"]) -> Float[Tensor, "layer time hidden"]:
        """What each layer adds at the times ``t`` in [0, 1], in float32."""
        with torch.autocast(t.device.type, enabled=False):
            embedding = embed_time(t.clamp(0, 1), self.config.time_channels)
            gconvs = [layer.gconv for layer in self._layers()]
            return torch.stack([F.linear(embedding, conv.weight[..., 0], conv.bias) for conv in gconvs])

    def _layers(self) -> Iterable[Layer]:
        return cast(Iterable[Layer], self.layers)


def embed_time(t: Float[Tensor, " time"], channels: int) -> Float[Tensor, "time channel"]:
    """Sines, then cosines, of ``t`` times frequencies from 1 to 10,000 rad, spaced evenly in their logarithm.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with frequencies that grow. Float32: in bfloat16
    arguments of this size are noise.
    """
    exponents = torch.linspace(0, 4, channels // 2, device=t.device)
    angles = t.float()[:, None] * 10**exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
