"""UnivNet: vocoder features -> waveform, with kernels that the features themselves predict. Spec 4.7.

    noise -> conv_pre -> 4 blocks, each: upsample, anti-aliased block, 4 gated location-variable convolutions
          -> conv_post -> tanh                                 (strides 7, 5, 4, 3: 420 samples a frame)

Jang et al. 2021, "UnivNet", arXiv:2106.07889; location-variable convolution: Zeng et al. 2021, "LVCNet",
arXiv:2102.10815; the anti-aliased periodic activation: Lee et al. 2023, "BigVGAN", arXiv:2206.04658.

A frame's kernels are 221,184 numbers. They are predicted for some frames and one layer at a time, and used
while they are in the cache; and the whole runs in tiles of frames, whose margins are computed and thrown
away (the reach of the net is finite), so that memory does not grow with the length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, cast

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.models import kernels
from enhance_ray.models.layers import LEAKY_SLOPE, Conv1d, weight_norm
from enhance_ray.settings.ranges import Count, NotEmpty, Whole
from enhance_ray.settings.schema import settings

_TILE = {"cpu": 600}
_TILE_ON_GPU = 2048
"""Most frames of one tile; margins of 36 come on top."""
_KERNEL_FRAMES = {("cpu", torch.float32): 256, ("cpu", torch.bfloat16): 128}
_KERNEL_FRAMES_ON_GPU = 1024
"""Frames whose kernels are in memory at once."""
_CACHED_SAMPLES = 4096
"""Samples that are worked on at once on a CPU, where that much stays in the second-level cache."""


@settings
class VocoderConfig:
    """Sizes of the vocoder. The defaults are the original's."""

    channels: Count = 96
    """Channels at every rate."""
    noise: Count = 128
    """Channels of the noise that it starts from."""
    strides: NotEmpty[Annotated[int, Ge(2)]] = (7, 5, 4, 3)
    """Upsampling of each block; their product is the hop."""
    dilations: NotEmpty[Count] = (1, 3, 9, 27)
    """Of the convolution before each location-variable one."""
    predictor_hidden: Count = 64
    """Channels of the kernel predictors."""
    padding: Whole = 10
    """Frames of zeros that are appended and cut off again."""

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.strides)


class Vocoder(nn.Module):
    """Features (batch, feature, frame) and noise to a waveform."""

    def __init__(self, features: int, config: VocoderConfig) -> None:
        """Build for ``features`` channels, with random weights."""
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_pre = weight_norm(Conv1d(config.noise, channels, 7, reflect=True))
        hops = [math.prod(config.strides[: i + 1]) for i in range(len(config.strides))]
        self.blocks = nn.ModuleList(
            Block(channels, features, stride, hop, config.dilations, config.predictor_hidden)
            for stride, hop in zip(config.strides, hops, strict=True)
        )
        # Precise: a bfloat16 has eight bits, which would be heard.
        self.conv_post = nn.Sequential(
            nn.LeakyReLU(LEAKY_SLOPE),
            weight_norm(Conv1d(channels, 1, 7, reflect=True, precise=True)),
            nn.Tanh(),
        )

    def forward(
        self,
        features: Float[Tensor, "batch feature frame"],
        noise: Float[Tensor, "batch noise padded_frame"],
        *,
        tile: int | None = None,
    ) -> Float[Tensor, "batch time"]:
        """Waveform of ``hop`` samples a frame, in [-1, 1].

        Args:
            features: of the autoencoder's decoder.
            noise: standard normal, ``padding`` frames longer.
            tile: frames that are computed at once; by default what suits the device, all in training.
        """
        frames = features.shape[-1]
        features = F.pad(features, (0, self.config.padding))
        if tile is None:
            most = features.shape[-1] if self.training else _TILE.get(features.device.type, _TILE_ON_GPU)
            tile = math.ceil(frames / math.ceil(frames / most))  # equal ones, for the sake of the margins
        return torch.cat(list(self._tiles(features, noise, frames, tile)), dim=-1)

    @property
    def margin(self) -> int:
        """Frames on each side that an output sample may depend on."""
        after_kernels = before_blocks = 0.0  # in frames
        rate = 1
        for i, block in enumerate(cast(Iterable[Block], self.blocks)):
            before = 1 / rate + AMP_REACH / block.hop  # the transposed convolution sees one neighbour
            layers = [(dilation + 1) / block.hop for dilation in self.config.dilations]
            before_blocks += before + sum(layers)
            after_kernels += sum(layers) if i == 0 else before + sum(layers)
            rate = block.hop
        return math.ceil(max(3 + before_blocks, KernelPredictor.reach + after_kernels) + 3 / rate)

    def _tiles(self, features: Tensor, noise: Tensor, frames: int, tile: int) -> Iterator[Tensor]:
        hop, margin = self.config.hop, self.margin
        for start in range(0, frames, tile):
            stop = min(start + tile, frames)
            first = max(0, start - margin)
            last = min(features.shape[-1], stop + margin)
            waveform = self._whole(features[..., first:last], noise[..., first:last])
            yield waveform[:, (start - first) * hop : (stop - first) * hop]

    def _whole(self, features: Tensor, noise: Tensor) -> Tensor:
        x = self.conv_pre(noise).float()
        for block in self.blocks:
            x = block(x, features)
        waveform: Tensor = self.conv_post(x)
        return waveform[:, 0]


class Block(nn.Module):
    """Upsamples by its stride, and shapes what comes out with kernels predicted from the features."""

    def __init__(
        self, channels: int, features: int, stride: int, hop: int, dilations: tuple[int, ...], hidden: int
    ) -> None:
        """Build a block whose output has ``hop`` samples a frame, with random weights."""
        super().__init__()
        self.hop = hop
        self.convt_pre = nn.Sequential(
            nn.LeakyReLU(LEAKY_SLOPE), weight_norm(UpsamplingConv(channels, stride))
        )
        self.amp_block = AmpBlock(channels)
        self.kernel_predictor = KernelPredictor(features, channels, 2 * channels, len(dilations), hidden)
        self.conv_blocks = nn.ModuleList(
            nn.Sequential(
                nn.LeakyReLU(LEAKY_SLOPE),
                weight_norm(Conv1d(channels, channels, 3, dilation=dilation)),
                nn.LeakyReLU(LEAKY_SLOPE),
            )
            for dilation in dilations
        )
        self._modulate = kernels.modulate

    def forward(
        self, x: Float[Tensor, "batch channel time"], features: Float[Tensor, "batch feature frame"]
    ) -> Float[Tensor, "batch channel time_out"]:
        """One block."""
        x = self.upsample(x)
        hidden = self.kernel_predictor(features)
        biases = self.kernel_predictor.biases(hidden)
        matrices = zip(*self.kernel_predictor.matrices(), strict=True)
        convs = cast(Iterable[nn.Sequential], self.conv_blocks)
        for conv, bias, matrix in zip(convs, biases, matrices, strict=True):
            x = self.convolve(x, conv, hidden, matrix, bias)
        return x

    def upsample(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time_out"]:
        """The signal before the location-variable convolutions."""
        upsampled: Tensor = self.amp_block(self.convt_pre(x).float())
        return upsampled

    def convolve(
        self,
        x: Float[Tensor, "batch channel time"],
        conv: nn.Sequential,
        hidden: Float[Tensor, "batch hidden frame"],
        matrix: tuple[Tensor, Tensor],
        bias: Float[Tensor, "batch frame channel_out"],
    ) -> Float[Tensor, "batch channel time"]:
        """``x`` plus what the location-variable convolution makes of ``conv`` of it, gated, by runs.

        The kernel predictor has ``matrix`` and ``bias`` for the layer.
        """
        run = _KERNEL_FRAMES.get((x.device.type, x.dtype), _KERNEL_FRAMES_ON_GPU)
        caches = x.device.type == "cpu" and not torch.is_grad_enabled()
        piece = max(1, _CACHED_SAMPLES // self.hop) if caches else run
        frames = hidden.shape[-1]
        signal = x.transpose(1, 2)
        answer = torch.empty_like(signal)
        for start in range(0, frames, run):
            weights = self.kernel_predictor.kernels(hidden, *matrix, start, min(start + run, frames))
            for offset in range(0, weights.shape[1], piece):
                part = weights[:, offset : offset + piece]
                first, last = start + offset, start + offset + part.shape[1]
                samples = slice(first * self.hop, last * self.hop)
                out = location_variable_convolution(_around(x, conv, samples), part)
                answer[:, samples] = self._modulate(signal[:, samples], out, bias[:, first:last])
        return answer.transpose(1, 2)

    def compile_kernels(self) -> None:
        """Compile the gate (`kernels.compiled`)."""
        self._modulate = kernels.compiled(self._modulate)

    def freeze(self, dtype: torch.dtype) -> None:
        """In float32, take the gate that writes over what it gates."""
        if dtype == torch.float32:
            self._modulate = kernels.modulate_in_place


def _around(
    x: Float[Tensor, "batch channel time"], conv: nn.Sequential, samples: slice
) -> Float[Tensor, "batch sample_and_2 channel"]:
    """The ``samples`` of ``conv`` of ``x`` and one more on each side, zero beyond the ends of ``x``."""
    length, reach = x.shape[-1], cast(Conv1d, conv[1]).dilation[0]
    first, last = max(0, samples.start - 1), min(length, samples.stop + 1)
    left, right = max(0, first - reach), min(length, last + reach)
    inner = conv(x[..., left:right])[..., first - left : last - left].transpose(1, 2)
    return F.pad(inner, (0, 0, first - samples.start + 1, samples.stop + 1 - last))


def location_variable_convolution(
    padded: Float[Tensor, "batch time_and_2 channel"],
    weights: Float[Tensor, "batch frame taps channel_out"],
) -> Float[Tensor, "batch frame hop channel_out"]:
    """Convolve each frame's samples with the frame's own kernel of three taps.

    The samples that the taps reach at a frame's borders are the neighbours', only the kernel changes there.
    As one matrix product a frame: (sample, 3 channels) times (3 channels, channels out).

    Args:
        padded: the signal with one more sample on each side.
        weights: the kernels, with rows ordered by tap, then by channel.
    """
    batch, frames, taps, channels_out = weights.shape
    channels = padded.shape[-1]
    hop = (padded.shape[1] - 2) // frames
    padded = padded.to(weights.dtype).contiguous()
    # Three samples side by side are already a row of the matrix; rows overlap.
    windows = padded.as_strided((batch, frames, hop, taps), (padded.stride(0), hop * channels, channels, 1))
    return torch.matmul(windows, weights).view(batch, frames, hop, channels_out)


class KernelPredictor(nn.Module):
    """Kernels and biases of a block's location-variable convolutions, from the features."""

    reach = 9
    """Frames on each side that a kernel depends on."""
    kernel_weights: Tensor
    kernel_biases: Tensor

    def __init__(self, features: int, channels_in: int, channels_out: int, layers: int, hidden: int) -> None:
        """Build for ``layers`` convolutions of three taps, with random weights."""
        super().__init__()
        self.shape = (layers, channels_in, channels_out, 3)
        self.input_conv = nn.Sequential(weight_norm(Conv1d(features, hidden, 5)), nn.LeakyReLU(LEAKY_SLOPE))
        self.residual_convs = nn.ModuleList(
            nn.Sequential(
                nn.Identity(),  # the original's dropout, which it never turns on, has this place
                weight_norm(Conv1d(hidden, hidden, 3)),
                nn.LeakyReLU(LEAKY_SLOPE),
                weight_norm(Conv1d(hidden, hidden, 3)),
                nn.LeakyReLU(LEAKY_SLOPE),
            )
            for _ in range(3)
        )
        self.kernel_conv: nn.Conv1d | None = weight_norm(
            nn.Conv1d(hidden, math.prod(self.shape), 3, padding=1)
        )
        self.bias_conv = weight_norm(Conv1d(hidden, layers * channels_out, 3))
        self.register_buffer("kernel_weights", None, persistent=False)
        self.register_buffer("kernel_biases", None, persistent=False)

    def forward(self, features: Float[Tensor, "batch feature frame"]) -> Float[Tensor, "batch hidden frame"]:
        """What `kernels` and `biases` are made of."""
        hidden: Tensor = self.input_conv(features)
        for conv in self.residual_convs:
            hidden = hidden + conv(hidden)
        return hidden

    def biases(
        self, hidden: Float[Tensor, "batch hidden frame"]
    ) -> Float[Tensor, "layer batch frame channel_out"]:
        """Of all layers."""
        biases: Tensor = self.bias_conv(hidden)
        by_layer: Tensor = biases.unflatten(1, (self.shape[0], -1))
        return by_layer.permute(1, 0, 3, 2)

    def kernels(
        self,
        hidden: Float[Tensor, "batch hidden frame"],
        weights: Float[Tensor, "row column"],
        biases: Float[Tensor, " column"],
        start: int,
        stop: int,
    ) -> Float[Tensor, "batch run taps channel_out"]:
        """Of the frames ``start`` to ``stop``, by ``weights`` and ``biases`` of one layer (`matrices`)."""
        window = F.pad(hidden, (1, 1))[..., start : stop + 2].to(weights.dtype)
        rows = torch.cat([window[..., k : k + stop - start] for k in range(3)], dim=1).transpose(1, 2)
        flat = torch.addmm(biases, rows.flatten(0, 1), weights).unflatten(0, rows.shape[:2])
        kernels: Tensor = flat.unflatten(-1, (-1, self.shape[2]))
        return kernels

    def matrices(self) -> tuple[Float[Tensor, "layer row column"], Float[Tensor, "layer column"]]:
        """The last convolution as a matrix and a bias of each layer: (tap, hidden) to (tap, channel in, out).

        Its channels are numbered by (layer, channel in, channel out, tap) in checkpoints. Until the module
        is frozen they are laid out anew at every call, because the weights may have changed.
        """
        if self.kernel_conv is None:
            return self.kernel_weights, self.kernel_biases
        assert self.kernel_conv.bias is not None
        weight = self.kernel_conv.weight.unflatten(0, self.shape)
        weights = weight.permute(0, 5, 4, 3, 1, 2).flatten(3).flatten(1, 2)
        return weights, self.kernel_conv.bias.unflatten(0, self.shape).permute(0, 3, 1, 2).flatten(1)

    def freeze(self, dtype: torch.dtype) -> None:
        """Keep the weights as the matrices that they are used as."""
        weights, biases = self.matrices()
        self.kernel_weights, self.kernel_biases = (
            weights.to(dtype).contiguous(),
            biases.to(dtype).contiguous(),
        )
        self.kernel_conv = None


class UpsamplingConv(nn.ConvTranspose1d):
    """Transposed convolution whose kernel is two strides long, as one matrix product."""

    frozen_matrix: Tensor | None
    frozen_bias: Tensor | None

    def __init__(self, channels: int, stride: int) -> None:
        """Build with random weights."""
        super().__init__(channels, channels, 2 * stride, stride)
        self._crop = stride // 2 + stride % 2
        self.register_buffer("frozen_matrix", None, persistent=False)
        self.register_buffer("frozen_bias", None, persistent=False)

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch channel time"]
    ) -> Float[Tensor, "batch channel time_out"]:
        """Exactly ``stride`` times as many samples."""
        stride, length = self.stride[0], x.shape[-1]
        matrix, bias = self._matrix()
        # Each run of outputs hears one sample and the one before: two of them side by side are a row.
        padded = F.pad(x.transpose(1, 2).to(matrix.dtype), (0, 0, 1, 1)).contiguous()
        batch, _, channels = padded.shape
        rows = padded.as_strided((batch, length + 1, 2 * channels), (padded.stride(0), channels, 1))
        full = torch.addmm(bias, rows.reshape(-1, 2 * channels), matrix).view(batch, -1, channels)
        return full[:, self._crop : self._crop + stride * length].transpose(1, 2)

    def _matrix(self) -> tuple[Float[Tensor, "row column"], Float[Tensor, " column"]]:
        """The weights from (sample before, sample) to (output, channel out), and the bias of each column."""
        if self.frozen_matrix is not None:
            assert self.frozen_bias is not None
            return self.frozen_matrix, self.frozen_bias
        assert self.bias is not None
        taps = self.weight.unflatten(2, (2, self.stride[0]))  # the later half is of the sample before
        matrix = taps.permute(2, 0, 3, 1).flip(0).flatten(2).flatten(0, 1)
        return matrix, self.bias.repeat(self.stride[0])

    def freeze(self, dtype: torch.dtype) -> None:
        """Take ``dtype``; the matrix lies in memory as it is used."""
        matrix, bias = self._matrix()
        self.frozen_matrix, self.frozen_bias = matrix.to(dtype).contiguous(), bias.to(dtype)


AMP_REACH = 3 * (1 + 6) + (1 + 3 + 5)
"""Samples on each side that `AmpBlock` sees."""


class AmpBlock(nn.Sequential):
    """``x`` plus three stages of (dilated convolution, anti-aliased activation, convolution) of it."""

    def __init__(self, channels: int, dilations: tuple[int, ...] = (1, 3, 5)) -> None:
        """Build at constant width, with random weights."""
        super().__init__(
            *(
                nn.Sequential(
                    weight_norm(Conv1d(channels, channels, 3, dilation=dilation)),
                    AntiAliasedSnake(channels),
                    weight_norm(Conv1d(channels, channels, 3)),
                )
                for dilation in dilations
            )
        )

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
        """Add the branch to ``x``, in float32."""
        length = x.shape[-1]
        if torch.is_grad_enabled() or x.device.type != "cpu" or length <= 2 * _CACHED_SAMPLES:
            branch: Tensor = super().forward(x)
            return x + branch
        out = torch.empty_like(x)
        for start in range(0, length, _CACHED_SAMPLES):
            stop = min(start + _CACHED_SAMPLES, length)
            first = max(0, start - AMP_REACH)
            branch = super().forward(x[..., first : min(stop + AMP_REACH, length)])
            torch.add(x[..., start:stop], branch[..., start - first : stop - first], out=out[..., start:stop])
        return out


class AntiAliasedSnake(nn.Module):
    """`SnakeBeta` at twice the rate, so that what it adds above half the rate can be cut off; in float32."""

    def __init__(self, channels: int) -> None:
        """Build with frequency and amplitude 1."""
        super().__init__()
        self.upsample = Lowpass()
        self.act = SnakeBeta(channels)
        self.downsample = Downsample()
        self._snake = kernels.snake

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
        """Activate."""
        up, down = self.upsample.filter.flatten(), self.downsample.lowpass.filter.flatten()
        return self._snake(x.transpose(1, 2), *self.act.scales(), up, down).transpose(1, 2)

    def compile_kernels(self) -> None:
        """Compile all of it (`kernels.compiled`)."""
        self._snake = kernels.compiled(kernels.snake)


class SnakeBeta(nn.Module):
    """Frequency and amplitude of `kernels.snake`, of each channel, under the names that they have in
    checkpoints."""

    def __init__(self, channels: int) -> None:
        """Build with both 1."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(channels))
        self.log_beta = nn.Parameter(torch.zeros(channels))

    def scales(self) -> tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]:
        """Frequency alpha and amplitude 1 / beta, with both Greek letters in [0.01, 50]."""
        alpha, beta = (log.exp().clamp(0.01, 50) for log in (self.log_alpha, self.log_beta))
        return alpha, beta.reciprocal()


class Lowpass(nn.Module):
    """A filter, in a module of its own because checkpoints name it so and carry theirs (spec 8.2)."""

    filter: Tensor

    def __init__(self, ratio: int = 2) -> None:
        """The filter of `kaiser_low_pass`."""
        super().__init__()
        self.register_buffer("filter", kaiser_low_pass(ratio)[None, None])


class Downsample(nn.Module):
    """Holds a `Lowpass`."""

    def __init__(self) -> None:
        """For half the rate."""
        super().__init__()
        self.lowpass = Lowpass()


def kaiser_low_pass(ratio: int) -> Float[Tensor, " tap"]:
    """Low-pass filter for a change of rate by ``ratio``: cutoff 0.5 / ratio, transition 0.6 / ratio of the
    rate.

    Kaiser's window and his formulas for its shape and length: J. F. Kaiser, "Nonrecursive digital filter
    design using the I0-sinh window function", ISCAS 1974. Sums to one.
    """
    taps = 6 * ratio // 2 * 2
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * (0.6 / ratio) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(taps, periodic=False, beta=beta)
    time = torch.arange(taps) - (taps - 1) / 2
    sinc = torch.sinc(time / ratio)
    impulse = window * sinc
    return impulse / impulse.sum()
