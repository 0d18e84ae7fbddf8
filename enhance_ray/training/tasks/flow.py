"""Stage 2, the flow on a frozen stage 1, and its distillation, to need fewer evaluations."""

from __future__ import annotations

import copy
import dataclasses
import logging

import numpy as np
import torch
from torch import Tensor, nn

from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.flow import Flow
from enhance_ray.settings.options import Sampling
from enhance_ray.training.context import TrainContext
from enhance_ray.training.draws import flow_draws
from enhance_ray.training.examples import Banks, Batch, Part, make_clean
from enhance_ray.training.learner import Learner
from enhance_ray.training.settings import DistilStageConfig, TrainConfig
from enhance_ray.training.stages import FlowDraws, StepResult, distil_step, flow_inputs, flow_step
from enhance_ray.training.tasks.starting import describe, start_enhancer
from enhance_ray.training.tasks.task import Heard

logger = logging.getLogger(__name__)

_SCALE_SAMPLES = 16


class FlowTask:
    """Stage 2: the flow learns the way from the latent of what came in to that of clean speech."""

    parts: tuple[Part, ...] = ("noisy", "target", "clean")

    def __init__(self, config: TrainConfig, context: TrainContext, banks: Banks) -> None:
        """Build, on the context's device; the latents' scale is measured on speech of ``banks``."""
        self.config = config
        net = start_enhancer(config, "flow")
        scale = config.flow.latent_scale
        if scale is None:
            scale = net.config.latent_scale if config.init_from else measure_latent_scale(net, banks, config)
        net.config = dataclasses.replace(net.config, latent_scale=scale)
        self.net = net.to(context.device)
        self.model_config = describe(config, net, "enhancer")
        net.requires_grad_(False)
        net.flow.requires_grad_(True)
        net.denoiser.requires_grad_(config.flow.train_denoiser)
        self.step = context.wrap(_FlowStep(net, config.flow.train_denoiser))
        self.learners = {"generator": Learner(net.parameters(), config.optimizer, context.device)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Spec 4.2 and 6.6."""
        result: StepResult = self.step(batch["noisy"], batch["target"], batch["clean"], self._draws(batch))
        norm = self.learners["generator"].step(result.loss)
        return {**result.metrics, "loss": result.loss.detach(), "gradient_norm": norm}

    def listen(self, batch: Batch) -> Heard:
        """The whole chain, from the mixture to restored speech."""
        result = flow_step(
            self.net,
            batch["noisy"],
            batch["target"],
            batch["clean"],
            self._draws(batch),
            train_denoiser=self.config.flow.train_denoiser,
        )
        restored = self.net(batch["noisy"], Sampling(nfe=self.config.flow.validation_nfe))[0]
        return Heard(float(result.loss), restored, batch["clean"][0, : len(restored)])

    def others(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def _draws(self, batch: Batch) -> FlowDraws:
        return _flow_draws(self.config, self.net, batch)


class _FlowStep(nn.Module):
    """Stage 2's step as a module, so that it can be wrapped."""

    def __init__(self, net: EnhancerNet, train_denoiser: bool) -> None:
        super().__init__()
        self.net, self.train_denoiser = net, train_denoiser

    def forward(self, noisy: Tensor, target: Tensor, clean: Tensor, draws: FlowDraws) -> StepResult:
        return flow_step(self.net, noisy, target, clean, draws, train_denoiser=self.train_denoiser)


@torch.no_grad()
def measure_latent_scale(net: EnhancerNet, banks: Banks, config: TrainConfig) -> float:
    """The factor that gives the latents of clean speech a standard deviation of 1.

    The flow starts in a blend with noise of that deviation: latents of another size would make its way long
    and its training slow, which the original leaves to the user to see.
    """
    examples = dataclasses.replace(config.examples, silence_probability=0)
    clean = [
        make_clean(banks, examples, np.random.default_rng([config.seed, 2, i])) for i in range(_SCALE_SAMPLES)
    ]
    mel = net.normalise(normalise_peak(torch.from_numpy(np.stack(clean))))
    scale = 1 / float(net.autoencoder.encode(mel).std())
    logger.info("latent_scale measured: %.3f", scale)
    return scale


class DistilTask:
    """Distillation: the flow learns straight ways to where its own many evaluations lead."""

    parts: tuple[Part, ...] = ("noisy", "clean")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device; the teacher is the flow that the run starts with."""
        self.config = config
        net = start_enhancer(config, "distil")
        net.config = dataclasses.replace(net.config, nfe=config.distil.nfe)  # for which it is made
        self.net = net.to(context.device)
        self.model_config = describe(config, net, "enhancer")
        net.requires_grad_(False)
        # Another run's state replaces the net's weights, and not the teacher's.
        self.teacher = copy.deepcopy(net.flow).eval()
        net.flow.requires_grad_(True)
        self.step = context.wrap(_DistilStep(net, self.teacher, config.distil))
        self.learners = {"generator": Learner(net.parameters(), config.optimizer, context.device)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """See `stages.distil_step`."""
        result: StepResult = self.step(batch["noisy"], self._draws(batch))
        norm = self.learners["generator"].step(result.loss)
        return {**result.metrics, "loss": result.loss.detach(), "gradient_norm": norm}

    def listen(self, batch: Batch) -> Heard:
        """The whole chain at few evaluations; the loss is its latents' distance from the teacher's."""
        draws = self._draws(batch)
        _, start, guide = flow_inputs(
            self.net, normalise_peak(batch["noisy"]), draws.prior, draws.temperature
        )
        settings = self.config.distil
        solver, nfe = Sampling().sampling(settings.nfe)
        few = self.net.flow.sample(start, guide, solver=solver, nfe=nfe)
        many = self.teacher.sample(start, guide, solver=settings.teacher_solver, nfe=settings.teacher_nfe)
        restored = self.net(batch["noisy"], Sampling(nfe=settings.nfe))[0]
        loss = float((few - many).abs().mean())
        return Heard(loss, restored, batch["clean"][0, : len(restored)])

    def others(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def _draws(self, batch: Batch) -> FlowDraws:
        draws = _flow_draws(self.config, self.net, batch)
        return draws._replace(temperature=self.config.distil.most_temperature * draws.temperature)


class _DistilStep(nn.Module):
    """A step of distillation as a module, so that it can be wrapped."""

    def __init__(self, net: EnhancerNet, teacher: Flow, settings: DistilStageConfig) -> None:
        super().__init__()
        self.net, self.settings = net, settings
        self._teacher = (teacher,)  # in a tuple: no module of this one, for it does not learn

    def forward(self, noisy: Tensor, draws: FlowDraws) -> StepResult:
        settings = self.settings
        return distil_step(
            self.net,
            self._teacher[0],
            noisy,
            draws,
            nfe=settings.teacher_nfe,
            solver=settings.teacher_solver,
        )


def _flow_draws(config: TrainConfig, net: EnhancerNet, batch: Batch) -> FlowDraws:
    """Random numbers of a batch, on its device."""
    noisy = batch["noisy"]
    draws = flow_draws(
        config.seed,
        batch["index"].tolist(),
        net.config.autoencoder.latent,
        noisy.shape[-1] // net.hop,
        config.flow.prior_temperature,
    )
    return FlowDraws(*(part.to(noisy.device, non_blocking=True) for part in draws))
