"""Layers that the enhancer's networks share, and how they are made ready for inference.

Tensors are (batch, channel, time) to the reader. In memory the channels of one moment lie side by side
wherever a network was frozen: `Conv1d` runs as a convolution over pictures of height one, which
oneDNN and cuDNN compute in that layout without reordering anything, and its outputs keep it.

`freeze` turns a network that was trained into one that only runs: weight norm is folded, the weights of
convolutions get their type, and modules that have a cheaper equal of themselves (`Freezable`) become it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from enhance_ray.models import winograd

Module = TypeVar("Module", bound=nn.Module)

Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over the workers of a training, and lets gradients through."""


def alone(x: Tensor) -> Tensor:
    """The `Total` of a worker that has no others."""
    return x


LEAKY_SLOPE = 0.2
"""Of every leaky rectifier in vocoder and discriminators (spec 4.7, 4.8)."""


@runtime_checkable
class Freezable(Protocol):
    """A module that changes when it is frozen."""

    def freeze(self, dtype: torch.dtype) -> None:
        """Become an equal module that only runs, with convolutions in ``dtype``; its children follow."""
        ...


class Conv1d(nn.Conv1d):
    """Length-preserving convolution; its input is cast to the type of its weights.

    Frozen on a CPU in float32, it is computed as matrix products where these are faster.
    """

    tile_weights: Tensor | None

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        dilation: int = 1,
        bias: bool = True,
        reflect: bool = False,
        precise: bool = False,
    ) -> None:
        """Build for an odd ``kernel``.

        Args:
            channels_in: of the input.
            channels_out: of the output.
            kernel: taps.
            dilation: distance of taps.
            bias: whether there is one.
            reflect: mirror the input at its ends, instead of zeros.
            precise: stay in float32 when frozen.
        """
        super().__init__(channels_in, channels_out, kernel, dilation=dilation, bias=bias)
        self._reach = dilation * (kernel // 2)
        self._reflect = reflect
        self._precise = precise
        self._is_frozen = False
        self.register_buffer("tile_weights", None, persistent=False)

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel_out time"]:
        """Convolve over time."""
        if self.tile_weights is not None:
            rows = winograd.convolve(x.transpose(1, 2), self.tile_weights, self.dilation[0])
            return (rows if self.bias is None else rows.add_(self.bias)).transpose(1, 2)
        x = x.to(self.weight.dtype)
        if self._is_frozen:
            x = channels_innermost(x)
            if self.kernel_size[0] == 1 and x.dtype == torch.float32 and x.device.type == "cpu":
                # torch has no fast convolution of one tap for some small sizes.
                return F.linear(x.transpose(1, 2), self.weight[..., 0], self.bias).transpose(1, 2)
        if self._reflect and self._is_frozen:  # in the layout that it has
            left, right = x[..., 1 : self._reach + 1].flip(-1), x[..., -self._reach - 1 : -1].flip(-1)
            x = torch.cat([part.transpose(1, 2) for part in (left, x, right)], dim=1).transpose(1, 2)
        elif self._reflect:
            x = F.pad(x, (self._reach, self._reach), mode="reflect")
        picture = F.conv2d(
            x[:, :, None],
            self.weight[:, :, None],
            self.bias,
            padding=(0, 0 if self._reflect else self._reach),
            dilation=(1, self.dilation[0]),
        )
        return picture[:, :, 0]

    def freeze(self, dtype: torch.dtype) -> None:
        """Take ``dtype`` and the layout in which channels lie side by side."""
        dtype = torch.float32 if self._precise else dtype
        self._is_frozen = True
        self.weight.data = channels_innermost(self.weight.data.to(dtype))
        if self.bias is not None:
            self.bias.data = self.bias.data.to(dtype)
        if not self._reflect and winograd.pays(self.weight):
            self.tile_weights = winograd.transformed(self.weight.data)
            del self.weight  # twice as many numbers have taken its place


class GroupNorm(nn.GroupNorm):
    """Group norm whose statistics are float32 whatever comes in (spec 8.1); so is its output."""

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
        """Normalise each group over its channels and all of time."""
        # With a height, because only pictures keep their memory layout in here.
        return super().forward(x.float()[:, :, None])[:, :, 0]


class Normalizer(nn.Module):
    """Scalar mean and variance of what a network sees, and the affine map that they define. Spec 4.1.

    Before the first `update` it changes nothing.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, *, momentum: float = 0.01) -> None:
        """Start without statistics; ``momentum`` is the share of each later batch."""
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(float("nan")))
        self.register_buffer("var", torch.tensor(float("nan")))

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Bring ``x`` to mean 0 and standard deviation 1."""
        mean, std = self._statistics()
        return (x - mean) / std

    def inverse(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Undo `forward`."""
        mean, std = self._statistics()
        return x * std + mean

    @torch.no_grad()
    def update(self, x: Float[Tensor, "*shape"], total: Total = alone) -> None:
        """Take the statistics of ``x`` into account; the first call takes them over.

        Args:
            x: what this worker sees.
            total: adds up over workers, so that all have the same statistics.
        """
        fresh = self.mean.isnan()
        count = total(torch.tensor(float(x.numel()), device=x.device))
        batch_mean = total(x.sum()) / count
        # The new mean enters the new variance: the original's order.
        mean = torch.where(fresh, batch_mean, torch.lerp(self.mean, batch_mean, self.momentum))
        spread = total((x - mean).square().sum())
        var = torch.where(fresh, spread / (count - 1), torch.lerp(self.var, spread / count, self.momentum))
        self.mean.copy_(mean)
        self.var.copy_(var)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        # No branch on the value: asking for it would stall a GPU.
        return self.mean.nan_to_num(nan=0.0), (self.var + 1e-9).sqrt().nan_to_num(nan=1.0)


def weight_norm(module: Module) -> Module:
    """Split the weights into length and direction: Salimans and Kingma 2016, arXiv:1602.07868.

    Lengths are over all axes but the first, as in the original; `freeze` folds them again.
    """
    normed: Module = parametrizations.weight_norm(module)
    return normed


def freeze(module: nn.Module, dtype: torch.dtype) -> None:
    """Turn ``module`` into an equal one that only runs, with the convolutions of `Freezable` parts in
    ``dtype``.

    Equal up to rounding (spec 9.4). There is no way back.
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    module.requires_grad_(False)
    _freeze_from_top(module, dtype)


def _freeze_from_top(module: nn.Module, dtype: torch.dtype) -> None:
    if isinstance(module, Freezable):
        module.freeze(dtype)
    for child in module.children():
        _freeze_from_top(child, dtype)


def channels_innermost(x: Float[Tensor, "outer channel time"]) -> Float[Tensor, "outer channel time"]:
    """The same tensor with the middle axis lying side by side in memory; itself if it lies so already."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def leaky(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`LEAKY_SLOPE` below zero."""
    return F.leaky_relu(x, LEAKY_SLOPE)
