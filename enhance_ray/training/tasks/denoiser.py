"""The denoiser alone, and the repair net behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enhance_ray.checkpoint import ModelConfig
from enhance_ray.models.denoiser import Denoiser
from enhance_ray.training.context import TrainContext
from enhance_ray.training.examples import Batch, Part
from enhance_ray.training.learner import Learner
from enhance_ray.training.settings import TrainConfig
from enhance_ray.training.stages import StepResult, denoiser_step
from enhance_ray.training.tasks.starting import describe, start_denoiser, start_repair
from enhance_ray.training.tasks.task import Heard


class DenoiserTask:
    """The denoiser learns to give speech without noise."""

    parts: tuple[Part, ...] = ("noisy", "target")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        net = start_denoiser(config)
        self.model_config = ModelConfig(name=config.name, denoiser=net.config)
        self.net: Denoiser = net.to(context.device)
        # The faster layout for narrow convolutions, on CPU and GPU alike.
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.wrapped = context.wrap(self.net)
        self.learners = {"generator": Learner(self.net.parameters(), config.optimizer, context.device)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Spec 3.3."""
        result = denoiser_step(self.wrapped, batch["noisy"], batch["target"], self.config.loss)
        norm = self.learners["generator"].step(result.loss)
        return {**result.metrics, "loss": result.loss.detach(), "gradient_norm": norm}

    def listen(self, batch: Batch) -> Heard:
        """The denoised speech, at the level it has in the mixture."""
        result = denoiser_step(self.net, batch["noisy"], batch["target"], self.config.loss)
        level = batch["noisy"].abs().amax()
        return Heard(float(result.loss), result.estimate[0] * level, batch["target"][0])

    def others(self) -> dict[str, nn.Module]:
        """None."""
        return {}


class RepairTask:
    """The repair net learns to give back what is missing in what the denoiser leaves."""

    parts: tuple[Part, ...] = ("noisy", "target")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        self.net = net = start_repair(config).to(context.device)
        self.model_config = describe(config, net, "enhancer")
        net.requires_grad_(False)
        assert net.repair is not None
        net.repair.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = context.wrap(net.repair)
        self.learners = {"generator": Learner(net.repair.parameters(), config.optimizer, context.device)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """As the denoiser's, behind the denoiser as it is when it runs."""
        result = self._step(self.step, batch)
        norm = self.learners["generator"].step(result.loss)
        return {**result.metrics, "loss": result.loss.detach(), "gradient_norm": norm}

    def listen(self, batch: Batch) -> Heard:
        """The denoised and repaired speech, at whatever level."""
        assert self.net.repair is not None
        result = self._step(self.net.repair, batch)
        return Heard(float(result.loss), result.estimate[0], batch["target"][0])

    def others(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def _step(self, repair: nn.Module, batch: Batch) -> StepResult:
        noisy = batch["noisy"]
        with torch.no_grad():  # and with what is off in training, such as a limit of attenuation
            denoised = self.net.denoiser.eval()(noisy).float()
        # The denoiser's answer is at the level of an input with a peak of 1.
        level = noisy.abs().amax(dim=-1, keepdim=True) + 1e-7
        return denoiser_step(repair, denoised, batch["target"] / level, self.config.loss, noisy / level)
