"""Training examples through Ray Data: made by tasks all over the cluster, streamed to the workers.

    steps -> tasks: read, crop, degrade, mix (`training.examples`) -> batches in order -> this worker

An example is a function of (seed, epoch, index), and a row of the dataset is a step of one worker: which
examples that step needs follows from its number. So order, retries, the number of tasks and of workers change
nothing, no list of the corpus moves through the cluster, and a training goes on at any step at once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray.data
import torch
from ray.data import TaskPoolStrategy

from enhance_ray.audio import is_remote
from enhance_ray.cluster.session import path_for_workers
from enhance_ray.settings.ranges import Count, Whole
from enhance_ray.settings.schema import settings
from enhance_ray.training.examples import (
    Banks,
    Batch,
    CorpusConfig,
    ExampleConfig,
    Examples,
    Part,
    batch_indices,
    load_banks,
)
from enhance_ray.training.sources import join, list_sources

STEPS_PER_DATASET = 1024
"""Steps that one dataset plans ahead: a million at once would be as many blocks."""


@settings
class DataConfig:
    """How examples are made on the cluster."""

    tasks: Whole = 2
    """Tasks at once for each worker, a CPU each; 0 makes examples in the worker itself, between steps."""
    steps_per_task: Count = 2
    """Batches that a task makes in a row, at most."""
    prefetch: Count = 4
    """Batches that wait for a worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayFeed:
    """Batches of one worker (`training.loop.Feed`)."""

    corpus: CorpusConfig
    examples: ExampleConfig
    seed: int
    batch_size: int
    rank: int
    world_size: int
    data: DataConfig
    pin_memory: bool = False

    def __call__(self, parts: tuple[Part, ...], *, first: int, steps: int) -> Iterator[Batch]:
        """This worker's batches of ``parts`` for ``steps`` steps, after example ``first`` of the run."""
        if self.data.tasks == 0:
            for step in range(steps):
                yield self._tensors(self._make(parts, first, step))
            return
        for start in range(0, steps, STEPS_PER_DATASET):
            count = min(STEPS_PER_DATASET, steps - start)
            after = first + start * self.batch_size * self.world_size
            yield from self._stream(parts, after, count)

    def _stream(self, parts: tuple[Part, ...], first: int, steps: int) -> Iterator[Batch]:
        def make(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            made = [self._make(parts, first, int(step)) for step in rows["id"]]
            return {name: np.concatenate([batch[name] for batch in made]) for name in made[0]}

        # Blocks that are there, described by this process: of others, Ray Data asks a task what is in them.
        dataset = ray.data.from_items(
            [{"id": step} for step in range(steps)],
            override_num_blocks=math.ceil(steps / self.data.steps_per_task),
        ).map_batches(
            make,
            batch_size=None,
            compute=TaskPoolStrategy(size=self.data.tasks),
            num_cpus=1,
            # A batch comes whole: examples are found again by where they lie in it.
            zero_copy_batch=True,
        )
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        for batch in dataset.iterator().iter_batches(
            batch_size=self.batch_size, batch_format="numpy", prefetch_batches=self.data.prefetch
        ):
            yield self._tensors(batch)

    def _make(self, parts: tuple[Part, ...], first: int, step: int) -> dict[str, np.ndarray]:
        examples = Examples(_banks(self.corpus), self.examples, self.seed, parts)
        rows = [
            examples[index]
            for index in batch_indices(first, self.batch_size, self.rank, self.world_size, step)
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _tensors(self, batch: dict[str, np.ndarray]) -> Batch:
        # Copied: what comes out of the object store is read-only, and is given back to it.
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in batch.items()}
        return {name: t.pin_memory() for name, t in tensors.items()} if self.pin_memory else tensors


def corpus_for_workers(corpus: CorpusConfig) -> CorpusConfig:
    """``corpus`` with paths that processes of the cluster find (`session.path_for_workers`)."""
    cache = Path(path_for_workers(str(corpus.cache)))
    return dataclasses.replace(corpus, root=path_for_workers(corpus.root), cache=cache)


def check_corpus(corpus: CorpusConfig) -> None:
    """List what ``corpus`` names, so that a run that cannot begin costs no worker its start.

    Folders that this machine does not see are left to the workers, which may see them.

    Raises:
        ConfigError: an entry does not exist, cannot be read or holds nothing.
    """
    for entries in (corpus.speech, corpus.noise):
        places = [join(corpus.root, entry) for entry in entries]
        if all(is_remote(place) or Path(place).exists() for place in places):
            list_sources(corpus.root, entries, "train", corpus.held_out_every)


@functools.lru_cache(maxsize=1)
def _banks(corpus: CorpusConfig) -> Banks:
    """What examples are made of, loaded once by each process that makes some."""
    return load_banks(corpus, "train")
