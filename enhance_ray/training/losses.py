"""What training minimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from enhance_ray.dsp.mel import erb_weights, slaney_filter_bank
from enhance_ray.errors import ConfigError
from enhance_ray.models.discriminators import RESOLUTIONS
from enhance_ray.models.layers import Total, alone
from enhance_ray.models.source_filter import mean_around
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import NotEmpty, NotNegative, Positive, Share
from enhance_ray.settings.schema import settings
from enhance_ray.training.disturbance import disturbance_loss
from enhance_ray.training.dnsmos import dnsmos_loss

Scores = Mapping[str, Sequence[Tensor]]
"""What `models.discriminators.Discriminator` answers."""


@settings
class DenoiserLossConfig:
    """Weights of the denoiser's losses. The defaults are the original's: waveform L1 alone.

    Raises:
        ConfigError: nothing is weighted, or a value is out of range.
    """

    waveform: NotNegative = 1.0
    """Weight of the mean absolute difference of samples."""
    spectrum: NotNegative = 0.0
    """Weight of `compressed_spectral_loss`, averaged over ``resolutions``."""
    resolutions: NotEmpty[Annotated[int, Ge(16)]] = (512, 1024, 2048)
    """Window lengths in samples of that loss."""
    complex_share: Share = 0.3
    """Share of the phase-aware part in that loss, in [0, 1]."""
    erb_share: Share = 0.0
    """Share of a bin's weight in that loss that follows the ear's scale of frequency (`erb_weights`), in
    [0, 1]. At 0 every bin weighs the same, and all below 1 kHz is 4.5 % of the loss."""
    over_suppression: Positive = 1.0
    """How often a magnitude counts in that loss where it is below its target: speech that was taken away
    costs so many times what noise that was left does."""
    loudness: NotNegative = 0.0
    """Weight of `loudness_loss`."""
    disturbance: NotNegative = 0.0
    """Weight of `disturbance_loss`, what PESQ would take off; a few hundredths, as its value is about 2."""
    dnsmos: NotNegative = 0.0
    """Weight of `dnsmos_loss`, what DNSMOS takes off; a few hundredths, as its value is about 0.7."""
    keep_level: bool = False
    """Scale the target by the input's peak, so that speech keeps its level; the original scales it by its
    own peak, which asks the net for a gain that a mask cannot give."""

    def __post_init__(self) -> None:
        if not self.waveform + self.spectrum + self.loudness + self.disturbance + self.dnsmos:
            raise ConfigError(
                "waveform, spectrum, loudness, disturbance, dnsmos", "one of the weights must be positive"
            )


@settings
class AutoencoderLossConfig:
    """Weights of stage 1's losses. The defaults are the original's."""

    mse: NotNegative = 1.0
    """Weight of the squared difference of mels that the features stand for."""
    stft: NotNegative = 1.0
    """Weight of `stft_loss`: spectral convergence and log magnitudes."""
    spectrum: NotNegative = 0.0
    """Weight of `compressed_spectral_loss`, which hears quiet bins and, where a guide brings them, phases;
    averaged over ``resolutions``."""
    resolutions: tuple[int, ...] = (512, 2048)
    """Window lengths in samples of that loss."""
    complex_share: Share = 0.1
    """Share of the phase-aware part in that loss, in [0, 1]."""
    guided_share: Share | None = None
    """That share where the vocoder's guide brings the phase; by default the same. Where nothing does, phases
    are a guess, and a large share would ask for silence."""
    gaps: NotNegative = 0.0
    """Weight of `gap_loss`: how loud it is where the vocoder's guide has nothing; 0.1 or 0.2."""


def compressed_spectral_loss(
    estimate: Float[Tensor, "batch time"],
    target: Float[Tensor, "batch time"],
    *,
    window_length: int,
    complex_share: float,
    power: float = 0.3,
    erb_share: float = 0.0,
    over_suppression: float = 1.0,
    guide: Float[Tensor, "batch time"] | None = None,
    guided_share: float | None = None,
) -> Float[Tensor, ""]:
    """Mean squared difference of power-law compressed spectra, of magnitudes and of complex values.

    Compression by ``power`` weighs quiet bins, which the ear hears and a waveform loss does not.
    Ephrat et al. 2018, arXiv:1804.03619; the blend after Braun and Tashev 2020, arXiv:2009.12286. A dearer
    loss of speech than rest of noise: Xia, Braun et al. 2020, arXiv:2001.10601; by the sign of the error of
    a compressed magnitude, as here: Wang et al. 2020, "VoiceFilter-Lite", arXiv:2009.04323.

    Args:
        estimate: what the net gave.
        target: what it should have given.
        window_length: Hann window and transform length in samples; hop is half of it.
        complex_share: weight of the complex part; magnitudes have the rest.
        power: of the magnitudes.
        erb_share: share of a bin's weight, in both parts, that is by `erb_weights`; the rest is even.
        over_suppression: factor of the magnitudes' part where the estimate's is below the target's.
        guide: whose phases are at hand; for ``guided_share``.
        guided_share: the share where the guide is at most some 10 dB below the target; it changes smoothly.
    """
    window = torch.hann_window(window_length, device=estimate.device)

    def spectrum(waveform: Tensor) -> tuple[Tensor, Tensor]:
        bins = torch.stft(
            waveform,
            window_length,
            window_length // 4,
            window=window / window.square().sum().sqrt(),
            return_complex=True,
            pad_mode="constant",
        )
        # Parts of their own, in the order in which they lie in memory (frame, bin): on a CPU, what works
        # along an axis of two, or on two orders at once, is several times slower.
        real, imaginary = torch.view_as_real(bins.transpose(1, 2)).unbind(-1)
        return real.contiguous(), imaginary.contiguous()

    def energy(real: Tensor, imaginary: Tensor) -> Tensor:
        # The floor keeps the gradient of a power below 1 finite at silence.
        return torch.addcmul(real.square(), imaginary, imaginary).clamp_min(1e-8)

    def compressed(real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # One logarithm and two exponentials cost a third of two powers.
        log_energy = energy(real, imaginary).log()
        scale = ((power - 1) / 2 * log_energy).exp()
        return (power / 2 * log_energy).exp(), real * scale, imaginary * scale

    wanted = spectrum(target)
    magnitude, real, imaginary = compressed(*spectrum(estimate))
    target_magnitude, target_real, target_imaginary = compressed(*wanted)
    by_magnitude = (magnitude - target_magnitude).square()
    by_complex = (real - target_real).square() + (imaginary - target_imaginary).square()
    if over_suppression != 1:
        by_magnitude = by_magnitude * torch.where(magnitude < target_magnitude, over_suppression, 1.0)
    if erb_share:
        weights = torch.lerp(torch.ones(()), erb_weights(window_length // 2 + 1), erb_share)
        weights = weights.to(estimate.device)
        by_magnitude, by_complex = weights * by_magnitude, weights * by_complex
    if guide is None or guided_share is None:
        return (1 - complex_share) * by_magnitude.mean() + complex_share * by_complex.mean()
    known = energy(*spectrum(guide))
    share = complex_share + (guided_share - complex_share) * known / (known + 0.1 * energy(*wanted))
    return torch.lerp(by_magnitude, by_complex, share).mean()


_GAP_WINDOW, _GAP_AROUND = 2048, (9, 3)
_GAP_FLOOR = 1e-10
"""Power, against white noise of power 1, below which nothing is told apart."""
_GAP_PAUSE = 2.5e-6
"""Power of a frame that counts as half a pause, as in `models.source_filter`: -56 dB."""


def gap_loss(
    estimate: Float[Tensor, "batch time"],
    target: Float[Tensor, "batch time"],
    guide: Float[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Mean absolute log-spectral distance where ``guide`` is silent, in units of log10 power.

    What is made there has phases of its own, so that only powers can be compared, averaged over 0.2 kHz and
    35 ms. Compressed magnitudes ask of a guess to be too quiet, and hardly mind; the logarithm wants the
    median of what may stand there, at any level. As the log-spectral distance of bandwidth extension (Liu et
    al. 2022, arXiv:2203.14941), but smoothed, and without frames that are pauses.

    Args:
        estimate: what the vocoder gave.
        target: what it should have given.
        guide: what it was given, at the target's level; where it is louder than both others, nothing counts.
    """

    def powers(waveform: Tensor) -> Tensor:
        return _powers(waveform, _GAP_WINDOW, _GAP_WINDOW // 4)

    made = mean_around(powers(estimate), _GAP_AROUND)
    with torch.no_grad():
        wanted = powers(target)
        frame = wanted.mean(dim=1, keepdim=True)
        wanted, known = (mean_around(each, _GAP_AROUND) for each in (wanted, powers(guide)))
        loudest = torch.maximum(wanted, made)
        share = loudest / (loudest + 10 * known + _GAP_FLOOR) * frame / (frame + _GAP_PAUSE)
    distance = ((made + _GAP_FLOOR) / (wanted + _GAP_FLOOR)).log10().abs()
    return (share * distance).mean()


def _powers(
    waveform: Float[Tensor, "batch time"], window_length: int, hop: int
) -> Float[Tensor, "batch freq frame"]:
    """Of each bin, on a scale on which white noise of power 1 has 1."""
    window = torch.hann_window(window_length, device=waveform.device)
    spectrum = torch.stft(
        waveform, window_length, hop, window=window, return_complex=True, pad_mode="constant"
    )
    return torch.view_as_real(spectrum).square().sum(-1) / window.square().sum()


_LOUDNESS_WINDOW, _LOUDNESS_BANDS, _LOUDNESS_POWER = 1024, 48, 0.23


def loudness_loss(
    estimate: Float[Tensor, "batch time"], target: Float[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Mean absolute difference of loudness in bands of hearing, whatever the phases.

    Loudness is the energy of a mel band to the power of 0.23 (Zwicker's law of specific loudness; Fastl and
    Zwicker 2007, "Psychoacoustics", section 8.7), without masking between bands.
    """
    bank = slaney_filter_bank(MODEL_RATE, _LOUDNESS_WINDOW, _LOUDNESS_BANDS).to(estimate.device)
    bank = bank / bank.sum(0)

    def loudness(waveform: Tensor) -> Tensor:
        energy = _powers(waveform, _LOUDNESS_WINDOW, _LOUDNESS_WINDOW // 2)
        # As in `compressed_spectral_loss`, for the gradient at silence.
        bands: Tensor = torch.einsum("fm,bft->bmt", bank, energy).clamp_min(1e-8)
        return bands.pow(_LOUDNESS_POWER)

    return (loudness(estimate) - loudness(target)).abs().mean()


def denoiser_loss(
    estimate: Float[Tensor, "batch time"], target: Float[Tensor, "batch time"], config: DenoiserLossConfig
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The weighted sum, and each part by name, detached."""
    parts = {}
    if config.waveform:
        parts["l1"] = config.waveform * (estimate - target).abs().mean()
    if config.spectrum:
        by_resolution = [
            compressed_spectral_loss(
                estimate,
                target,
                window_length=n,
                complex_share=config.complex_share,
                erb_share=config.erb_share,
                over_suppression=config.over_suppression,
            )
            for n in config.resolutions
        ]
        parts["spectrum"] = config.spectrum * torch.stack(by_resolution).mean()
    if config.loudness:
        parts["loudness"] = config.loudness * loudness_loss(estimate, target)
    if config.disturbance:
        parts["disturbance"] = config.disturbance * disturbance_loss(estimate, target)
    if config.dnsmos:
        parts["dnsmos"] = config.dnsmos * dnsmos_loss(estimate, target)
    return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}


def generator_loss(scores: Scores) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """What a generator pays for the critics' ``scores`` of its sound: their negative mean (spec 4.8).

    Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875. Averaged over the critics of a kind.
    """
    parts = {name: torch.stack([-score.mean() for score in group]).mean() for name, group in scores.items()}
    return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}


def discriminator_loss(fake: Scores, real: Scores) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Hinge loss of the critics: scores below -1 for ``fake`` and above 1 for ``real`` cost nothing.

    Lim and Ye 2017, "Geometric GAN", arXiv:1705.02894. Averaged over the critics of a kind.
    """
    parts = {}
    for name in fake:
        parts[f"{name}_fake"] = torch.stack([F.relu(1 + score).mean() for score in fake[name]]).mean()
        parts[f"{name}_real"] = torch.stack([F.relu(1 - score).mean() for score in real[name]]).mean()
    return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}


def stft_loss(
    estimate: Float[Tensor, "batch time"],
    target: Float[Tensor, "batch time_of_target"],
    total: Total = alone,
) -> dict[str, Float[Tensor, ""]]:
    """Spectral convergence ("sc") and distance of log magnitudes ("mag"), averaged over three resolutions.

    Yamamoto, Song and Kim 2020, "Parallel WaveGAN", arXiv:1910.11480, equations 4 to 6; norms over the
    batch as a whole, log(1 + x) in place of log x, and both cut to the shorter (spec 4.9).

    Args:
        estimate: what the net gave.
        target: what it should have given.
        total: adds up over workers: the norms are of the batch of all of them.
    """
    length = min(estimate.shape[-1], target.shape[-1])
    parts: dict[str, list[Tensor]] = {"sc": [], "mag": []}
    for hop, window, n_fft in RESOLUTIONS:
        got, wanted = (
            torch.stft(
                waveform[..., :length].float(),
                n_fft,
                hop_length=hop,
                win_length=window,
                window=torch.hann_window(window, device=waveform.device),
                return_complex=True,
            ).abs()
            for waveform in (estimate, target)
        )
        distance, norm = total((wanted - got).square().sum()), total(wanted.square().sum())
        parts["sc"].append((distance / norm).sqrt())
        parts["mag"].append(F.l1_loss(got.log1p(), wanted.log1p()))
    return {name: torch.stack(values).mean() for name, values in parts.items()}
