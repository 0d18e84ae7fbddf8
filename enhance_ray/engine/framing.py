"""How recordings are cut for a model."""

from __future__ import annotations

from dataclasses import dataclass

from enhance_ray.dsp.segments import Layout
from enhance_ray.settings.options import MODEL_RATE, Segments


@dataclass(frozen=True, slots=True)
class Framing:
    """What cutting recordings up has to know of a model."""

    hop: int = 420
    """Samples of one frame; the model answers whole frames only."""
    shortest: int = 841
    """Fewest samples that the model takes."""
    keeps_waves: bool = False
    """Whether its enhanced sound is shaped of what comes in, so that what was clipped is better mended
    before; the original's is made anew."""

    def layout(self, options: Segments) -> Layout:
        """How recordings are cut, so that every segment starts with a frame.

        Segments are up to a frame longer than the options say.
        """
        overlap = round(options.overlap_seconds * MODEL_RATE)
        context = round(options.context_seconds * MODEL_RATE)
        margins = overlap + 2 * context
        advance = round(options.segment_seconds * MODEL_RATE) - margins
        advance += -advance % self.hop
        return Layout(length=advance + margins, overlap=overlap, context=context, grid=self.hop)

    def row_length(self, samples: int) -> int:
        """Length to which a segment of ``samples`` is padded with zeros before the model.

        It leaves as many whole frames as the reference has, which appends 441 samples (spec 5.1), and
        what the model answers covers the segment. Segments of one frame count share one length, so
        that they may share a batch: the model's norms pool over time, padding to a common length
        would change the result.
        """
        frames = max((samples + self.hop + 21) // self.hop, self.shortest // self.hop)
        return frames * self.hop + 21
