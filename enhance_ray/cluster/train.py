"""Training on Ray Train: the loop of `training.loop` on many workers, and what survives the loss of them.

    fit -> TorchTrainer -> a worker on each GPU: loop.run(config, RayContext, Feed)
                           checkpoints -> storage/run/step_...      curves -> storage/run/board

Workers average gradients (DDP) and statistics, share validation, and report together. When one of them dies,
the group starts again from the newest checkpoint; with a range of workers it grows and shrinks with the
cluster. The same command after the driver's death goes on where the run stood.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import fsspec
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from annotated_types import Ge
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor, nn

from enhance_ray.audio import is_remote
from enhance_ray.cluster.feed import DataConfig, RayFeed, check_corpus, corpus_for_workers
from enhance_ray.cluster.session import enter_job_folder, output_place, path_for_workers
from enhance_ray.errors import ConfigError, EnhanceRayError
from enhance_ray.settings import trees
from enhance_ray.settings.ranges import Count, CountOrRange, NotNegative, Positive, both
from enhance_ray.settings.schema import settings
from enhance_ray.training import loop
from enhance_ray.training.context import METRICS_NAME
from enhance_ray.training.settings import TrainConfig

logger = logging.getLogger(__name__)

BOARD = "board"
"""Folder in a run's storage for curves: TensorBoard's files and metrics by the step they start at."""


@settings
class ClusterConfig:
    """Where a training runs, and what it may cost."""

    storage: str = "runs"
    """Folder that all nodes see, or a URI such as s3://bucket/runs, for checkpoints and curves."""
    run: str | None = None
    """Name of the run below it; by default the model's name. An existing run goes on."""
    workers: CountOrRange = 1
    """Processes that train, one for each GPU; a range [least, most] follows the cluster's size."""
    cpus_per_worker: Positive = 1.0
    gpus_per_worker: NotNegative = 0.0
    """1 trains on GPUs, 0 on CPUs."""
    worker_resources: dict[str, float] = field(default_factory=dict)
    """Further resources that each worker holds: one of your own on the nodes that train keeps their CPUs from
    being taken by other work while the group grows."""
    data: DataConfig = field(default_factory=DataConfig)
    max_failures: Annotated[int, Ge(-1)] = 20
    """Lost workers or nodes that the run survives; -1 is any number."""
    keep: Count = 3
    """Checkpoints that are kept: those with the lowest validation loss, and the newest."""
    resize_seconds: Positive = 60.0
    """How often a range of workers looks whether the cluster has grown."""

    @property
    def worker_range(self) -> tuple[int, int]:
        """Least and most workers."""
        return both(self.workers)


@settings
class ClusterTrainConfig(TrainConfig):
    """A training run, and where it runs."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run ended."""

    checkpoint: str | None
    """The newest, as a path or URI."""
    best: str | None
    """The one with the lowest validation loss."""
    metrics: dict[str, float]
    """Of the last validation."""


def fit(config: ClusterTrainConfig) -> FitResult:
    """Train on the cluster that this process is connected to (`ray.init`), and wait for the end.

    Raises:
        ConfigError: the cluster cannot hold the smallest number of workers and a task for their data, or the
            corpus holds nothing.
        CheckpointError: a model to start with cannot be read.
        TrainingDivergedError: loss or gradients are no longer finite.
    """
    cluster = config.cluster
    _check_resources(cluster)
    check_corpus(config.corpus)
    tree = trees.to_tree(_as_workers_see_it(config))
    storage = output_place(cluster.storage)
    trainer = TorchTrainer(
        _train_on_worker,  # type: ignore[arg-type]
        train_loop_config={"config": tree, "storage": f"{storage}/{cluster.run or config.name}"},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,  # type: ignore[arg-type]
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster),
            elastic_resize_monitor_interval_s=cluster.resize_seconds,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=cluster.run or config.name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=cluster.keep,
                checkpoint_score_attribute="valid/loss",
                checkpoint_score_order="min",
            ),
            callbacks=[_Narrator()],  # type: ignore[list-item]
        ),
    )
    result = trainer.fit()
    if isinstance(result.return_value, EnhanceRayError):  # type: ignore[attr-defined]
        raise result.return_value  # type: ignore[attr-defined]
    best = result.get_best_checkpoint("valid/loss", "min") if result.best_checkpoints else None
    return FitResult(
        _uri(storage, result.checkpoint),
        _uri(storage, best),
        {k: v for k, v in (result.metrics or {}).items() if isinstance(v, float)},
    )


class RayContext:
    """One worker of a group on Ray Train."""

    def __init__(self, storage: str, folder: Path) -> None:
        """Find out who this worker is.

        Args:
            storage: the run's place, for curves.
            folder: of this worker, for what is written on the way.
        """
        train = ray.train.get_context()
        self.rank, self.world_size = train.get_world_rank(), train.get_world_size()
        self.device = ray.train.torch.get_device()
        self.folder = folder
        self._board = f"{storage}/{BOARD}"
        self._lines: list[str] = []
        self._first_step: int | None = None

    def wrap(self, module: nn.Module) -> nn.Module:
        """In DistributedDataParallel, if there are others."""
        wrapped: nn.Module = ray.train.torch.prepare_model(module, move_to_device=False)
        return wrapped

    def total(self, x: Tensor) -> Tensor:
        """The sum over the workers, through which gradients pass."""
        if self.world_size == 1:
            return x
        if x.requires_grad:
            from torch.distributed.nn.functional import all_reduce

            summed: Tensor = all_reduce(x)
            return summed
        x = x.clone()
        dist.all_reduce(x)
        return x

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the workers."""
        names = sorted(values)
        summed = self.total(torch.tensor([values[name] for name in names], device=self.device))
        return dict(zip(names, (summed / self.world_size).tolist(), strict=True))

    def gather(self, item: Any) -> list[Any]:
        """Every worker's item, by rank."""
        if self.world_size == 1:
            return [item]
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item)
        return items

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: Path | None = None,
        *,
        saving: bool = False,
    ) -> None:
        """Keep ``metrics``; with a checkpoint bring them to the storage and tell Ray Train, all together.

        Ray Train fetches a report every other second and lets the workers wait for it: too long to do so
        with every line of the log.
        """
        if not saving:
            if self.rank == 0 and metrics:
                self._first_step = self._first_step or step
                self._lines.append(json.dumps({"step": step, **metrics}) + "\n")
            return
        if self.rank == 0:
            self._upload_board()
        # Without a score a checkpoint counts as the worst, but the newest is kept in any case.
        ray.train.report(
            {"step": step, "valid/loss": float("inf"), **metrics},
            checkpoint=ray.train.Checkpoint.from_directory(str(checkpoint)) if checkpoint else None,
            checkpoint_dir_name=f"step_{step:08d}",
            delete_local_checkpoint_after_upload=True,
        )

    def resume_from(self) -> Path | None:
        """The newest checkpoint of the run, copied to this machine."""
        newest = ray.train.get_checkpoint()
        return Path(newest.to_directory(str(self.folder / "resumed"))) if newest else None

    def _upload_board(self) -> None:
        """Lines since the start of this worker group, which replace those of a group that died after them."""
        filesystem, root = fsspec.url_to_fs(self._board)
        filesystem.makedirs(root, exist_ok=True)
        name = f"{Path(METRICS_NAME).stem}-{self._first_step or 0:08d}.jsonl"
        with filesystem.open(f"{root}/{name}", "wt", encoding="utf-8") as file:
            file.writelines(self._lines)
        local = self.folder / "tensorboard"
        if local.is_dir():
            filesystem.put(f"{local}/", f"{root}/tensorboard/", recursive=True)


class _Narrator(UserCallback):
    """Says on the driver's log what happens to the run as a whole."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if checkpoint is not None:
            logger.info("step %d: checkpoint %s", metrics[0]["step"], checkpoint.path)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            logger.warning("worker %d stopped: %s", rank, str(error).strip().splitlines()[-1])


def _train_on_worker(arguments: dict[str, Any]) -> EnhanceRayError | None:
    """The loop; an error of ours is handed back, because what Ray sees raised it would try again."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    enter_job_folder()
    config = trees.from_tree(ClusterTrainConfig, arguments["config"])
    with tempfile.TemporaryDirectory(prefix="enhance-ray-") as folder:
        context = RayContext(arguments["storage"], Path(folder))
        feed = RayFeed(
            corpus=config.corpus,
            examples=config.examples,
            seed=config.seed,
            batch_size=config.batch_size,
            rank=context.rank,
            world_size=context.world_size,
            data=config.cluster.data,
            pin_memory=context.device.type == "cuda",
        )
        try:
            loop.run(config, context, feed=feed)
        except EnhanceRayError as error:
            return error
    return None


def _as_workers_see_it(config: ClusterTrainConfig) -> ClusterTrainConfig:
    """With paths that mean the same in every process."""

    def found(path: str | None) -> str | None:
        # Names of models such as "default" are no paths.
        return path_for_workers(path) if path and Path(path).exists() else path

    return dataclasses.replace(
        config,
        init_from=found(config.init_from),
        denoiser_from=found(config.denoiser_from),
        flow=dataclasses.replace(config.flow, autoencoder_from=found(config.flow.autoencoder_from)),
        corpus=corpus_for_workers(config.corpus),
    )


def _resources(cluster: ClusterConfig) -> dict[str, float]:
    resources = {"CPU": cluster.cpus_per_worker, **cluster.worker_resources}
    return {**resources, "GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else resources


def _check_resources(cluster: ClusterConfig) -> None:
    """Say at the start what would otherwise wait for ever."""
    least, most = cluster.worker_range
    have = ray.cluster_resources()
    if most > least:
        return  # nodes may yet come
    needs = {name: least * amount for name, amount in _resources(cluster).items()}
    if cluster.data.tasks:
        needs["CPU"] += 1
    for name, amount in needs.items():
        if amount > have.get(name, 0):
            raise ConfigError(
                "cluster: workers",
                f"{least} workers and their data need {amount:g} {name}, the cluster has "
                f"{have.get(name, 0):g}; ask for less, or give a range of workers to wait for nodes",
            )


def _uri(storage: str, checkpoint: Any) -> str | None:
    """A checkpoint's path as users write it: Ray's has no scheme."""
    if checkpoint is None:
        return None
    scheme = f"{storage.partition('://')[0]}://" if is_remote(storage) else ""
    return scheme + str(checkpoint.path).removeprefix(scheme)
