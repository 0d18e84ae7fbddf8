"""Stage 3: the vocoder on what the flow gives."""

from __future__ import annotations

from torch import Tensor, nn

from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.layers import Total, alone
from enhance_ray.training.context import TrainContext
from enhance_ray.training.draws import prior_noise, vocoder_noise
from enhance_ray.training.examples import Batch, Part
from enhance_ray.training.learner import Learner
from enhance_ray.training.settings import TrainConfig, VocoderStageConfig
from enhance_ray.training.stages import StepResult, vocoder_step
from enhance_ray.training.tasks.starting import describe, start_enhancer
from enhance_ray.training.tasks.task import Heard


class VocoderTask:
    """Stage 3: the vocoder learns to speak from what the flow gives."""

    parts: tuple[Part, ...] = ("noisy", "clean")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        self.net = net = start_enhancer(config, "vocoder").to(context.device)
        self.model_config = describe(config, net, "enhancer")
        net.requires_grad_(False)
        net.vocoder.requires_grad_(True)
        self.step = context.wrap(_VocoderStep(net, config.vocoder, context.total))
        self.learners = {"generator": Learner(net.parameters(), config.optimizer, context.device)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """See `stages.vocoder_step`."""
        result: StepResult = self.step(batch["noisy"], batch["clean"], *self._draws(batch))
        norm = self.learners["generator"].step(result.loss)
        return {**result.metrics, "loss": result.loss.detach(), "gradient_norm": norm}

    def listen(self, batch: Batch) -> Heard:
        """The whole chain, from the mixture to restored speech."""
        result: StepResult = _VocoderStep(self.net, self.config.vocoder, alone)(
            batch["noisy"], batch["clean"], *self._draws(batch)
        )
        return Heard(float(result.loss), result.estimate[0], batch["clean"][0, : result.estimate.shape[-1]])

    def others(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def _draws(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        settings, device, indices = self.net.config, batch["noisy"].device, batch["index"].tolist()
        frames = batch["noisy"].shape[-1] // self.net.hop
        noise = vocoder_noise(
            self.config.seed, indices, settings.noise_channels, frames + settings.noise_padding
        )
        latent, temperature = settings.autoencoder.latent, self.config.vocoder.prior_temperature
        prior, share = prior_noise(self.config.seed, indices, latent, frames, temperature)
        return noise.to(device), prior.to(device), share.to(device)


class _VocoderStep(nn.Module):
    """Stage 3's step as a module, so that it can be wrapped."""

    def __init__(self, net: EnhancerNet, settings: VocoderStageConfig, total: Total) -> None:
        super().__init__()
        self.net, self.settings, self.total = net, settings, total

    def forward(
        self, noisy: Tensor, clean: Tensor, noise: Tensor, prior: Tensor, temperature: Tensor
    ) -> StepResult:
        return vocoder_step(
            self.net,
            noisy,
            clean,
            noise,
            prior,
            temperature,
            nfe=self.settings.nfe,
            loss=self.settings.loss,
            total=self.total,
        )
