"""Stage 1: autoencoder and vocoder, with critics from some step on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.models.discriminators import Discriminator
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.layers import Total
from enhance_ray.training.context import TrainContext
from enhance_ray.training.draws import vocoder_noise
from enhance_ray.training.examples import Batch, Part
from enhance_ray.training.learner import Learner
from enhance_ray.training.losses import AutoencoderLossConfig, discriminator_loss, generator_loss
from enhance_ray.training.settings import TrainConfig
from enhance_ray.training.stages import AutoencoderResult, autoencoder_loss, autoencoder_step
from enhance_ray.training.tasks.starting import describe, start_critics, start_enhancer
from enhance_ray.training.tasks.task import Heard


class AutoencoderTask:
    """Stage 1: autoencoder and vocoder learn to give speech again, critics to tell it from the real one."""

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        self.net = net = start_enhancer(config, "autoencoder").to(context.device)
        self.model_config = describe(config, net, "autoencoder")
        # A source-filter vocoder shapes what came in; the original's sees clean speech alone.
        self.guided = net.config.source_filter is not None
        self.parts: tuple[Part, ...] = ("noisy", "clean") if self.guided else ("clean",)
        net.requires_grad_(False)
        for part in (net.autoencoder, net.vocoder):
            part.requires_grad_(True)
        self.step = context.wrap(_AutoencoderStep(net, config.autoencoder.loss, context.total))
        self.learners = {"generator": Learner(net.parameters(), config.optimizer, context.device)}
        self.critics: Discriminator | None = None
        if config.autoencoder.gan_start is not None:
            self.critics = start_critics(config).to(context.device)
            self.wrapped_critics = context.wrap(self.critics)
            self.learners["critics"] = Learner(self.critics.parameters(), config.optimizer, context.device)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Spec 6.6 and 6.8: the generator's step, then the critics' on what it gave."""
        result: AutoencoderResult = self.step(batch["clean"], self._noise(batch), self._guide(batch))
        loss, metrics = result.loss, dict(result.metrics)
        generator, start = self.learners["generator"], self.config.autoencoder.gan_start
        judged = self.critics is not None and start is not None and generator.steps_done >= start
        if judged:
            assert self.critics is not None
            # Not through the wrapper, which would wait for gradients that do not come.
            self.critics.requires_grad_(False)
            penalty, parts = generator_loss(self.critics(result.estimate))
            loss = loss + penalty
            metrics |= {f"generator_{name}": value for name, value in parts.items()}
        metrics["gradient_norm"] = generator.step(loss)
        if judged:
            metrics |= self._update_critics(result.estimate.detach(), batch["clean"])
        return {**metrics, "loss": result.loss.detach()}

    def listen(self, batch: Batch) -> Heard:
        """The speech made again from its own latent."""
        result = autoencoder_loss(
            self.net,
            batch["clean"],
            self._noise(batch),
            guide=self._guide(batch),
            loss=self.config.autoencoder.loss,
        )
        return Heard(float(result.loss), result.estimate[0], batch["clean"][0, : result.estimate.shape[-1]])

    def others(self) -> dict[str, nn.Module]:
        """The critics."""
        return {} if self.critics is None else {"critics": self.critics}

    def _update_critics(self, fake: Tensor, clean: Tensor) -> dict[str, Tensor]:
        assert self.critics is not None
        self.critics.requires_grad_(True)
        real = normalise_peak(clean)[:, : fake.shape[-1]]
        # Once through the wrapper: two calls would make it synchronise twice.
        scores = self.wrapped_critics(torch.cat([fake, real]))
        rows = len(fake)
        of_fake, of_real = (
            {kind: [score[part] for score in group] for kind, group in scores.items()}
            for part in (slice(None, rows), slice(rows, None))
        )
        loss, parts = discriminator_loss(of_fake, of_real)
        norm = self.learners["critics"].step(loss)
        return {**{f"critics_{n}": v for n, v in parts.items()}, "critics_gradient_norm": norm}

    def _guide(self, batch: Batch) -> Tensor | None:
        if not self.guided:
            return None
        with torch.no_grad():
            denoised: Tensor = self.net.denoiser(batch["noisy"])
        return denoised

    def _noise(self, batch: Batch) -> Tensor:
        settings = self.net.config
        frames = batch["clean"].shape[-1] // self.net.hop + settings.noise_padding
        noise = vocoder_noise(self.config.seed, batch["index"].tolist(), settings.noise_channels, frames)
        return noise.to(batch["clean"].device, non_blocking=True)


class _AutoencoderStep(nn.Module):
    """Stage 1's step as a module, so that it can be wrapped."""

    def __init__(self, net: EnhancerNet, loss: AutoencoderLossConfig, total: Total) -> None:
        super().__init__()
        self.net, self.loss, self.total = net, loss, total

    def forward(self, clean: Tensor, noise: Tensor, guide: Tensor | None) -> AutoencoderResult:
        return autoencoder_step(self.net, clean, noise, guide=guide, loss=self.loss, total=self.total)
