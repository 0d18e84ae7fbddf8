"""The denoiser: a U-Net that looks at a spectrogram and predicts a mask and a rotation of every bin's phase.

    S = STFT(x / max|x|)          features(S) -> U-Net -> (a, r, i)
    S' = |S| sigmoid(a) * exp(j (angle(S) + rotation(tanh r, tanh i)))          y = inverse STFT(S')

At the defaults it is the original's, number for number (spec 3). Two settings make a smaller one:
`features="compressed"` shows the net the spectrum with its magnitude raised to the power of 0.3,
which a narrow net needs and the original lacks; `bands` merges neighbouring bins, singly kept at
the bottom where pitch harmonics lie and ever broader above, so that the net works on a map that is
several times smaller. A third, `attenuation_limit_db`, spares recordings that need next to nothing.

With `residual` the net can add as well as take away, which makes it one that repairs: what clipping, lost
packets and codecs took is in no bin that a mask could open.

    S' = |S| sigmoid(a) * exp(j ...) + u * S + v * near + w * far

where u, v and w are complex numbers of each bin, and near and far are what its neighbours in time would be in
its place (`neighbours`): a phase cannot be guessed in bands, and they bring one. With `sees_mixture` such a
net stands behind a denoiser and is shown what that was shown, too, of which it adds a part in the same way:
what was taken for noise can come back, and what is left of the noise can be told from the voice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from enhance_ray.dsp.mel import erb_weights
from enhance_ray.dsp.stft import istft, stft
from enhance_ray.errors import ConfigError
from enhance_ray.models.unet import UNet
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import Count, Positive, Whole
from enhance_ray.settings.schema import settings

COMPRESSION = 0.3
"""Power of the magnitude in compressed features; Ephrat et al. 2018, arXiv:1804.03619, section 4."""

_TILE = 512
"""Frames; a training crop is one tile."""

_NEAR, _FAR = ((1, 1.0), (2, 0.5)), ((3, 1.0), (4, 0.8), (5, 0.6))
"""Distances in frames and weights of what is added from on either side: up to a gap's length."""

_LOUDEST = 4.0
"""Bound of the factors of what is added: 12 dB."""

_FAINTEST = 0.05
"""A mixture is scaled like what was denoised from it, which counts as no fainter than this beside it: its
level is -26 dB of the mixture's at least."""

_FAINT_DB = (25.0, 30.0)
"""Speech over noise from which noise counts as faint: not at all, and wholly."""
_FAINT_SECONDS = 3.0
"""How long that is averaged: pauses are judged with the speech around them."""


@settings
class DenoiserConfig:
    """Sizes of a denoiser. The defaults are the original's."""

    n_fft: Count = 1680
    """Window and transform length in samples; more than half of it is the shortest input."""
    hop: Count = 420
    """Samples per frame."""
    hidden: Count = 16
    """Channels of the U-Net at full resolution."""
    blocks: Count = 4
    """Levels of the U-Net; each halves both axes and doubles the channels."""
    middle_blocks: Whole = 2
    """Blocks at the lowest resolution."""
    recurrent: Whole = 0
    """Units in each direction of a recurrent block after them, which the original lacks; 0 is none."""
    features: Literal["polar", "compressed"] = "polar"
    """What the net sees of a bin: (magnitude, cos, sin), or (m, m cos, m sin) with m = magnitude ** 0.3."""
    bands: Annotated[int, Ge(4)] | None = None
    """Bands that the bins are merged into; None keeps every bin."""
    residual: bool = False
    """Add to every bin what the net chooses of its neighbours in time; the original only takes away."""
    sees_mixture: bool = False
    """Show the net a second recording as well, from which the first was made, and add what it chooses of it;
    needs `residual`. The original's sees one."""
    attenuation_limit_db: Positive | None = None
    """Most attenuation where noise is faint (`Denoiser.faintness`), since there a net takes more of the
    speech with it than the noise is worth; None sets no limit, as in the original. Not in training, where
    the net's own answer is judged."""

    def __post_init__(self) -> None:
        if self.hop * 2 > self.n_fft or self.n_fft % 2:
            raise ConfigError("n_fft", f"must be even and at least twice hop ({self.hop}), got {self.n_fft}")
        if self.bands is not None and self.bands > self.n_fft // 2:
            raise ConfigError("bands", f"must be at most n_fft / 2 ({self.n_fft // 2}), got {self.bands}")
        if self.sees_mixture and not self.residual:
            raise ConfigError("sees_mixture", "needs residual")


class Denoiser(nn.Module):
    """Noisy waveform -> speech waveform, time-aligned."""

    merge: Tensor
    spread: Tensor

    def __init__(self, config: DenoiserConfig | None = None) -> None:
        """Build with random weights; ``config`` defaults to the original's sizes."""
        super().__init__()
        self.config = config or DenoiserConfig()
        self.net = UNet(
            6 if self.config.sees_mixture else 3,
            3 + 2 * (3 * self.config.residual + self.config.sees_mixture),
            hidden=self.config.hidden,
            blocks=self.config.blocks,
            middle_blocks=self.config.middle_blocks,
            recurrent=self.config.recurrent,
        )
        if self.config.residual:  # it begins with next to nothing
            with torch.no_grad():
                for weights in self.net.head[-1].parameters():
                    weights[3:] *= 0.03
        if self.config.bands is not None:
            with torch.device("cpu"):  # also in a net that is built without memory
                merge, spread = band_matrices(self.config.n_fft // 2 + 1, self.config.bands)
            self.register_buffer("merge", merge, persistent=False)  # follow from the config
            self.register_buffer("spread", spread, persistent=False)

    @property
    def shortest(self) -> int:
        """Fewest samples that `forward` takes: reflection at the borders needs them."""
        return self.config.n_fft // 2 + 1

    def forward(
        self, waveform: Float[Tensor, "batch time"], mixture: Float[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time"]:
        """Remove what is not speech.

        Args:
            waveform: 44.1 kHz, any level, at least `shortest` samples. Rows do not influence each
                other; all of a row does, through norms that pool over time (spec 8.4).
            mixture: what ``waveform`` was made from, at its level, for a net that sees it; by default the
                same. A net that does not see it leaves it aside.

        Returns:
            Speech at the level it would have if the input's peak were 1.
        """
        transform = {"n_fft": self.config.n_fft, "hop": self.config.hop}
        spectrum = stft(normalise_peak(waveform), **transform)
        other = None
        if self.config.sees_mixture and mixture is not None:
            level = waveform.abs().amax(dim=-1, keepdim=True)
            # Without speech next to nothing is left, beside which the mixture would be beyond all bounds.
            floor = _FAINTEST * mixture.abs().amax(dim=-1, keepdim=True) + 1e-7
            other = stft(mixture / torch.maximum(level, floor), **transform)
        return istft(self.filter_spectrum(spectrum, other), **transform, length=waveform.shape[-1])

    def filter_spectrum(
        self,
        spectrum: Complex[Tensor, "batch freq frame"],
        mixture: Complex[Tensor, "batch freq frame"] | None = None,
    ) -> Complex[Tensor, "batch freq frame"]:
        """Mask and rotate every bin of a peak-normalised recording; ``mixture`` as in `forward`."""
        sources = [spectrum]
        if self.config.sees_mixture:
            sources.append(spectrum if mixture is None else mixture)
        # What is as large as the spectrum is worked on in tiles, which stay in the processor's cache.
        features = [
            torch.cat([self._features(tile) for tile in source.split(_TILE, dim=-1)], dim=-1)
            for source in sources
        ]
        maps = self.net(torch.cat(features, dim=1) if len(features) > 1 else features[0]).float()
        tiles = list(spectrum.split(_TILE, dim=-1))
        pairs = zip(tiles, maps[:, :3].split(_TILE, dim=-1), strict=True)
        answers = [tile * self._filter(self._spread(part)) for tile, part in pairs]
        if self.config.residual:
            around = [
                spectrum,
                *(self.neighbours(spectrum, kernel) for kernel in (_NEAR, _FAR)),
                *sources[1:],
            ]
            for factor, other in zip(_bounded(maps[:, 3:]), around, strict=True):
                parts = [self._spread(part) for part in factor.split(_TILE, dim=-1)]
                answers = [
                    answer + torch.complex(part[:, 0], part[:, 1]) * tile
                    for answer, part, tile in zip(answers, parts, other.split(_TILE, dim=-1), strict=True)
                ]
        if self.training or self.config.attenuation_limit_db is None:
            return torch.cat(answers, dim=-1)
        rest = 10 ** (-self.config.attenuation_limit_db / 20) * self.faintness(tiles, answers)[:, None]
        triples = zip(tiles, answers, rest.split(_TILE, dim=-1), strict=True)
        return torch.cat([answer + part * (tile - answer) for tile, answer, part in triples], dim=-1)

    def faintness(
        self,
        spectrum: Sequence[Complex[Tensor, "batch freq _"]],
        speech: Sequence[Complex[Tensor, "batch freq _"]],
    ) -> Float[Tensor, "batch frame"]:
        """How faint the noise around each frame is: from 0, clearly heard, to 1, so far below the speech that
        taking it away matters less than what speech goes with it.

        By energies on the ear's scale of frequency of what is kept and of what is taken, over three seconds.
        DeepFilterNet's programs have a threshold of this kind, too: the estimated signal-to-noise ratio from
        which a frame is left alone.

        Args:
            spectrum: of the input, in parts one after the other.
            speech: what the net left of each part.
        """
        weights = erb_weights(spectrum[0].shape[1]).to(spectrum[0].device)

        def energy(values: Tensor) -> Tensor:
            return torch.einsum("f,bft->bt", weights, values.real.square() + values.imag.square())

        kept = torch.cat([energy(answer) for answer in speech], dim=-1)
        pairs = zip(spectrum, speech, strict=True)
        taken = torch.cat([energy(part - answer) for part, answer in pairs], dim=-1)
        reach = round(_FAINT_SECONDS / 2 * MODEL_RATE / self.config.hop)
        # Sums, not means: what lies beyond the ends, and silence that pads a row, weighs nothing.
        kept, taken = F.avg_pool1d(torch.stack([kept, taken]), 2 * reach + 1, stride=1, padding=reach)
        ratio = 10 * torch.log10((kept + 1e-12) / (taken + 1e-12))
        low, high = _FAINT_DB
        part = ((ratio - low) / (high - low)).clamp(0, 1)
        return part.square() * (3 - 2 * part)

    def _features(self, spectrum: Complex[Tensor, "batch freq frame"]) -> Float[Tensor, "batch 3 band frame"]:
        """What the net sees."""
        if self.config.features == "compressed" and not torch.is_grad_enabled():
            return self._merge(_compressed(spectrum))
        magnitude = spectrum.abs()
        # A bin of zero has phase 0, so (cos, sin) = (1, 0). So has one that is next to zero: the
        # reciprocal of a denormal number, which decaying filters leave behind, is infinite.
        silent = magnitude < 1e-30
        scale = magnitude.masked_fill(silent, 1).reciprocal()
        cos, sin = (spectrum.real * scale).masked_fill(silent, 1), spectrum.imag * scale
        if self.config.features == "compressed":
            magnitude = magnitude.pow(COMPRESSION)
            cos, sin = magnitude * cos, magnitude * sin
        return self._merge(torch.stack([magnitude, cos, sin], dim=1))

    def _merge(self, features: Float[Tensor, "batch 3 freq frame"]) -> Float[Tensor, "batch 3 band frame"]:
        """The features of bins, for bands."""
        return features if self.config.bands is None else self.merge @ features

    def neighbours(
        self, spectrum: Complex[Tensor, "batch freq frame"], kernel: Sequence[tuple[int, float]]
    ) -> Complex[Tensor, "batch freq frame"]:
        """What each frame's neighbours would be in its place, on the average.

        A tone in the middle of a bin turns by the same angle from frame to frame: without that turn it stands
        still, and frames can be averaged.

        Args:
            spectrum: of a recording.
            kernel: distances in frames, on both sides, and their weights.
        """
        bins, frames = spectrum.shape[1:]
        turns = torch.outer(torch.arange(bins), torch.arange(frames)) * self.config.hop % self.config.n_fft
        angles = (turns * (2 * torch.pi / self.config.n_fft)).to(spectrum.device)
        turn = torch.polar(torch.ones_like(angles), angles)
        still = spectrum * turn.conj()
        reach = max(distance for distance, _ in kernel)
        padded = F.pad(torch.view_as_real(still), (0, 0, reach, reach))
        total = 2 * sum(weight for _, weight in kernel)
        mean = torch.zeros_like(padded[:, :, :frames])
        for distance, weight in kernel:
            for first in (reach - distance, reach + distance):
                mean += weight / total * padded[:, :, first : first + frames]
        return turn * torch.view_as_complex(mean)

    def _spread(self, maps: Float[Tensor, "batch map band frame"]) -> Float[Tensor, "batch map freq frame"]:
        """The maps of bands, for bins."""
        if self.config.bands is None:
            return maps
        return (self.spread @ maps).float()

    def _filter(self, maps: Float[Tensor, "batch 3 freq frame"]) -> Complex[Tensor, "batch freq frame"]:
        """The complex factor of every bin."""
        mask = maps[:, 0].sigmoid()
        turn_cos, turn_sin = maps[:, 1].tanh(), maps[:, 2].tanh()
        # The epsilon inside the root is the original's: a turn near (0, 0) stays shorter than 1.
        mask = mask / (turn_cos.square() + turn_sin.square() + 1e-7).sqrt()
        return torch.complex(mask * turn_cos, mask * turn_sin)


def _compressed(spectrum: Complex[Tensor, "batch freq frame"]) -> Float[Tensor, "batch 3 freq frame"]:
    """Compressed features from energies, which is cheaper than from magnitudes.

    Where a magnitude is below 1e-18, and far below what is heard, the features are smaller than they should
    be: the power of zero would be infinite.
    """
    real, imag = spectrum.real, spectrum.imag
    energy = real.square() + imag.square()
    scale = energy.clamp_min(1e-36).pow_((COMPRESSION - 1) / 2)
    return torch.stack([energy.sqrt_().mul_(scale), real * scale, imag * scale], dim=1)


def _bounded(maps: Float[Tensor, "batch two_each band frame"]) -> list[Float[Tensor, "batch 2 band frame"]]:
    """The complex factors, real and imaginary part each, none larger than may be."""
    factors = []
    for part in maps.split(2, dim=1):
        energy = part.square().sum(1, keepdim=True)
        factors.append(part * (1 + energy / _LOUDEST**2).rsqrt())
    return factors


def normalise_peak(waveform: Float[Tensor, "*batch time"]) -> Float[Tensor, "*batch time"]:
    """Scale each row to a peak of 1; silence stays silence."""
    return waveform / (waveform.abs().amax(dim=-1, keepdim=True) + 1e-7)


def band_matrices(bins: int, bands: int) -> tuple[Float[Tensor, "band bin"], Float[Tensor, "bin band"]]:
    """Matrices that average bins into bands, and that interpolate bands back to bins.

    The lower half of the bands are single bins; above, the distance of neighbours grows by a
    constant factor up to the last bin, without a step where growth begins. Both matrices keep a
    constant constant.
    """
    single = bands // 2
    steps = bands - 1 - single

    def reach(growth: float) -> float:
        return torch.expm1(torch.tensor(growth * steps).double()).item() / growth

    low, high = 1e-6, 1.0
    for _ in range(100):  # bisection: reach() is monotonic
        growth = (low + high) / 2
        low, high = (growth, high) if reach(growth) < bins - 1 - single else (low, growth)
    above = torch.expm1(growth * torch.arange(1, steps + 1, dtype=torch.float64)) / growth + single
    centres = torch.cat([torch.arange(single + 1, dtype=torch.float64), above])

    position = torch.arange(bins, dtype=torch.float64).clamp(max=centres[-1].item())
    right = torch.searchsorted(centres, position, right=True).clamp(max=bands - 1)
    left = right - 1
    share = (position - centres[left]) / (centres[right] - centres[left])
    spread = torch.zeros(bins, bands, dtype=torch.float64)
    spread.scatter_(1, left[:, None], (1 - share)[:, None])
    spread.scatter_(1, right[:, None], share[:, None])
    merge = spread.T / spread.sum(0)[:, None]
    return merge.float(), spread.float()
