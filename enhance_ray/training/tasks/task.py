"""What every stage offers to the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from enhance_ray.checkpoint import ModelConfig
from enhance_ray.training.examples import Batch, Part
from enhance_ray.training.learner import Learner


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
