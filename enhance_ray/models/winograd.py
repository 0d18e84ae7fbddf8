"""Convolutions of three taps with half of the multiplications: Winograd's F(4, 3) along time.

Four neighbouring outputs of a filter of three taps need six products of numbers and not twelve (S. Winograd
1980, "Arithmetic Complexity of Computations"; for nets: Lavin and Gray 2016, arXiv:1509.09308):

    y = A^T (G w * B^T x)          six inputs x, four outputs y, three weights w

Over channels, each of the six products is a matrix product of a quarter of the frames. A convolution whose
taps lie ``dilation`` frames apart is ``dilation`` convolutions without a dilation that do not meet: time is
looked at as (step, phase), and tiles are cut along the steps.

It pays where a processor multiplies no faster than it adds, and where channels are so many that the sums before
and after are little beside the products: for networks in float32 on a CPU. In other types the differences of
B^T would cost digits. The error is that of float32, about 1e-6 of the output.

Tensors are (batch, time, channel).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TAPS = 3
_TILE = 4
"""Outputs of a tile, which sees two inputs more."""
_G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]] + [
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
"""Values of the weights' polynomial at 0, 1, -1, 2, -2 and infinity, each with its factor of Lagrange."""
_FEWEST_PRODUCTS = 128 * 512
"""Channels in times channels out from which on it is faster than oneDNN's convolutions, for recordings of ten
seconds and more: benchmarks/results/speed_avx2-2cores_202611.md."""


def pays(weight: Float[Tensor, "channel_out channel tap"]) -> bool:
    """Whether a convolution with ``weight`` is faster in tiles, on the device where the weight lies."""
    channels_out, channels, taps = weight.shape
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and taps == TAPS
        and channels_out * channels >= _FEWEST_PRODUCTS
    )


def transformed(
    weight: Float[Tensor, "channel_out channel 3"],
) -> Float[Tensor, "6 channel channel_out"]:
    """The weights of a convolution as `convolve` takes them, computed in float64."""
    matrix = torch.tensor(_G, dtype=torch.float64, device=weight.device)
    return torch.einsum("pk,oik->pio", matrix, weight.double()).to(weight.dtype).contiguous()


def convolve(
    x: Float[Tensor, "batch time channel"],
    weights: Float[Tensor, "6 channel channel_out"],
    dilation: int,
    bias: Float[Tensor, "#batch 1 channel"] | None = None,
) -> Float[Tensor, "batch time channel_out"]:
    """The convolution of ``x``, plus ``bias`` if there is one, with zeros beyond its ends.

    Args:
        x: signal.
        weights: of `transformed`.
        dilation: distance of the taps in frames.
        bias: of the input: inside ``x``, not in the zeros around it.
    """
    batch, time, channels = x.shape
    tiles = -(-time // (_TILE * dilation))
    rows = x.new_empty(batch, (_TILE * tiles + 2) * dilation, channels)
    rows[:, :dilation] = 0
    rows[:, dilation + time :] = 0
    inside = rows[:, dilation : dilation + time]
    if bias is None:
        inside.copy_(x)
    else:
        torch.add(x, bias, out=inside)
    points = _evaluate(rows.view(batch, -1, dilation * channels), tiles)
    products = torch.bmm(points.view(len(weights), -1, channels), weights)
    outputs = _interpolate(products.view(len(weights), batch, tiles, -1))
    return outputs.view(batch, _TILE * tiles * dilation, -1)[:, :time]


def _evaluate(
    steps: Float[Tensor, "batch step phase_channel"], tiles: int
) -> Float[Tensor, "6 batch tile phase_channel"]:
    """B^T x of every tile."""
    x0, x1, x2, x3, x4, x5 = (steps[:, i : i + _TILE * (tiles - 1) + 1 : _TILE] for i in range(_TILE + 2))
    points = steps.new_empty(_TILE + 2, len(steps), tiles, steps.shape[-1])
    even, odd = torch.sub(x4, x2, alpha=4), torch.sub(x3, x1, alpha=4)
    torch.add(even, odd, out=points[1])
    torch.sub(even, odd, out=points[2])
    even, odd = torch.sub(x4, x2, out=even), torch.sub(x3, x1, out=odd)
    torch.add(even, odd, alpha=2, out=points[3])
    torch.sub(even, odd, alpha=2, out=points[4])
    torch.add(even, x0 - x2, alpha=4, out=points[0])
    torch.sub(x5 - x3, odd, alpha=4, out=points[5])
    return points


def _interpolate(
    products: Float[Tensor, "6 batch tile phase_channel"],
) -> Float[Tensor, "batch tile 4 phase_channel"]:
    """A^T of every tile's products, which are written over."""
    first, one, minus_one, two, minus_two, last = products
    outputs = products.new_empty(*one.shape[:2], _TILE, one.shape[-1])
    even, odd = one + minus_one, one.sub_(minus_one)
    even_2, odd_2 = two + minus_two, two.sub_(minus_two)
    torch.add(first.add_(even), even_2, out=outputs[:, :, 0])
    torch.add(odd, odd_2, alpha=2, out=outputs[:, :, 1])
    torch.add(even, even_2, alpha=4, out=outputs[:, :, 2])
    torch.add(last.add_(odd), odd_2, alpha=8, out=outputs[:, :, 3])
    return outputs
