"""The enhancer: noisy waveform -> restored waveform at 44.1 kHz. Spec 1.1 and 4.2.

    noisy -> mel ──────────────────────────┬──> encoder ──> start ─┐
    noisy -> denoiser (-> repair) -> mel ──┴──> conditioning ──────┴─> flow -> decoder -> vocoder -> restored

The flow moves the latent of what came in to the latent of clean speech, guided by a blend of the noisy and
the denoised mel; the vocoder makes sound of it. The original's vocoder looks at the mel alone, so what comes
out is made anew, phase included; a compact model's (`source_filter`) shapes the denoised waveform. There a
second U-Net (`EnhancerConfig.repair`) may stand behind the denoiser, which gives back what damage took, and
may be shown what the denoiser was shown, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor, nn

from enhance_ray.dsp.mel import MelSpectrogram
from enhance_ray.errors import ConfigError
from enhance_ray.models import kernels, layers
from enhance_ray.models.autoencoder import Autoencoder, AutoencoderConfig
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig, normalise_peak
from enhance_ray.models.flow import Flow
from enhance_ray.models.layers import Normalizer
from enhance_ray.models.noise import noise_field
from enhance_ray.models.source_filter import SourceFilterConfig, SourceFilterVocoder
from enhance_ray.models.vocoder import Vocoder, VocoderConfig
from enhance_ray.models.wavenet import VelocityConfig, VelocityField
from enhance_ray.settings.options import Sampling
from enhance_ray.settings.ranges import Count, Positive, Share, WindowLength
from enhance_ray.settings.schema import settings


@settings
class EnhancerConfig:
    """Sizes of the enhancer, its denoiser apart. The defaults are the original's."""

    mels: Count = 128
    """Bands of the mel spectrogram."""
    n_fft: WindowLength = 2048
    """Window and transform length of the mel spectrogram, in samples."""
    magnitude_floor: Positive = 1e-4
    """Magnitude that counts as silence in the mel."""
    preemphasis: Annotated[float, Interval(ge=0, lt=1)] = 0.97
    """Coefficient of the first difference before the mel."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    velocity: VelocityConfig = field(default_factory=VelocityConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    source_filter: SourceFilterConfig | None = None
    """Sizes of the vocoder that takes the place of `vocoder` in compact models."""
    repair: DenoiserConfig | None = None
    """Sizes of a net that repairs what the denoiser gives; the original has none."""
    latent_scale: Positive = 6.0
    """Factor that suits the spread of the latents to the flow."""
    time_divisor: Annotated[int, Ge(2)] = 4
    """How unevenly the flow's times lie (`ode.warp`)."""
    gaussian_prior: bool = False
    """Start the flow in noise alone, and not in a blend with the latent of what came in."""
    nfe: Count = 64
    """Evaluations of the velocity field where a user names none."""
    prior_temperature: Share = 0.5
    """Share of noise in where the flow starts, where a user names none."""

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.source_filter.hop if self.source_filter else self.vocoder.hop

    @property
    def noise_channels(self) -> int:
        """Channels of the vocoder's noise."""
        return self.source_filter.hop if self.source_filter else self.vocoder.noise

    @property
    def noise_padding(self) -> int:
        """Frames by which the vocoder's noise is longer than the mel."""
        return 0 if self.source_filter else self.vocoder.padding


class EnhancerNet(nn.Module):
    """Denoiser, mel, autoencoder, flow and vocoder in one. Options travel with each call: nothing is kept."""

    def __init__(self, config: EnhancerConfig | None = None, denoiser: DenoiserConfig | None = None) -> None:
        """Build with random weights; the sizes default to the original's.

        Raises:
            ConfigError: denoiser and vocoder have frames of different lengths.
        """
        super().__init__()
        self.config = config = config or EnhancerConfig()
        self.denoiser = Denoiser(denoiser)
        self.hop = config.hop
        if self.denoiser.config.hop != self.hop:
            where = "source_filter: hop" if config.source_filter else "vocoder: strides"
            raise ConfigError(where, f"a frame must be as long as the denoiser's, got {self.hop} samples")
        self.repair = Denoiser(config.repair) if config.repair else None
        if self.repair is not None and self.repair.config.hop != self.hop:
            raise ConfigError("repair: hop", f"must be {self.hop}, got {self.repair.config.hop}")
        self.mel = MelSpectrogram(
            n_fft=config.n_fft,
            window_length=config.n_fft,
            hop=self.hop,
            mels=config.mels,
            magnitude_floor=config.magnitude_floor,
            preemphasis=config.preemphasis,
        )
        self.normalizer = Normalizer()
        self.latent_statistics = Normalizer()
        self.autoencoder = Autoencoder(config.mels, config.autoencoder)
        self.flow = Flow(
            VelocityField(config.autoencoder.latent, config.mels, config.velocity),
            divisor=config.time_divisor,
        )
        features = config.mels + config.autoencoder.extra
        self.vocoder = (
            SourceFilterVocoder(features, config.mels, config.source_filter)
            if config.source_filter
            else Vocoder(features, config.vocoder)
        )
        self._frozen_as: torch.dtype | None = None

    @property
    def shortest(self) -> int:
        """Fewest samples that `forward` takes."""
        return self.denoiser.shortest

    def freeze(self, dtype: torch.dtype = torch.float32) -> EnhancerNet:
        """Make this net one that only runs, faster; ``dtype`` is that of its convolutions (`layers.freeze`).

        STFT, mel, norms, embedding of time, state of the flow, activations of the vocoder and its last
        convolution stay in float32 (spec 8.1). A net that is frozen stays as it is.
        """
        self.eval()
        if self._frozen_as is not None:
            return self
        self._frozen_as = dtype
        # The autoencoder's head and the statistics of latents serve training alone.
        del self.autoencoder.head, self.latent_statistics
        for part in (self.autoencoder, self.flow, self.vocoder):
            layers.freeze(part, dtype)
        if dtype == torch.bfloat16:
            # Twice as fast so; in float32 its norms would be summed less exactly on a CPU.
            for net in filter(None, (self.denoiser, self.repair)):
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)
        return self

    def compile_kernels(self) -> EnhancerNet:
        """Have what lies between the convolutions compiled when it first runs (`kernels.compiled`)."""
        for part in self.modules():
            if part is not self and isinstance(part, kernels.Compilable):
                part.compile_kernels()
        return self

    def forward(
        self,
        noisy: Float[Tensor, "batch time"],
        options: Sampling | None = None,
        *,
        denoised: Float[Tensor, "batch time"] | None = None,
        prior_noise: Float[Tensor, "batch latent frame"] | None = None,
        vocoder_noise: Float[Tensor, "batch noise padded_frame"] | None = None,
        first_frames: Sequence[int] | None = None,
        cuts: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch frames_time"]:
        """Restore ``noisy``.

        Args:
            noisy: 44.1 kHz, any level, at least `shortest` samples. Rows do not influence each other; all of
                a row does, through norms that pool over time (spec 8.4).
            options: how the flow is sampled; the defaults of `Sampling` if None.
            denoised: the denoiser's answer to the peak-normalised input, where it is known; else it is run.
            prior_noise: standard normal, where the flow starts; by default the noise field of the seed.
            vocoder_noise: standard normal, with `VocoderConfig.padding` more frames; by default the same.
            first_frames: where each row lies in its recording, for the noise fields; by default all at 0.
            cuts: where the band of each row ends, in Hz, infinite where it does not: a vocoder that fills
                gaps alone (`SourceFilterConfig.fill_below_db`) fills those above. By default all.

        Returns:
            The whole frames of ``noisy``: time // 420 * 420 samples. The original's vocoder gives speech with
            a peak of about 1, a source-filter vocoder speech at the level of the peak-normalised input.

        Raises:
            ConfigError: no step of the solver fits into nfe.
        """
        options = options or Sampling()
        rows, frames = len(noisy), noisy.shape[-1] // self.hop
        starts = [0] * rows if first_frames is None else list(first_frames)
        if prior_noise is None:
            prior_noise = noise_field(
                "prior", self.config.autoencoder.latent, starts, frames, seed=options.seed
            )
        if vocoder_noise is None:
            vocoder_noise = noise_field(
                "vocoder",
                self.config.noise_channels,
                starts,
                frames + self.config.noise_padding,
                seed=options.seed,
            )
        noisy = normalise_peak(noisy.float())
        strength = options.denoise_strength
        temperature = options.prior_temperature
        if temperature is None:
            temperature = self.config.prior_temperature
        if not strength:
            denoised = noisy
        elif denoised is None:
            denoised = self.denoised(noisy)
        if strength:
            denoised = self.repaired(denoised, noisy)
        guide = (strength * denoised + (1 - strength) * noisy)[:, : frames * self.hop]
        if cuts is not None and self._fills_gaps and cuts.isinf().all():
            return guide
        mel = self.normalise(noisy)
        solver, nfe = options.sampling(self.config.nfe)
        latent = self.flow.sample(
            self.start(mel, prior_noise.to(mel), temperature),
            self.conditioning(denoised, mel, strength),
            solver=solver,
            nfe=nfe,
        )
        features = self.autoencoder.decode(latent / self.config.latent_scale)
        return self.synthesise(features, guide, vocoder_noise.to(mel), cuts)

    @property
    def _fills_gaps(self) -> bool:
        """Whether the vocoder leaves a guide as it is that has no gaps."""
        source_filter = self.config.source_filter
        return source_filter is not None and source_filter.fill_below_db is not None and not self.training

    def normalise(self, waveform: Float[Tensor, "batch time"]) -> Float[Tensor, "batch mel frame"]:
        """The normalised mel of a waveform."""
        mel: Tensor = self.normalizer(self.mel(waveform))
        return mel

    def denoised(self, noisy: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
        """The denoiser's answer, in the precision of this net."""
        bf16 = self._frozen_as == torch.bfloat16
        with torch.autocast(noisy.device.type, dtype=torch.bfloat16, enabled=bf16):
            return self.denoiser(noisy).float()  # type: ignore[no-any-return]

    def repaired(
        self, denoised: Float[Tensor, "batch time"], noisy: Float[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time"]:
        """What the repair net makes of ``denoised``, at its level; without one, the same.

        Args:
            denoised: the denoiser's answer.
            noisy: with a peak of 1, what it was made from.
        """
        if self.repair is None:
            return denoised
        bf16 = self._frozen_as == torch.bfloat16
        with torch.autocast(denoised.device.type, dtype=torch.bfloat16, enabled=bf16):
            repaired: Tensor = self.repair(denoised, noisy).float()
        return denoised.abs().amax(dim=-1, keepdim=True) * repaired

    def conditioning(
        self, denoised: Float[Tensor, "batch time"], mel: Float[Tensor, "batch mel frame"], strength: float
    ) -> Float[Tensor, "batch mel frame"]:
        """The mel of what came in, blended with that of its ``denoised`` version by ``strength``."""
        return strength * self.normalise(denoised) + (1 - strength) * mel if strength else mel

    def synthesise(
        self,
        features: Float[Tensor, "batch feature frame"],
        guide: Float[Tensor, "batch time"],
        noise: Float[Tensor, "batch noise padded_frame"],
        cuts: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time"]:
        """The waveform that ``features`` stand for.

        Args:
            features: of the autoencoder's decoder.
            guide: what came in, denoised, ``frame`` hops long. The original's vocoder has no use for it; a
                source-filter vocoder shapes it, and its answer has the guide's level.
            noise: standard normal, `EnhancerConfig.noise_padding` frames longer than the features.
            cuts: as in `forward`.
        """
        if self.config.source_filter is None:
            return self.vocoder(features, noise)  # type: ignore[no-any-return]
        level = guide.abs().amax(dim=-1, keepdim=True)
        guide = normalise_peak(guide)
        return level * self.vocoder(features, guide, self.normalise(guide), noise, cuts)  # type: ignore[no-any-return]

    def start(
        self,
        mel: Float[Tensor, "batch mel frame"],
        noise: Float[Tensor, "batch latent frame"],
        temperature: float | Float[Tensor, "batch 1 1"],
    ) -> Float[Tensor, "batch latent frame"]:
        """Where the flow starts: ``temperature`` of ``noise``, the rest of the scaled latent of ``mel``."""
        one = not isinstance(temperature, Tensor) and temperature == 1
        if self.config.gaussian_prior or one:
            return noise
        latent = self.config.latent_scale * self.autoencoder.encode(mel)
        return temperature * noise + (1 - temperature) * latent
