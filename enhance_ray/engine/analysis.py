"""From the blocks of a recording to pieces for a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from enhance_ray.dsp.bandwidth import BandMeter
from enhance_ray.dsp.concealment import conceal
from enhance_ray.dsp.declip import declip
from enhance_ray.dsp.levels import GainCurve
from enhance_ray.dsp.mending import Mender
from enhance_ray.dsp.resample import StreamingResampler
from enhance_ray.dsp.segments import Segment, Splitter
from enhance_ray.engine.framing import Framing
from enhance_ray.errors import AudioError, ConfigError
from enhance_ray.options import MODEL_RATE, EnhanceOptions

BLOCK_SECONDS = 10
"""Of a recording that are worked on at once before the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One segment of a recording on its way through the model."""

    segment: Segment
    rows: Tensor
    """(channel, row): at 44.1 kHz, with a peak of 1, zeros appended up to the length of a row."""
    peaks: Tensor
    """(channel, 1): what each row was divided by, as the model does by itself."""
    gains: Tensor
    """(time,): what all of them were divided by before, the gain curve."""
    cuts: Tensor
    """(channel,): where the band of each ends, in Hz, by all that was heard up to the end of this piece;
    infinite where nothing was cut off, and where no model asks (`Framing.keeps_waves`)."""


class Analysis:
    """Turns the blocks of one recording into pieces for the model."""

    def __init__(
        self,
        framing: Framing,
        sample_rate: int,
        channels: int,
        options: EnhanceOptions,
        *,
        name: str,
        live: bool = False,
    ) -> None:
        """Begin a recording.

        Args:
            framing: of the model that the pieces are for.
            sample_rate: of the blocks, in Hz.
            channels: of the blocks.
            options: of which segments and channels count.
            name: what errors call the recording.
            live: it must not wait: levels do not look ahead.
        """
        self._framing = framing
        self._sample_rate = sample_rate
        self._channels = channels
        self._mono = options.channels == "mono"
        self._name = name
        self._received = 0
        shapes = options.mode == "enhance" and framing.keeps_waves
        repairs = [conceal] * options.conceal + [declip] * options.declip if shapes else []
        self._mender = Mender(repairs, channels, sample_rate) if repairs else None
        self._resampler = StreamingResampler(sample_rate, MODEL_RATE, channels=self.channels)
        self._curve = GainCurve(live=live)
        self._band = BandMeter(self.channels, sample_rate) if shapes else None
        self._heard = 0  # samples that the band was measured of
        self._waiting = torch.zeros(self.channels, 0)  # for the curve, which looks ahead
        self._layout = framing.layout(options)
        self._splitter = Splitter(self._layout)

    @property
    def channels(self) -> int:
        """Of the pieces."""
        return 1 if self._mono else self._channels

    @property
    def seconds(self) -> float:
        """Of the recording that have come so far."""
        return self._received / self._sample_rate

    def pieces(self, blocks: Iterable[Tensor]) -> Iterator[Piece]:
        """The pieces of a recording that has these (channel, time) ``blocks``: `push` and `finish` in one."""
        for block in blocks:
            yield from self.push(block)
        yield from self.finish()

    def push(self, block: Tensor) -> Iterator[Piece]:
        """Take the next (channel, time) ``block`` and yield the pieces that are complete.

        Raises:
            AudioError: a sample is NaN or infinite.
            ConfigError: the block has not the shape that was announced.
        """
        if block.ndim != 2 or len(block) != self._channels:
            raise ConfigError(
                "waveform", f"expected ({self._channels}, time) for a block, got shape {tuple(block.shape)}"
            )
        for part in block.split(BLOCK_SECONDS * self._sample_rate, dim=-1):
            self._refuse_non_finite(part)
            self._received += part.shape[-1]
            yield from self._take(part if self._mender is None else self._mender.push(part))

    def finish(self) -> Iterator[Piece]:
        """Yield what is left after the last block.

        Raises:
            AudioError: there was no sample at all.
        """
        if self._received == 0:
            raise AudioError(self._name, "it has no samples")
        if self._mender is not None:
            yield from self._take(self._mender.finish())
        resampled = self._resampler.finish()
        gains = torch.cat([self._curve.push(resampled), self._curve.finish()])
        yield from self._cut(resampled, gains)
        for segment, cut in self._splitter.finish():
            yield self._piece(segment, cut)

    def _take(self, part: Tensor) -> Iterator[Piece]:
        resampled = self._resampler.push(part.mean(0, keepdim=True) if self._mono else part)
        yield from self._cut(resampled, self._curve.push(resampled))

    def _cut(self, waveform: Tensor, gains: Tensor) -> Iterator[Piece]:
        self._waiting = torch.cat([self._waiting, waveform], dim=-1)
        decided, self._waiting = self._waiting.tensor_split([len(gains)], dim=-1)
        # The gains are cut as one more channel, so that each segment comes with its own.
        for segment, cut in self._splitter.push(torch.cat([decided / gains, gains[None]])):
            yield self._piece(segment, cut)

    def _piece(self, segment: Segment, cut: Tensor) -> Piece:
        waveform, gains = cut[:-1], cut[-1]
        cuts = torch.full((self.channels,), torch.inf)
        if self._band is not None:
            self._band.push(waveform[:, max(0, self._heard - segment.start) :])
            self._heard = segment.start + waveform.shape[-1]
            cuts = self._band.cuts
        # The denoiser normalises each row by itself: done here before, it can be undone.
        peaks = waveform.abs().amax(-1, keepdim=True).clamp_min(1e-7)
        # A last segment that was moved back onto the grid lacks less than a frame of the others' length.
        whole = self._layout.length if segment.start else waveform.shape[-1]
        padding = self._framing.row_length(whole) - waveform.shape[-1]
        rows = nn.functional.pad(waveform / peaks, (0, padding))
        return Piece(segment, rows, peaks, gains.clone(), cuts)

    def _refuse_non_finite(self, block: Tensor) -> None:
        finite = block.isfinite()
        if not finite.all():
            position = self._received + int((~finite).any(0).nonzero()[0])
            raise AudioError(
                self._name, f"it holds NaN or infinite samples at {position / self._sample_rate:.2f} s"
            )
