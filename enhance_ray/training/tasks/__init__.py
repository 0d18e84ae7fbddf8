"""The stages of training: which networks, what of them learns, one update, and what it sounds like.

    task           what every stage offers to the loop
    denoiser       the denoiser alone, and the repair net behind it, which the original lacks
    autoencoder    stage 1: autoencoder and vocoder, with critics from some step on
    flow           stage 2: the flow, and if wanted the denoiser, on a frozen stage 1; and another one for the
                   flow, which the original lacks: distillation, to need fewer evaluations
    vocoder        a third one, which the original lacks: the vocoder on what the flow gives
    starting       how the nets of each begin

A task owns networks and learners; the loop owns time, the moving average and checkpoints.
"""

from __future__ import annotations

import torch

from enhance_ray.training.context import TrainContext
from enhance_ray.training.examples import Banks
from enhance_ray.training.settings import TrainConfig
from enhance_ray.training.tasks.autoencoder import AutoencoderTask
from enhance_ray.training.tasks.denoiser import DenoiserTask, RepairTask
from enhance_ray.training.tasks.flow import DistilTask, FlowTask
from enhance_ray.training.tasks.task import Task
from enhance_ray.training.tasks.vocoder import VocoderTask

__all__ = ["Task", "build"]


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
