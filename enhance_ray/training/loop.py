"""The training loop: the same on a laptop and on every worker of a cluster (see `context`).

batches -> the stage's update (`tasks`) -> moving average
           every so often: log, validate, save a model folder that can be used and resumed
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from enhance_ray import checkpoint
from enhance_ray.errors import CheckpointError, ConfigError, TrainingDivergedError
from enhance_ray.memory import keep_large_blocks
from enhance_ray.models.precision import resolve_precision
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training import tasks, validation
from enhance_ray.training.board import Board
from enhance_ray.training.context import TrainContext
from enhance_ray.training.examples import Banks, Batch, Examples, Part, batches, load_banks
from enhance_ray.training.learner import OptimizerConfig
from enhance_ray.training.settings import TrainConfig

__all__ = ["OptimizerConfig", "TrainConfig", "Trainer", "run"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]


class Feed(Protocol):
    """Where batches come from."""

    def __call__(self, parts: tuple[Part, ...], *, first: int, steps: int) -> Iterator[Batch]:
        """This worker's batches of ``parts`` for ``steps`` steps, after example ``first`` of the run."""
        ...


def run(
    config: TrainConfig,
    context: TrainContext,
    *,
    feed: Feed | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train until `max_steps`, from the newest checkpoint of the run if there is one.

    Args:
        config: what to train.
        context: where, and whom to tell.
        feed: where batches come from; by default processes of this machine (`examples.batches`).
        progress: called with (step, steps in all, newest metrics) whenever there is news.

    Returns:
        The last validation's scores.

    Raises:
        ConfigError: the corpus or a model to start with cannot be used, or the run in this folder has other
            settings.
        CheckpointError: a model to start with cannot be read.
        TrainingDivergedError: loss or gradients are no longer finite.
    """
    if context.device.type == "cpu":
        keep_large_blocks()
    banks = load_banks(config.corpus, "train")
    validator = validation.Validator(
        load_banks(config.corpus, "valid"),
        config.examples,
        config.validation_examples,
        config.validation_seconds,
    )
    logger.info(
        "speech: %d recordings, noise: %d, rooms: %d", len(banks.speech), len(banks.noise), len(banks.rooms)
    )
    trainer = Trainer(config, context, banks)
    board_folder = context.folder if context.rank == 0 else None
    settings = trees.to_tree(config)
    # Examples of a run are of one length: cuDNN may try which of its ways is the fastest.
    tuned = torch.backends.cudnn.flags(enabled=True, benchmark=True)
    with Board(board_folder, track=config.track, name=config.name, settings=settings) as board, tuned:
        return _run(trainer, feed or _local_feed(config, context, banks), validator, board, progress)


class Trainer:
    """A stage's networks, their moving average, and how far they have come."""

    def __init__(self, config: TrainConfig, context: TrainContext, banks: Banks) -> None:
        """Start anew, or where the context's newest checkpoint stands."""
        self.config, self.context = config, context
        self.task = tasks.build(config, context, banks)
        self.net = self.task.net
        self.learning = {key: p for key, p in self.net.named_parameters() if p.requires_grad}
        self.average = {key: p.detach().clone() for key, p in self.learning.items()}
        self.examples_done = 0
        """Of all workers: where the run stands in the data."""
        folder = context.resume_from()
        if folder is not None:
            self._resume(folder)

    @property
    def steps_done(self) -> int:
        """Updates of the model so far."""
        return self.task.learners["generator"].steps_done

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; named numbers, still on the device."""
        on_device = {key: value.to(self.context.device, non_blocking=True) for key, value in batch.items()}
        with self.autocast():
            metrics = self.task.update(on_device)
        self._update_average(self.config.optimizer.ema_decay)
        self.examples_done += len(batch["index"]) * self.context.world_size
        return metrics

    def autocast(self) -> torch.autocast:
        """The precision of the convolutions."""
        device = self.context.device
        bf16 = resolve_precision(self.config.precision, device) == "bf16"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)

    def check_finite(self) -> None:
        """Stop before broken weights are saved or trained on.

        Raises:
            TrainingDivergedError: some step since the start had a non-finite gradient.
        """
        if not all(learner.finite for learner in self.task.learners.values()):
            raise TrainingDivergedError(
                self.steps_done, "loss or gradients are not finite; lower optimizer.max_lr, or train in fp32"
            )

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The net with the averaged weights, in evaluation mode, for the time of the block."""
        current = {key: p.detach().clone() for key, p in self.learning.items()}
        self._load(self.average)
        self.net.eval()
        try:
            yield self.net
        finally:
            self._load(current)
            self.net.train()

    def save(self, folder: Path) -> None:
        """Write a model folder that can be used (the average) and resumed (the state)."""
        self.check_finite()
        state = {
            "examples": self.examples_done,
            "weights": {key: p.detach() for key, p in self.learning.items()},
            "learners": {name: learner.state() for name, learner in self.task.learners.items()},
            "others": {name: net.state_dict() for name, net in self.task.others().items()},
            "train_config": trees.to_tree(self.config),
        }
        weights = {**self.net.state_dict(), **self.average}
        checkpoint.save(folder, self.task.model_config, weights, state=state)

    def _load(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for key, value in weights.items():
                self.learning[key].copy_(value)

    def _update_average(self, decay: float) -> None:
        # A young average forgets faster, or it would carry the random start along for long.
        done = self.steps_done - 1
        decay = min(decay, (1 + done) / (10 + done))
        with torch.no_grad():
            # All at once: one launch for each of hundreds of tensors would keep a GPU waiting.
            torch._foreach_lerp_(list(self.average.values()), list(self.learning.values()), 1 - decay)

    def _resume(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        if checkpoint.read_config(folder) != self.task.model_config:
            raise ConfigError(str(folder), "this run was started with another model; use another run folder")
        weights = checkpoint.read_weights(folder / checkpoint.WEIGHTS_NAME)
        if weights.keys() != self.net.state_dict().keys() or state["weights"].keys() != self.average.keys():
            raise CheckpointError(folder, "its weights are not those of this run's model")
        self.average = {key: weights[key].to(self.context.device) for key in self.average}
        self.net.load_state_dict({**weights, **state["weights"]})
        for name, learner in self.task.learners.items():
            learner.restore(state["learners"][name])
        for name, net in self.task.others().items():
            net.load_state_dict(state["others"][name])
        self.examples_done = state["examples"]
        logger.info("resumed %s at step %d", folder, self.steps_done)


def _local_feed(config: TrainConfig, context: TrainContext, banks: Banks) -> Feed:
    def feed(parts: tuple[Part, ...], *, first: int, steps: int) -> Iterator[Batch]:
        return batches(
            Examples(banks, config.examples, config.seed, parts),
            batch_size=config.batch_size,
            first=first,
            steps=steps,
            rank=context.rank,
            world_size=context.world_size,
            workers=config.workers,
        )

    return feed


def _run(
    trainer: Trainer, feed: Feed, validator: validation.Validator, board: Board, progress: Progress | None
) -> dict[str, float]:
    config, context, task = trainer.config, trainer.context, trainer.task
    last_step = config.optimizer.max_steps
    scores: dict[str, float] = {}
    meter = _Meter()
    stream = feed(task.parts, first=trainer.examples_done, steps=last_step - trainer.steps_done)
    for batch in meter.timed(stream):
        meter.add(trainer.step(batch))
        step = trainer.steps_done
        finished = step == last_step

        if step % config.log_every == 0 or finished:
            trainer.check_finite()
            metrics = {
                **context.mean(meter.read()),
                "lr": config.optimizer.lr(step - 1),
                "hours": trainer.examples_done * config.examples.crop_seconds / 3600,
                "workers": float(context.world_size),
            }
            board.scalars(step, "train", metrics)
            _report(context, step, "train", metrics)
            if progress is not None and context.rank == 0:
                progress(step, last_step, metrics)
        if step % config.validate_every == 0 or finished:
            with trainer.averaged(), trainer.autocast():
                scores, pictures = validator.run(task, context)
            board.scalars(step, "valid", scores)
            board.examples(step, pictures, MODEL_RATE)
            _report(context, step, "valid", scores)
            meter.restart()
        if step % config.checkpoint_every == 0 or finished:
            folder = context.folder / "saving"
            if context.rank == 0:
                trainer.save(folder)
            else:
                trainer.check_finite()
            context.report(
                step,
                {f"valid/{name}": value for name, value in scores.items()},
                checkpoint=folder if context.rank == 0 else None,
                saving=True,
            )
            meter.restart()
    return scores


def _report(context: TrainContext, step: int, group: str, values: dict[str, float]) -> None:
    named = {f"{group}/{name}": value for name, value in values.items()}
    context.report(step, named)
    if context.rank == 0:
        logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in named.items()))


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
