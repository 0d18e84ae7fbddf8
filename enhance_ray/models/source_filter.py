"""A vocoder that filters what is there: the compact models' alternative to UnivNet.

    features, mel of the guide -> net -> three gains per band and frame
    guide (what came in, denoised) ──── spectrum ──────────────── x gain ─┐
    rectified guide ─────────────────── spectrum, whitened ────── x gain ─┼─> inverse STFT -> waveform
    noise ───────────────────────────── spectrum ──────────────── x gain ─┘

A vocoder that makes every phase anew has to be trained for weeks. Most of a recording's phase is fine,
though: here the guide brings it, and the net says how loud each part is to be, which it learns in an hour.
What the guide lacks comes from two sources. Rectifying a voiced sound repeats its harmonics up to any
frequency, in step with its pitch (Makhoul and Berouti 1979, "High-frequency regeneration in speech coding
systems"); the rest is shaped noise, as in Engel et al. 2020, "DDSP", arXiv:2001.04643.

Where the guide has all that is needed, it is the better witness: `SourceFilterConfig.fill_below_db` makes the
answer fill its gaps alone.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.dsp.stft import istft, stft
from enhance_ray.errors import ConfigError
from enhance_ray.models.autoencoder import ResidualBlock
from enhance_ray.models.denoiser import band_matrices
from enhance_ray.models.layers import Conv1d
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import Count, Whole
from enhance_ray.settings.schema import settings

_SOURCES = 3
_ENVELOPE_BANDS = 32
"""Bands in which the rectified guide is whitened: wider than a harmonic's distance where it matters."""
_ENVELOPE_FLOOR = 1e-3
"""Magnitude below which a source counts as silent, where white noise of the guide's peak has 1."""
_LOUDEST = 3.0
"""Largest logarithm of a gain: 26 dB."""
_QUIET = -5.0
"""Logarithm of the made sources' gains in a net that has learned nothing: -43 dB."""
_NEIGHBOURS = (9, 5)
"""Bins and frames over which powers are averaged before guide and answer are compared."""
_EDGE_HZ = 200.0
"""Width of the step from what is left alone to what is filled."""
_PAUSE = 2.5e-6
"""Power of the guide, whose peak is 1, below which a frame is taken for a pause: -56 dB."""


@settings
class SourceFilterConfig:
    """Sizes of the source-filter vocoder."""

    n_fft: Count = 1680
    """Window and transform length in samples."""
    hop: Count = 420
    """Samples a frame."""
    bands: Annotated[int, Ge(_ENVELOPE_BANDS)] = 192
    """Bands that have a gain each; the lower half are single bins."""
    hidden: Count = 256
    """Channels inside."""
    blocks: Whole = 2
    """Residual blocks."""
    groups: Count = 16
    """Groups of the norms."""
    fill_below_db: float | None = None
    """Where the guide is louder than this, against the answer that the net would give, it stays as it is, and
    in pauses; None takes the answer everywhere. Not in training, where all of the answer is judged."""
    fill_gain: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Factor of what fills gaps: listeners and PESQ mind what is too much more than what lacks."""

    def __post_init__(self) -> None:
        if self.hop * 2 > self.n_fft or self.n_fft % 2:
            raise ConfigError("n_fft", f"must be even and at least twice hop ({self.hop}), got {self.n_fft}")
        if self.bands > self.n_fft // 2:
            raise ConfigError("bands", f"must be at most n_fft / 2 ({self.n_fft // 2}), got {self.bands}")
        if self.hidden % self.groups:
            raise ConfigError("hidden", f"must be a multiple of groups ({self.groups}), got {self.hidden}")


class SourceFilterVocoder(nn.Module):
    """Features (batch, feature, frame), a guide and noise to a waveform."""

    merge_wide: Tensor
    spread_wide: Tensor

    def __init__(self, features: int, mels: int, config: SourceFilterConfig) -> None:
        """Build for ``features`` channels and guides with mels of ``mels`` bands; it starts as the guide."""
        super().__init__()
        self.config = config
        self.net = nn.Sequential(
            Conv1d(features + mels, config.hidden, 3),
            *(ResidualBlock(config.hidden, config.groups) for _ in range(config.blocks)),
            nn.GELU(),
            Conv1d(config.hidden, _SOURCES * config.bands, 1, precise=True),
        )
        last = self.net[-1]
        assert isinstance(last, Conv1d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        bins = config.n_fft // 2 + 1
        with torch.device("cpu"):  # also in a net that is built without memory
            _, spread = band_matrices(bins, config.bands)
            merge_wide, spread_wide = band_matrices(bins, _ENVELOPE_BANDS)
        self.register_buffer("spread", spread, persistent=False)  # follow from the config
        self.register_buffer("merge_wide", merge_wide, persistent=False)
        self.register_buffer("spread_wide", spread_wide, persistent=False)

    def forward(
        self,
        features: Float[Tensor, "batch feature frame"],
        guide: Float[Tensor, "batch time"],
        guide_mel: Float[Tensor, "batch mel frame"],
        noise: Float[Tensor, "batch hop frame"],
        cuts: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time"]:
        """Waveform of ``hop`` samples a frame, at the level that ``features`` stand for.

        Args:
            features: of the autoencoder's decoder.
            guide: ``frame * hop`` samples with a peak of about 1, whose phase and harmonics are used.
            guide_mel: its normalised mel.
            noise: standard normal, a frame's samples in a column.
            cuts: Hz; where gaps alone are filled, what lies below its row's cut has none.
        """
        gains = self.net(torch.cat([features, guide_mel.to(features)], dim=1)).float()
        # In float32, training included: products in bfloat16 would be heard.
        with torch.autocast(guide.device.type, enabled=False):
            # A step in gain from one band to the next would ring; between their centres it is a line in dB.
            gains = torch.einsum("fk,bskt->bsft", self.spread, gains.unflatten(1, (_SOURCES, -1)))
            quiet = gains.new_tensor([0.0, _QUIET, _QUIET])[:, None, None]
            gains = (gains + quiet).clamp(max=_LOUDEST).exp()
            # As pairs of real numbers: products of real and complex tensors would make all complex first.
            sources = [torch.view_as_real(source) for source in self.sources(guide, noise)]
            parts = zip(gains.unbind(1), sources, strict=True)
            first, second, third = (gain[..., None] * source for gain, source in parts)
            answer = first + second + third
            if self.config.fill_below_db is not None and not self.training:
                share = _gaps(sources[0], answer, self.config.fill_below_db)
                share = self.config.fill_gain * share
                if cuts is not None:
                    share = share * _above(cuts.to(share), share.shape[1])[..., None]
                answer = torch.lerp(sources[0], answer, share[..., None])
        return self._white_magnitude * istft(
            torch.view_as_complex(answer),
            n_fft=self.config.n_fft,
            hop=self.config.hop,
            length=guide.shape[-1],
        )

    def sources(
        self, guide: Float[Tensor, "batch time"], noise: Float[Tensor, "batch hop frame"]
    ) -> list[Complex[Tensor, "batch freq frame"]]:
        """Spectra of the guide, of its rectified self with a flat envelope, and of the noise.

        They are scaled so that white noise of power 1 has a mean square of 1 in every bin.
        """
        rectified = guide.abs()
        made = self._spectrum(rectified)
        power = _power(torch.view_as_real(made))
        envelope = (self.spread_wide @ (self.merge_wide @ power)).clamp_min(0)
        white = made / (envelope.sqrt() + _ENVELOPE_FLOOR)
        return [self._spectrum(guide), white, self._spectrum(noise.transpose(1, 2).flatten(1).to(guide))]

    @property
    def _white_magnitude(self) -> float:
        """Root mean square magnitude of white noise of power 1 in a transform with a Hann window."""
        return math.sqrt(0.375 * self.config.n_fft)

    def _spectrum(self, waveform: Float[Tensor, "batch time"]) -> Complex[Tensor, "batch freq frame"]:
        return stft(waveform, n_fft=self.config.n_fft, hop=self.config.hop) / self._white_magnitude


def _gaps(
    guide: Float[Tensor, "batch freq frame 2"], answer: Float[Tensor, "batch freq frame 2"], below_db: float
) -> Float[Tensor, "batch freq frame"]:
    """How much of the ``answer`` each bin takes, from 0 to 1: all where the ``guide`` has nothing."""
    power = _power(guide)
    frame = power.mean(dim=1, keepdim=True)
    power, wanted = (mean_around(each, _NEIGHBOURS) for each in (power, _power(answer)))
    wanted = 10 ** (below_db / 10) * wanted
    lacking = wanted.square() / (wanted.square() + power.square() + torch.finfo(power.dtype).tiny)
    return lacking * frame / (frame + _PAUSE)


def _above(cuts: Float[Tensor, " batch"], bins: int) -> Float[Tensor, "batch freq"]:
    """0 below each cut and 1 above, with a line between."""
    frequencies = torch.linspace(0, MODEL_RATE / 2, bins, device=cuts.device)
    return ((frequencies - cuts[:, None]) / _EDGE_HZ + 0.5).clamp(0, 1)


def _power(spectrum: Float[Tensor, "batch freq frame 2"]) -> Float[Tensor, "batch freq frame"]:
    return spectrum.square().sum(-1)


def mean_around(
    power: Float[Tensor, "batch freq frame"], neighbours: tuple[int, int]
) -> Float[Tensor, "batch freq frame"]:
    """The mean over each bin and its ``neighbours``: odd numbers of bins and frames, fewer at the edges."""
    # One axis after the other, which is the same: at the edges, too, each mean is over a rectangle.
    for size in ((neighbours[0], 1), (1, neighbours[1])):
        power = F.avg_pool2d(power, size, 1, (size[0] // 2, size[1] // 2), count_include_pad=False)
    return power
