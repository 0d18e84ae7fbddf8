"""`evaluation` on a cluster: examples shared out over actors that each hold the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import ray.data
from ray.data import ActorPoolStrategy

from enhance_ray import evaluation
from enhance_ray.cluster.data import corpus_for_workers
from enhance_ray.cluster.session import output_place, path_for_workers
from enhance_ray.errors import ConfigError
from enhance_ray.evaluation import EvaluateConfig, Row
from enhance_ray.pipeline import Enhancer
from enhance_ray.training.examples import load_banks


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateClusterConfig:
    """What an evaluation may use.

    Raises:
        ConfigError: a value is out of its range.
    """

    actors: int = 1
    """Copies of the model."""
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    output: str | None = None
    """Folder or URI for the rows, as Parquet."""

    def __post_init__(self) -> None:
        if self.actors < 1 or self.cpus_per_actor <= 0 or self.gpus_per_actor < 0:
            raise ConfigError("actors, cpus_per_actor, gpus_per_actor", "must be positive, GPUs may be 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateJobConfig(EvaluateConfig):
    """An evaluation, and where it runs."""

    cluster: EvaluateClusterConfig = field(default_factory=EvaluateClusterConfig)


class _Scorer:
    """One actor."""

    def __init__(self, config: EvaluateJobConfig) -> None:
        self.config = config
        self.banks = load_banks(config.corpus, "valid")
        self.enhancer = Enhancer.load(config.model, denoiser_only="enhance" not in config.modes)

    def __call__(self, row: dict[str, int]) -> list[Row]:
        return list(evaluation.score(self.enhancer, self.banks, self.config, int(row["id"])))


def evaluate(config: EvaluateJobConfig) -> list[Row]:
    """All rows, in the order of the examples; written to `output`, too.

    Raises:
        RayError: an actor could not use the corpus or the model; its cause is the error of this package.
    """
    model = path_for_workers(config.model) if Path(config.model).exists() else config.model
    config = dataclasses.replace(config, model=model, corpus=corpus_for_workers(config.corpus))
    cluster = config.cluster
    dataset = ray.data.range(config.count, override_num_blocks=config.count).flat_map(
        _Scorer,
        fn_constructor_args=(config,),
        compute=ActorPoolStrategy(size=cluster.actors),
        num_cpus=cluster.cpus_per_actor,
        num_gpus=cluster.gpus_per_actor,
    )
    rows: list[Row] = sorted(dataset.take_all(), key=lambda row: row["index"])
    if cluster.output:
        ray.data.from_items(rows).write_parquet(output_place(cluster.output))
    return rows
