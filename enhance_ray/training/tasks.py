"""The stages of training: which networks, what of them learns, one update, and what it sounds like.

    denoiser       the denoiser alone
    autoencoder    stage 1: autoencoder and vocoder, with critics from some step on
    flow           stage 2: the flow, and if wanted the denoiser, on a frozen stage 1
    distil         another one for the flow, which the original lacks: to need fewer evaluations
    vocoder        a third one, which the original lacks: the vocoder on what the flow gives

A task owns networks and learners; the loop owns time, the moving average and checkpoints.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from enhance_ray import checkpoint, resemble
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.errors import ConfigError
from enhance_ray.models.denoiser import Denoiser, normalise_peak
from enhance_ray.models.discriminators import Discriminator
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.models.flow import Flow
from enhance_ray.models.layers import Total, alone
from enhance_ray.settings.options import Sampling
from enhance_ray.training.context import TrainContext
from enhance_ray.training.draws import flow_draws, prior_noise, vocoder_noise
from enhance_ray.training.examples import Banks, Batch, Part, make_clean
from enhance_ray.training.learner import Learner
from enhance_ray.training.losses import AutoencoderLossConfig, discriminator_loss, generator_loss
from enhance_ray.training.settings import DistilStageConfig, TrainConfig, VocoderStageConfig
from enhance_ray.training.stages import (
    AutoencoderResult,
    FlowDraws,
    StepResult,
    autoencoder_loss,
    autoencoder_step,
    denoiser_step,
    distil_step,
    flow_step,
    vocoder_step,
    way_in,
)

logger = logging.getLogger(__name__)

_SCALE_SAMPLES = 16


class Heard(NamedTuple):
    """One validation example after the model."""

    loss: float
    estimate: Float[Tensor, " time"]
    reference: Float[Tensor, " time"]
    """What it should be, as long and at whatever level."""


class Task(Protocol):
    """A stage on one worker."""

    model_config: ModelConfig
    parts: tuple[Part, ...]
    """Of the examples."""

    @property
    def net(self) -> nn.Module:
        """What is averaged, validated and saved."""
        ...

    @property
    def learners(self) -> Mapping[str, Learner]:
        """Among them "generator", whose steps are the run's."""
        ...

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step on a batch that is on the device; named numbers, still there."""
        ...

    def listen(self, batch: Batch) -> Heard:
        """What ``net`` makes of a batch of one."""
        ...

    def others(self) -> dict[str, nn.Module]:
        """Networks that learn and are no part of the model: kept in the training state."""
        ...


def build(config: TrainConfig, context: TrainContext, banks: Banks) -> Task:
    """The task of ``config.stage``, with its initial weights.

    Raises:
        ConfigError: a model that it is to start with has other sizes, or lacks what is needed.
        CheckpointError: such a model cannot be read.
    """
    torch.manual_seed(config.seed)
    if config.stage == "denoiser":
        return DenoiserTask(config, context)
    if config.stage == "autoencoder":
        return AutoencoderTask(config, context)
    if config.stage == "distil":
        return DistilTask(config, context)
    if config.stage == "vocoder":
        return VocoderTask(config, context)
    if config.stage == "repair":
        return RepairTask(config, context)
    return FlowTask(config, context, banks)


class DenoiserTask:
    """The denoiser learns to give speech without noise."""

    parts: tuple[Part, ...] = ("noisy", "target")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        net = _start_denoiser(config)
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
        self.net = net = _start_repair(config).to(context.device)
        self.model_config = _describe(config, net, "enhancer")
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
        target = batch["target"] / (noisy.abs().amax(dim=-1, keepdim=True) + 1e-7)
        return denoiser_step(repair, denoised, target, self.config.loss)


class AutoencoderTask:
    """Stage 1: autoencoder and vocoder learn to give speech again, critics to tell it from the real one."""

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        self.net = net = _start_enhancer(config, "autoencoder").to(context.device)
        self.model_config = _describe(config, net, "autoencoder")
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
            self.critics = _start_critics(config).to(context.device)
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


class FlowTask:
    """Stage 2: the flow learns the way from the latent of what came in to that of clean speech."""

    parts: tuple[Part, ...] = ("noisy", "target", "clean")

    def __init__(self, config: TrainConfig, context: TrainContext, banks: Banks) -> None:
        """Build, on the context's device; the latents' scale is measured on speech of ``banks``."""
        self.config = config
        net = _start_enhancer(config, "flow")
        scale = config.flow.latent_scale
        if scale is None:
            scale = net.config.latent_scale if config.init_from else measure_latent_scale(net, banks, config)
        net.config = dataclasses.replace(net.config, latent_scale=scale)
        self.net = net.to(context.device)
        self.model_config = _describe(config, net, "enhancer")
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


def _flow_draws(config: TrainConfig, net: EnhancerNet, batch: Batch) -> FlowDraws:
    """Random numbers of a batch, on its device."""
    noisy = batch["noisy"]
    draws = flow_draws(
        config.seed, batch["index"].tolist(), net.config.autoencoder.latent, noisy.shape[-1] // net.hop
    )
    return FlowDraws(*(part.to(noisy.device, non_blocking=True) for part in draws))


class DistilTask:
    """Distillation: the flow learns straight ways to where its own many evaluations lead."""

    parts: tuple[Part, ...] = ("noisy", "clean")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device; the teacher is the flow that the run starts with."""
        self.config = config
        net = _start_enhancer(config, "distil")
        net.config = dataclasses.replace(net.config, nfe=config.distil.nfe)  # for which it is made
        self.net = net.to(context.device)
        self.model_config = _describe(config, net, "enhancer")
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
        _, start, guide = way_in(self.net, normalise_peak(batch["noisy"]), draws.prior, draws.temperature)
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


class VocoderTask:
    """Stage 3: the vocoder learns to speak from what the flow gives."""

    parts: tuple[Part, ...] = ("noisy", "clean")

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Build, on the context's device."""
        self.config = config
        self.net = net = _start_enhancer(config, "vocoder").to(context.device)
        self.model_config = _describe(config, net, "enhancer")
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


class _AutoencoderStep(nn.Module):
    """Stage 1's step as a module, so that it can be wrapped."""

    def __init__(self, net: EnhancerNet, loss: AutoencoderLossConfig, total: Total) -> None:
        super().__init__()
        self.net, self.loss, self.total = net, loss, total

    def forward(self, clean: Tensor, noise: Tensor, guide: Tensor | None) -> AutoencoderResult:
        return autoencoder_step(self.net, clean, noise, guide=guide, loss=self.loss, total=self.total)


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


# ------------------------------------------------------------------------------ initial weights


def _start_denoiser(config: TrainConfig) -> Denoiser:
    source = config.init_from
    if source is None:
        net = Denoiser(config.model)
    else:
        net = resemble.load_model(source, denoiser_only=True).denoiser
        if config.model.recurrent and not net.config.recurrent:
            grown = Denoiser(dataclasses.replace(net.config, recurrent=config.model.recurrent))
            grown.load_state_dict({**grown.state_dict(), **net.state_dict()})
            net = grown
    return net.requires_grad_(True).train()


def _start_enhancer(config: TrainConfig, stage: str) -> EnhancerNet:
    source = config.denoiser_from
    given = resemble.load_model(source, denoiser_only=True).denoiser if source else None
    if config.init_from is not None:
        net = _whole(config.init_from, "init_from")
    elif stage == "autoencoder":
        net = EnhancerNet(config.enhancer, given.config if given else config.model)
    else:
        assert config.flow.autoencoder_from is not None
        first = _whole(config.flow.autoencoder_from, "flow: autoencoder_from")
        net = _on_stage_1(config, first, given)
    if given is not None:
        net.denoiser.load_state_dict(given.state_dict())
    return net.train()


def _on_stage_1(config: TrainConfig, first: EnhancerNet, given: Denoiser | None) -> EnhancerNet:
    """A new flow on all else of ``first`` (spec 6.9), but for its denoiser where another is ``given``."""
    wanted = dataclasses.replace(
        first.config,
        velocity=config.enhancer.velocity,
        time_divisor=config.enhancer.time_divisor,
        gaussian_prior=config.enhancer.gaussian_prior,
    )
    net = EnhancerNet(wanted, given.config if given else first.denoiser.config)
    new = ("flow.", "denoiser.") if given else ("flow.",)
    weights = {key: value for key, value in first.state_dict().items() if not key.startswith(new)}
    net.load_state_dict({**net.state_dict(), **weights})
    return net


def _start_repair(config: TrainConfig) -> EnhancerNet:
    """The model of ``init_from``, whose repair net is new where it has none: it begins as its denoiser, which
    leaves what is clean as it is."""
    assert config.init_from is not None
    first = _whole(config.init_from, "init_from")
    if first.repair is not None:
        return first.train()
    net = EnhancerNet(dataclasses.replace(first.config, repair=config.model), first.denoiser.config)
    assert net.repair is not None
    repair = net.repair.state_dict()
    for key, weights in first.denoiser.state_dict().items():
        # The head of one that adds has more rows, which follow these.
        if key in repair and repair[key].shape[1:] == weights.shape[1:]:
            repair[key][: len(weights)] = weights[: len(repair[key])]
    net.load_state_dict(net.state_dict() | first.state_dict() | {f"repair.{k}": v for k, v in repair.items()})
    return net.train()


def _whole(source: str, where: str) -> EnhancerNet:
    net = resemble.load_model(source).net
    if net is None:
        raise ConfigError(where, f"{source} is a denoiser alone")
    return net


def _start_critics(config: TrainConfig) -> Discriminator:
    critics = Discriminator(config.autoencoder.discriminator)
    if config.init_from is None:
        return critics
    saved = checkpoint.read_others(config.init_from)
    if "critics" not in saved:
        logger.warning("%s brings no critics: they start anew", config.init_from)
        return critics
    try:
        critics.load_state_dict(saved["critics"])
    except RuntimeError as error:
        raise ConfigError(
            "autoencoder: discriminator", f"the critics of {config.init_from} have other sizes"
        ) from error
    return critics


def _describe(config: TrainConfig, net: EnhancerNet, kind: Any) -> ModelConfig:
    enhancer: EnhancerConfig = net.config
    return ModelConfig(kind=kind, name=config.name, denoiser=net.denoiser.config, enhancer=enhancer)
