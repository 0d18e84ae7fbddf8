"""The training loop: the same on a laptop and on every worker of a cluster (see `context`).

batches -> step -> gradients -> clip -> Adam -> moving average
                    every so often: log, validate, save a model folder that can be used and resumed
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from enhance_ray import checkpoint
from enhance_ray import config as configuration
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.errors import CheckpointError, ConfigError, TrainingDivergedError
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig
from enhance_ray.options import MODEL_RATE
from enhance_ray.training import validation
from enhance_ray.training.board import Board
from enhance_ray.training.context import TrainContext
from enhance_ray.training.examples import Banks, CorpusConfig, ExampleConfig, Examples, batches, load_banks
from enhance_ray.training.losses import DenoiserLossConfig
from enhance_ray.training.stages import denoiser_step

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Adam with a linear warm-up and a linear decay; the defaults are the original's (spec 6.7).

    Raises:
        ConfigError: a value is out of its range.
    """

    min_lr: float = 1e-5
    """Learning rate before the first and after the last step."""
    max_lr: float = 1e-4
    """Learning rate at the end of the warm-up."""
    warmup_steps: int = 1000
    """Steps from `min_lr` to `max_lr`."""
    max_steps: int = 1_000_000
    """Steps of the whole run."""
    gradient_clipping: float = 1.0
    """Largest L2 norm of all gradients together."""
    ema_decay: float = 0.0
    """Decay per step of the moving average of the weights, which is validated and saved; 0 is none."""

    def __post_init__(self) -> None:
        if not 0 < self.min_lr <= self.max_lr:
            raise ConfigError("min_lr, max_lr", "expected 0 < min_lr <= max_lr")
        if not 0 <= self.warmup_steps < self.max_steps:
            raise ConfigError("warmup_steps, max_steps", "expected 0 <= warmup_steps < max_steps")
        if self.gradient_clipping <= 0:
            raise ConfigError("gradient_clipping", f"must be positive, got {self.gradient_clipping}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError("ema_decay", f"must be within [0, 1), got {self.ema_decay}")

    def lr(self, step: int) -> float:
        """Learning rate of the update number ``step``, counted from 0."""
        span = self.max_lr - self.min_lr
        if step < self.warmup_steps:
            return self.min_lr + span * step / self.warmup_steps
        return self.min_lr + span * max(0, self.max_steps - step) / (self.max_steps - self.warmup_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    stage: Literal["denoiser"] = "denoiser"
    """Which networks learn what."""
    name: str = "denoiser"
    """Name of the model, for its config.yaml and reports."""
    seed: int = 0
    """Decides the initial weights and every example."""
    batch_size: int = 32
    """Examples per worker and step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the convolutions; weights, gradients' sums and the loss are float32 in any case."""
    model: DenoiserConfig = field(default_factory=DenoiserConfig)
    init_from: str | None = None
    """Model folder, or "default", whose weights a new run starts with: fine-tuning."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    loss: DenoiserLossConfig = field(default_factory=DenoiserLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    log_every: int = 50
    """Steps between lines of the log."""
    validate_every: int = 5000
    """Steps between validations."""
    checkpoint_every: int = 5000
    """Steps between checkpoints; there is one at the end, too."""
    validation_examples: int = 32
    """Size of the validation set, which is the same every time."""
    validation_seconds: float = 5.0
    """Length of a validation example."""
    workers: int = 1
    """Processes that make examples; 0 makes them in the training process."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "validate_every", "checkpoint_every", "validation_examples"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.workers < 0:
            raise ConfigError("workers", f"must not be negative, got {self.workers}")


def run(config: TrainConfig, context: TrainContext, *, progress: Progress | None = None) -> dict[str, float]:
    """Train until `max_steps`, from the newest checkpoint of the run if there is one.

    Args:
        config: what to train.
        context: where, and whom to tell.
        progress: called with (step, steps in all, newest metrics) whenever there is news.

    Returns:
        The last validation's scores.

    Raises:
        ConfigError: the corpus cannot be used, or the run in this folder has other settings.
        TrainingDivergedError: loss or gradients are no longer finite.
    """
    banks = load_banks(config.corpus, "train")
    validator = validation.Validator(
        load_banks(config.corpus, "valid"),
        config.examples,
        config.loss,
        config.validation_examples,
        config.validation_seconds,
    )
    logger.info(
        "speech %.1f h, noise %.1f h, %d rooms",
        banks.speech.seconds / 3600,
        banks.noise.seconds / 3600,
        len(banks.rooms),
    )
    trainer = Trainer(config, context)
    with Board(context.folder if context.rank == 0 else None) as board:
        return _run(trainer, banks, validator, board, progress)


class Trainer:
    """Weights, their moving average, the optimiser and how many steps they have taken."""

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        """Start anew, or where the context's newest checkpoint stands."""
        self.config, self.context = config, context
        torch.manual_seed(config.seed)
        self.denoiser = self._initial_denoiser().to(context.device)
        # The faster layout for narrow convolutions, on CPU and GPU alike.
        self.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.wrapped = context.wrap(self.denoiser)
        self.optimizer = torch.optim.Adam(self.denoiser.parameters(), lr=config.optimizer.min_lr)
        self.average = {key: value.detach().clone() for key, value in self.denoiser.state_dict().items()}
        self.steps_done = 0
        self.finite = torch.ones((), dtype=torch.bool, device=context.device)
        folder = context.resume_from()
        if folder is not None:
            self._resume(folder)

    def step(self, noisy: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One update; named numbers, still on the device."""
        settings = self.config.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr(self.steps_done)
        with self.autocast():
            loss, metrics, _ = denoiser_step(
                self.wrapped,
                noisy.to(self.context.device, non_blocking=True),
                target.to(self.context.device, non_blocking=True),
                self.config.loss,
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.denoiser.parameters(), settings.gradient_clipping)
        # Looked at when logging and before saving: asking at every step would stall a GPU.
        self.finite &= torch.isfinite(norm)
        self.optimizer.step()
        self._update_average(settings.ema_decay)
        self.steps_done += 1
        return {**metrics, "loss": loss.detach(), "gradient_norm": norm.detach()}

    def autocast(self) -> torch.autocast:
        """The precision of the convolutions."""
        return torch.autocast(
            self.context.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def check_finite(self) -> None:
        """Stop before broken weights are saved or trained on.

        Raises:
            TrainingDivergedError: some step since the start had a non-finite gradient.
        """
        if not self.finite:
            raise TrainingDivergedError(
                self.steps_done, "loss or gradients are not finite; lower optimizer.max_lr, or train in fp32"
            )

    @contextmanager
    def averaged(self) -> Iterator[Denoiser]:
        """The denoiser with the averaged weights, in evaluation mode, for the time of the block."""
        current = {key: value.detach().clone() for key, value in self.denoiser.state_dict().items()}
        self.denoiser.load_state_dict(self.average)
        self.denoiser.eval()
        try:
            yield self.denoiser
        finally:
            self.denoiser.load_state_dict(current)
            self.denoiser.train()

    def save(self, folder: Path) -> None:
        """Write a model folder that can be used (the average) and resumed (the state)."""
        self.check_finite()
        state = {
            "step": self.steps_done,
            "weights": self.denoiser.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "train_config": configuration.to_tree(self.config),
        }
        model_config = ModelConfig(name=self.config.name, denoiser=self.config.model)
        checkpoint.save(folder, model_config, self.average, state=state)

    def _initial_denoiser(self) -> Denoiser:
        if self.config.init_from is None:
            return Denoiser(self.config.model)
        loaded = checkpoint.load(self.config.init_from)
        if loaded.config.denoiser != self.config.model:
            raise ConfigError(
                "init_from",
                f"the model in {loaded.path} has other sizes than this run: {loaded.config.denoiser}",
            )
        return loaded.denoiser.requires_grad_(True).train()

    def _update_average(self, decay: float) -> None:
        # A young average forgets faster, or it would carry the random start along for long.
        decay = min(decay, (1 + self.steps_done) / (10 + self.steps_done))
        with torch.no_grad():
            for key, value in self.denoiser.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)

    def _resume(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        saved = configuration.from_tree(DenoiserConfig, state["train_config"]["model"], where=str(folder))
        if saved != self.config.model:
            raise ConfigError(str(folder), "this run was started with another model; use another run folder")
        self.denoiser.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        average = checkpoint.read_weights(folder / checkpoint.WEIGHTS_NAME)
        if average.keys() != self.average.keys():
            raise CheckpointError(folder, "its weights are not those of this run's model")
        self.average = {key: value.to(self.context.device) for key, value in average.items()}
        self.steps_done = state["step"]
        logger.info("resumed %s at step %d", folder, self.steps_done)


def _run(
    trainer: Trainer, banks: Banks, validator: validation.Validator, board: Board, progress: Progress | None
) -> dict[str, float]:
    config, context = trainer.config, trainer.context
    last_step = config.optimizer.max_steps
    audio_per_step = config.batch_size * context.world_size * config.examples.crop_seconds / 3600
    scores: dict[str, float] = {}
    meter = _Meter()
    stream = batches(
        Examples(banks, config.examples, config.seed),
        batch_size=config.batch_size,
        first_step=trainer.steps_done,
        last_step=last_step,
        rank=context.rank,
        world_size=context.world_size,
        workers=config.workers,
    )
    for noisy, target in meter.timed(stream):
        meter.add(trainer.step(noisy, target))
        step = trainer.steps_done
        finished = step == last_step

        if step % config.log_every == 0 or finished:
            trainer.check_finite()
            metrics = {
                **meter.read(),
                "lr": config.optimizer.lr(step - 1),
                "hours": step * audio_per_step,
            }
            board.scalars(step, "train", metrics)
            context.report(step, {f"train/{name}": value for name, value in metrics.items()})
            if progress is not None:
                progress(step, last_step, metrics)
        if step % config.validate_every == 0 or finished:
            with trainer.averaged() as denoiser, trainer.autocast():
                scores, pictures = validator.run(denoiser, context.device)
            board.scalars(step, "valid", scores)
            board.examples(step, pictures, MODEL_RATE)
            context.report(step, {f"valid/{name}": value for name, value in scores.items()})
            logger.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))
            meter.restart()
        if step % config.checkpoint_every == 0 or finished:
            folder = context.folder / "saving"
            trainer.save(folder)
            context.report(step, {}, checkpoint=folder)
            meter.restart()
    return scores


class _Meter:
    """Means over the steps since the last reading, and where the time went."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def timed(self, stream: Iterator[Any]) -> Iterator[Any]:
        """Pass ``stream`` on, and count the time spent waiting for it."""
        while True:
            asked = time.perf_counter()
            item = next(stream, None)
            self.waited += time.perf_counter() - asked
            if item is None:
                return
            yield item

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1

    def read(self) -> dict[str, float]:
        means = {name: float(value) / self.steps for name, value in self.sums.items()} if self.steps else {}
        elapsed = time.perf_counter() - self.started
        means["steps_per_second"] = self.steps / elapsed
        means["waiting_for_data"] = self.waited / elapsed
        self.restart()
        return {name: value for name, value in means.items() if math.isfinite(value)}
