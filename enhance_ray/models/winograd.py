"""Convolutions of three taps with less than half of the multiplications: Winograd's F(6, 3) along time.

Six neighbouring outputs of a filter of three taps need eight products of numbers and not eighteen
(S. Winograd 1980, "Arithmetic Complexity of Computations"; for nets: Lavin and Gray 2016, arXiv:1509.09308):

    y = A^T (G w * B^T x)          eight inputs x, six outputs y, three weights w

That is the product of two polynomials by their values at 0, 1, -1, 2, -2, 1/2, -1/2 and infinity. Over
channels, each of the eight products is a matrix product of a sixth of the frames. A convolution whose taps
lie ``dilation`` frames apart is ``dilation`` convolutions without a dilation that do not meet: time is looked
at as (step, phase), and tiles are cut along the steps.

It pays where channels are so many that the sums before and after are little beside the products: for networks
in float32 on a CPU. In other types the differences of B^T would cost digits. The error is about 1e-6 of the
output, twice that of a convolution as it is written down.

Tensors are (batch, time, channel).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TAPS = 3
POINTS = 8
_TILE = 6
"""Outputs of a tile, which sees two inputs more."""
_G = [
    [1, 0, 0],
    [-2 / 9, -2 / 9, -2 / 9],
    [-2 / 9, 2 / 9, -2 / 9],
    [1 / 360, 1 / 180, 1 / 90],
    [1 / 360, -1 / 180, 1 / 90],
    [32 / 45, 16 / 45, 8 / 45],
    [32 / 45, -16 / 45, 8 / 45],
    [0, 0, 1],
]
"""Values of the weights' polynomial, each with what makes the others' coefficients simple numbers."""
_FEWEST_PRODUCTS = 128 * 512
"""Channels in times channels out from which on it is faster than oneDNN's convolutions, for recordings of ten
seconds and more: benchmarks/results/speed_zen4-2cores_202611.md."""


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
) -> Float[Tensor, "point channel channel_out"]:
    """The weights of a convolution as `convolve` takes them, computed in float64."""
    matrix = torch.tensor(_G, dtype=torch.float64, device=weight.device)
    return torch.einsum("pk,oik->pio", matrix, weight.double()).to(weight.dtype).contiguous()


def convolve(
    x: Float[Tensor, "batch time channel"],
    weights: Float[Tensor, "point channel channel_out"],
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
    products = torch.bmm(points.view(POINTS, -1, channels), weights)
    outputs = _interpolate(products.view(POINTS, batch, tiles, -1))
    return outputs.view(batch, _TILE * tiles * dilation, -1)[:, :time]


def _evaluate(
    steps: Float[Tensor, "batch step phase_channel"], tiles: int
) -> Float[Tensor, "point batch tile phase_channel"]:
    """B^T x of every tile."""
    last = _TILE * (tiles - 1) + 1
    x0, x1, x2, x3, x4, x5, x6, x7 = (steps[:, i : i + last : _TILE] for i in range(POINTS))
    points = steps.new_empty(POINTS, len(steps), tiles, steps.shape[-1])
    torch.add(x0 - x6, x4 - x2, alpha=21 / 4, out=points[0])
    torch.add(x7 - x1, x3 - x5, alpha=21 / 4, out=points[7])
    # At a point and its negative the even powers are the same, and the odd ones differ in sign.
    even, odd = (x2 + x6).sub_(x4, alpha=17 / 4), (x1 + x5).sub_(x3, alpha=17 / 4)
    _plus_minus(even, odd, 1, points[1], points[2])
    torch.sub(x2, x4, alpha=5, out=even).add_(x6, alpha=4)
    torch.sub(x1, x3, alpha=5, out=odd).add_(x5, alpha=4)
    _plus_minus(even, odd, 2, points[3], points[4])
    torch.sub(x6, x4, alpha=5, out=even).add_(x2, alpha=4)
    torch.sub(x5, x3, alpha=5, out=odd).add_(x1, alpha=4)
    _plus_minus(even, odd, 1 / 2, points[5], points[6])
    return points


def _plus_minus(even: Tensor, odd: Tensor, factor: float, plus: Tensor, minus: Tensor) -> None:
    """Write the sum and the difference of ``even`` and ``factor`` times ``odd``."""
    torch.add(even, odd, alpha=factor, out=plus)
    torch.sub(even, odd, alpha=factor, out=minus)


def _interpolate(
    products: Float[Tensor, "point batch tile phase_channel"],
) -> Float[Tensor, "batch tile output phase_channel"]:
    """A^T of every tile's products, which are written over."""
    first, *pairs, last = products
    ones, twos, halves = (
        (plus + minus, plus.sub_(minus)) for plus, minus in zip(pairs[::2], pairs[1::2], strict=True)
    )
    outputs = products.new_empty(*first.shape[:2], _TILE, first.shape[-1])
    for power, out in enumerate(outputs.unbind(2)):
        one, two, half = (pair[power % 2] for pair in (ones, twos, halves))
        torch.add(one, two, alpha=2**power, out=out).add_(half, alpha=0.5**power)
    outputs[:, :, 0].add_(first)
    outputs[:, :, -1].add_(last)
    return outputs
