"""Samples that were too loud for a recorder, made anew from those that were not.

Where a wave was cut off flat, its true samples are known to lie beyond, and the rest of a frame says how:
speech is made of few partials, and of all waves that agree with the samples that are whole and go beyond the
limit where it was cut, the one with the sparsest spectrum is sought (A-SPADE; Kitic, Bertin and Gribonval
2015, "Sparsity and cosparsity for audio declipping", LVA/ICA, algorithm 2). That needs no training, and
leaves whole samples as they are.

What was bent and not cut, or coded after it was cut, has no flat tops and is left alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_BLOCK_SECONDS = 0.5
"""In which a limit is looked for: it may change with the volume."""
_TOLERANCE = 1.5 / 32768
"""By how much samples of a flat top may differ: they may have been rounded to 16 bits since."""
_RUN, _RUNS, _SAMPLES = 2, 4, 12
"""Fewest samples of a flat top, fewest flat tops of one height in a block, and samples in them together."""
_LARGEST_SHARE = 0.4
"""Of samples at the limit; where it is more, it was meant so (a square wave), or nothing can be told."""
_LEAST_LEVEL = 0.01
"""Of a limit: what is quieter was not too loud for anything."""

_WINDOW_SECONDS = 0.046
_OVERLAP = 4
_REDUNDANCY = 2
_ITERATIONS = 100
_STEP = 4
"""Partials that are added after each iteration."""
_RESIDUAL = 0.03
"""Distance of the wave from its sparse self, relative to it, at which the search ends."""
_LOOK_EVERY = 5
"""Iterations after which that is looked at."""


def declip(waveform: Float[Tensor, "channel time"], sample_rate: int) -> Float[Tensor, "channel time"]:
    """Restore what was cut off; where nothing was, the same samples.

    Args:
        waveform: as it was recorded: not resampled, filtered or coded since it was cut off.
        sample_rate: of it, in Hz.
    """
    if not waveform.shape[-1]:
        return waveform
    mended = [_declipped(channel, *limits_of(channel, sample_rate), sample_rate) for channel in waveform]
    return torch.stack(mended)


def limits_of(
    channel: Float[Tensor, " time"], sample_rate: int
) -> tuple[Bool[Tensor, " time"], Bool[Tensor, " time"]]:
    """Which samples lie at an upper limit, and which at a lower one."""
    return _at_limit(channel, sample_rate), _at_limit(-channel, sample_rate)


def _at_limit(channel: Float[Tensor, " time"], sample_rate: int) -> Bool[Tensor, " time"]:
    size = max(1, round(_BLOCK_SECONDS * sample_rate))
    marked = torch.zeros_like(channel, dtype=torch.bool)
    for start in range(0, channel.numel(), size):
        block = channel[start : start + size]
        top = block.max()
        if top < _LEAST_LEVEL:
            continue
        flat = block >= top - _TOLERANCE
        edges = torch.nn.functional.pad(flat.int(), (1, 1)).diff()
        firsts, lasts = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
        long = lasts - firsts >= _RUN
        samples = int((lasts - firsts)[long].sum())
        if int(long.sum()) < _RUNS or samples < _SAMPLES or samples > _LARGEST_SHARE * block.numel():
            continue
        marked[start : start + size] = flat
    return marked


def _declipped(
    channel: Float[Tensor, " time"],
    above: Bool[Tensor, " time"],
    below: Bool[Tensor, " time"],
    sample_rate: int,
) -> Float[Tensor, " time"]:
    if not (above | below).any():
        return channel
    size = 2 ** round(torch.tensor(_WINDOW_SECONDS * sample_rate).log2().item())
    hop = size // _OVERLAP
    total = -(-(channel.numel() + 2 * size) // hop) * hop
    padding = (size, total - channel.numel() - size)
    window = torch.hann_window(size)

    def framed(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, padding).unfold(0, size, hop)

    frames = framed(channel) * window
    high, low = (framed(marks.float()) > 0.5 for marks in (above, below))
    # All frames that see a sample which was cut off, and no others.
    touched = (high | low).any(-1).nonzero()[:, 0]
    output = torch.zeros(total)
    for index, frame in zip(touched, _sparse(frames[touched], high[touched], low[touched]), strict=True):
        output[index * hop : index * hop + size] += frame
    output = output[size : size + channel.numel()] * (2 / _OVERLAP)  # Hann windows add up to that
    return torch.where(above | below, output, channel)


def _sparse(
    frames: Float[Tensor, "frame time"], high: Bool[Tensor, "frame time"], low: Bool[Tensor, "frame time"]
) -> Float[Tensor, "frame time"]:
    """The sparsest waves that agree with ``frames`` and go beyond them where they are ``high`` or ``low``."""
    size = frames.shape[-1]
    points = _REDUNDANCY * size
    found = torch.empty_like(frames)
    rows = torch.arange(len(frames))
    spectrum = torch.fft.rfft(frames, points, norm="ortho")
    dual = torch.zeros_like(spectrum)
    for iteration in range(1, _ITERATIONS + 1):
        sought = spectrum + dual
        power = _power(sought)
        kept = min(iteration * _STEP, power.shape[-1])
        least = power.topk(kept, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        sparse = torch.where(power >= least, sought, 0)
        # The transform of zero-padded frames is a tight frame: its inverse, cut, undoes it.
        wave = torch.fft.irfft(sparse - dual, points, norm="ortho")[:, :size]
        wave = torch.where(
            low, torch.minimum(wave, frames), torch.where(high, torch.maximum(wave, frames), frames)
        )
        spectrum = torch.fft.rfft(wave, points, norm="ortho")
        rest = spectrum - sparse
        dual += rest
        if iteration % _LOOK_EVERY and iteration < _ITERATIONS:
            continue
        far = _power(rest).sum(-1) > _RESIDUAL**2 * _power(spectrum).sum(-1)
        found[rows] = wave
        if not far.any():
            break
        if not far.all():
            rows, frames, high, low, spectrum, dual = (
                values[far] for values in (rows, frames, high, low, spectrum, dual)
            )
    return found


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()
