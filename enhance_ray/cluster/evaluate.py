"""`evaluation` on a cluster: pairs shared out over actors that each hold the models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import ray.data
from annotated_types import Predicate
from ray.data import ActorPoolStrategy

from enhance_ray import __version__, evaluation, report
from enhance_ray.cluster.feed import corpus_for_workers
from enhance_ray.cluster.session import output_place, path_for_workers
from enhance_ray.evaluation import EvaluateConfig, Item, Row, Scored, Scorer, page
from enhance_ray.evaluation.examples import Excerpt, ShownPair, excerpt
from enhance_ray.settings.ranges import Count, NotNegative, Positive, Words
from enhance_ray.settings.schema import settings

Page = Annotated[str, Predicate(lambda path: path.endswith(".html")), Words("a path that ends in .html")]


@settings
class EvaluateClusterConfig:
    """What an evaluation may use, and where its outcome goes."""

    actors: Count = 1
    """Copies of the models."""
    cpus_per_actor: Positive = 1.0
    gpus_per_actor: NotNegative = 0.0
    output: str | None = None
    """Folder or URI for the rows, as Parquet."""
    report: Page | None = None
    """Path or URI for the page."""


@settings
class EvaluateJobConfig(EvaluateConfig):
    """An evaluation, and where it runs."""

    cluster: EvaluateClusterConfig = field(default_factory=EvaluateClusterConfig)


class _Actor:
    """One copy of the models. Items come by number, outcomes go as text: rows of a dataset must be alike."""

    def __init__(self, config: EvaluateJobConfig, items: Sequence[Item]) -> None:
        self.items = items
        self.scorer = Scorer(config)


class _ScoringActor(_Actor):
    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        outcome = self.scorer(self.items[row["id"]])
        return {"id": row["id"], "rows": json.dumps(outcome.rows), "failed": outcome.failed or ""}


class _ListeningActor(_Actor):
    """What there is to hear of the pairs that the page shows, cut to what it shows."""

    def __init__(
        self, config: EvaluateJobConfig, items: Sequence[Item], choices: Sequence[ShownPair]
    ) -> None:
        super().__init__(config, items)
        self.choices = choices

    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        heard = self.scorer.hear(self.items[row["id"]])
        seconds = self.scorer.config.page.example_seconds
        waveforms = excerpt(self.choices[row["id"]], heard, seconds).waveforms
        return {"id": row["id"], "systems": list(waveforms), "waveforms": np.stack(list(waveforms.values()))}


def evaluate(config: EvaluateJobConfig) -> list[Scored]:
    """What became of every pair, in their order; rows and page are written where `config.cluster` says.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: a folder or the table cannot be used, or matplotlib is absent and a page is asked for.
        RayError: an actor could not use the corpus or a model; its cause is the error of this package.
    """
    cluster = config.cluster
    if cluster.report is not None:
        report.require_pictures()
    config = evaluation.resolve(_for_workers(config))
    items = evaluation.plan(config)
    outcomes = [
        Scored(items[answer["id"]], json.loads(answer["rows"]), answer["failed"] or None)
        for answer in _share_out(config, items, _ScoringActor, (config, items))
    ]
    rows: list[Row] = [row for outcome in outcomes for row in outcome.rows]
    if cluster.output and rows:
        ray.data.from_items(rows, override_num_blocks=1).write_parquet(output_place(cluster.output))
    if cluster.report is not None:
        choices = page.select(rows, config)
        shown = [next(item for item in items if choice.is_of(item)) for choice in choices]
        excerpts = [
            Excerpt(choices[answer["id"]], dict(zip(answer["systems"], answer["waveforms"], strict=True)))
            for answer in _share_out(config, shown, _ListeningActor, (config, shown, choices))
        ]
        each = f"{cluster.cpus_per_actor:g} CPUs and {cluster.gpus_per_actor:g} GPUs"
        work = f"enhance_ray {__version__}. Models ran in {cluster.actors} actors on Ray, each with {each}."
        page.write(output_place(cluster.report), page.page(outcomes, config, excerpts, work=work))
    return outcomes


def _share_out(
    config: EvaluateJobConfig, items: Sequence[Item], actor: Callable[..., Any], arguments: tuple[Any, ...]
) -> list[dict[str, Any]]:
    """What actors make of each of ``items``, in their order."""
    if not items:
        return []
    cluster = config.cluster
    answers = ray.data.range(len(items), override_num_blocks=len(items)).map(
        actor,
        fn_constructor_args=arguments,
        compute=ActorPoolStrategy(size=min(cluster.actors, len(items))),
        num_cpus=cluster.cpus_per_actor,
        num_gpus=cluster.gpus_per_actor,
    )
    return sorted(answers.take_all(), key=lambda answer: int(answer["id"]))


def _for_workers(config: EvaluateJobConfig) -> EvaluateJobConfig:
    """With every path as processes of the cluster find it."""

    def model(name: str | None) -> str | None:
        return path_for_workers(name) if name is not None and Path(name).exists() else name

    def folder(name: str | None) -> str | None:
        return None if name is None else path_for_workers(name)

    systems = tuple(
        dataclasses.replace(system, model=model(system.model), folder=folder(system.folder))
        for system in config.systems
    )
    return dataclasses.replace(
        config,
        model=model(config.model) or config.model,
        systems=systems,
        clean=folder(config.clean),
        noisy=folder(config.noisy),
        corpus=corpus_for_workers(config.corpus),
    )
