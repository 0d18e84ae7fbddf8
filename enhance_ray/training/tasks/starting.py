"""How the nets of each stage begin: new, or from models that a training is told of."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from enhance_ray import checkpoint, resemble
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.errors import ConfigError
from enhance_ray.models.denoiser import Denoiser
from enhance_ray.models.discriminators import Discriminator
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.training.settings import TrainConfig

logger = logging.getLogger(__name__)


def start_denoiser(config: TrainConfig) -> Denoiser:
    """A new denoiser, or that of ``init_from``, which grows a recurrent part where asked."""
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


def start_enhancer(config: TrainConfig, stage: str) -> EnhancerNet:
    """The model of ``init_from``; or else a new one for stage 1, and a new flow on a stage 1 for others.

    Its denoiser is that of ``denoiser_from`` where there is one.

    Raises:
        ConfigError: a model to build on is a denoiser alone.
        CheckpointError: such a model cannot be read.
    """
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


def start_repair(config: TrainConfig) -> EnhancerNet:
    """The model of ``init_from``. Where its repair net is of another kind, a new one begins with its weights;
    where it has none, with those of its denoiser, which leaves what is clean as it is."""
    assert config.init_from is not None
    first = _whole(config.init_from, "init_from")
    if first.repair is not None:
        if first.repair.config == config.model:
            return first.train()
        logger.warning(
            "the repair net of %s is not what `model` describes: a new one begins with its weights that fit",
            config.init_from,
        )
    net = EnhancerNet(dataclasses.replace(first.config, repair=config.model), first.denoiser.config)
    assert net.repair is not None
    ours = {key: value for key, value in first.state_dict().items() if not key.startswith("repair.")}
    net.load_state_dict(net.state_dict() | ours)
    _begin_as(net.repair, first.repair or first.denoiser)
    return net.train()


def _begin_as(net: Denoiser, trained: Denoiser) -> None:
    """Give ``net`` what fits of the weights of ``trained``, so that at first it answers much as that does."""
    state = net.state_dict()
    for key, weights in trained.state_dict().items():
        new = state.get(key)
        if new is None:
            continue
        if key == "net.input_proj.weight" and len(new) == len(weights):
            new.zero_()  # what is new in the input is not looked at yet
            new[:, : weights.shape[1]] = weights
        elif key.startswith("net.head.2.") and new.shape[1:] == weights.shape[1:]:
            new[: len(weights)] = weights  # a head that adds has more rows, which follow these
        elif new.shape == weights.shape:
            new.copy_(weights)


def _whole(source: str, where: str) -> EnhancerNet:
    net = resemble.load_model(source).net
    if net is None:
        raise ConfigError(where, f"{source} is a denoiser alone")
    return net


def start_critics(config: TrainConfig) -> Discriminator:
    """New critics, or those that the model of ``init_from`` brings.

    Raises:
        ConfigError: they have other sizes.
    """
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


def describe(config: TrainConfig, net: EnhancerNet, kind: Any) -> ModelConfig:
    """What a checkpoint says of ``net``."""
    enhancer: EnhancerConfig = net.config
    return ModelConfig(kind=kind, name=config.name, denoiser=net.denoiser.config, enhancer=enhancer)
