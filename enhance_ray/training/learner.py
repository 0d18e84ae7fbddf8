"""One optimiser with its schedule: what turns a loss into a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from enhance_ray.errors import ConfigError
from enhance_ray.settings.ranges import Count, Positive, Whole
from enhance_ray.settings.schema import settings


@settings
class OptimizerConfig:
    """Adam with a linear warm-up and a linear decay; the defaults are the original's (spec 6.7)."""

    min_lr: Positive = 1e-5
    """Learning rate before the first and after the last step."""
    max_lr: Positive = 1e-4
    """Learning rate at the end of the warm-up."""
    warmup_steps: Whole = 1000
    """Steps from `min_lr` to `max_lr`."""
    max_steps: Count = 1_000_000
    """Steps of the whole run."""
    gradient_clipping: Positive = 1.0
    """Largest L2 norm of all gradients together."""
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Decay per step of the moving average of the weights, which is validated and saved; 0 is none."""

    def __post_init__(self) -> None:
        if self.min_lr > self.max_lr:
            raise ConfigError("max_lr", f"must be at least min_lr ({self.min_lr:g}), got {self.max_lr:g}")
        if self.warmup_steps >= self.max_steps:
            raise ConfigError(
                "max_steps", f"must be above warmup_steps ({self.warmup_steps}), got {self.max_steps}"
            )

    def lr(self, step: int) -> float:
        """Learning rate of the update number ``step``, counted from 0."""
        span = self.max_lr - self.min_lr
        if step < self.warmup_steps:
            return self.min_lr + span * step / self.warmup_steps
        return self.min_lr + span * max(0, self.max_steps - step) / (self.max_steps - self.warmup_steps)


class Learner:
    """The parameters of one network, or of the part of it that learns, and how far they have come."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], config: OptimizerConfig, device: torch.device
    ) -> None:
        """Start with no step done; parameters that ask for no gradient are left out."""
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.config = config
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.min_lr, fused=True)
        self.steps_done = 0
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        """Whether all gradients so far were. Asked when logging: at every step it would stall a GPU."""

    def step(self, loss: Tensor) -> Tensor:
        """Descend on ``loss``; the norm of the gradients before they are clipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr(self.steps_done)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clipping)
        self.finite &= torch.isfinite(norm)
        self.optimizer.step()
        self.steps_done += 1
        return norm.detach()

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"steps": self.steps_done, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self.steps_done = state["steps"]
        self.optimizer.load_state_dict(state["optimizer"])
