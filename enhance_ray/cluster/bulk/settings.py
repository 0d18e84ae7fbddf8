"""What a bulk job is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import EnhanceOptions, Precision, refuse_all_tracks
from enhance_ray.settings.ranges import (
    Count,
    CountOrRange,
    Name,
    NotEmpty,
    NotNegative,
    Percent,
    Positive,
    Whole,
    both,
)
from enhance_ray.settings.schema import settings


@settings
class Machine:
    """A kind of machine that a cluster could have."""

    name: Name
    price_per_hour: NotNegative
    """Of the whole machine, in the currency of the other prices."""
    speed: Positive
    """Seconds of one channel that an actor there does in a second, by a run of a few minutes."""
    actors: Count = 1
    """That it has room for."""


@settings
class Pool:
    """Actors of one kind. The keys are those of `BulkConfig`."""

    actors: CountOrRange = 1
    cpus_per_actor: NotNegative = 1.0
    gpus_per_actor: NotNegative = 0.0
    device: str = "auto"
    batch_size: Count | None = None


@settings
class BulkConfig:
    """From where to where, what is done, and what it may cost."""

    input: Name | NotEmpty[Name]
    """Folder or prefix; a glob (``s3://bucket/shows/**/*.mp3``); one recording or shard; or a manifest:
    .parquet, .jsonl or .csv with a column "uri" and perhaps bytes, etag, last_modified and output. Its other
    columns are carried through to the records. A table of Delta Lake is named by its folder `_delta_log`, one
    of Iceberg by a `.metadata.json`. `manifest.json` is what S3 Inventory writes. Or several of
    these: the names of their outputs begin with the bucket."""
    output: Name
    """Folder or prefix; the job's own files are in `records.JOB_FOLDER` below it."""
    model: str = "default"
    """As `Enhancer.load` takes it; nodes must be able to read it, so a URI on a cluster."""
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    layout: Literal["tree", "content"] = "tree"
    """``tree`` keeps the inputs' names; ``content`` names an output by a hash of its input's URI and etag."""
    partial: bool = False
    """Keep what can be decoded of damaged inputs; their records carry a warning."""
    scores: bool = False
    """Have records say how good inputs and outputs sound, before and after (`engine.scores`)."""

    actors: CountOrRange = 1
    """Copies of the model; a range [least, most] follows the cluster's size."""
    cpus_per_actor: NotNegative = 1.0
    gpus_per_actor: NotNegative = 0.0
    """1 for a GPU each; a fraction lets several share one."""
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = True
    """Compile parts of the enhancer in every actor; torch keeps the result on the node's disk."""
    batch_size: Count | None = None
    """Segments that run at once, of any files; by default what suits the device."""
    pools: tuple[Pool, ...] = ()
    """More actors, of other kinds, such as CPUs beside GPUs. All take parts of the same job, each as fast as
    it can; at the end, those for whom the others would have to wait take none."""
    files_at_once: Count = 4
    """Files that an actor has open, a thread each, which decodes and encodes."""

    files_per_part: Count = 1000
    """Most files of a part of the manifest: what an actor takes at once, with one table of records."""
    gigabytes_per_part: Positive = 1.0
    """The same in size. Small jobs get smaller parts, so that all actors have some."""
    listing_threads: Count = 16
    """Folders that are listed at the same time."""

    max_failed: Whole | NotNegative | Percent | None = "10%"
    """Failures that stop the job: a number; or a share such as "1%", which counts from a hundred files on;
    null for never."""
    patience_seconds: NotNegative = 300.0
    """How long a storage that fails is asked again before that is a file's failure."""
    flush_seconds: Positive = 30.0
    """How often an actor writes down what it finished: what a lost one may have to do again."""
    stall_minutes: Positive = 30.0
    """An actor in which nothing at all has moved for so long gives up, and its files are tried elsewhere."""
    lease_seconds: Positive = 120.0
    """An actor that is not heard of for so long is ended, and its files are tried elsewhere; it tells its
    news every second, or in a fleet of more than 20 so that all together say 20 things a second."""
    price_per_gpu_hour: NotNegative | None = None
    """In any currency; for the bill."""
    price_per_cpu_hour: NotNegative | None = None
    machines: tuple[Machine, ...] = ()
    """Kinds of machines that a plan compares."""
    max_cost: Positive | None = None
    """What all runs of the job together may cost, by those prices. Then it stops; a higher limit goes on."""

    def __post_init__(self) -> None:
        for kind in self._kinds:
            if not kind.cpus_per_actor + kind.gpus_per_actor:
                raise ConfigError("cpus_per_actor, gpus_per_actor", "must not both be 0")
        refuse_all_tracks(self.options, "bulk jobs")
        if self.max_cost is not None and self.price_per_actor_hour is None:
            raise ConfigError("max_cost", "needs price_per_gpu_hour or price_per_cpu_hour")

    @property
    def inputs(self) -> tuple[str, ...]:
        """One or more."""
        return (self.input,) if isinstance(self.input, str) else self.input

    @property
    def source(self) -> str:
        """The inputs, for people."""
        return ", ".join(self.inputs)

    @property
    def actor_range(self) -> tuple[int, int]:
        """Least and most actors, without those of `pools`."""
        return both(self.actors)

    @property
    def most_actors(self) -> int:
        """Of all kinds."""
        return sum(both(kind.actors)[1] for kind in self._kinds)

    @property
    def _kinds(self) -> tuple[BulkConfig | Pool, ...]:
        return (self, *self.pools)

    @property
    def by_kind(self) -> tuple[BulkConfig, ...]:
        """The settings for each kind of actors: the job's own, and those of `pools`."""
        own = dataclasses.replace(self, pools=())
        keys = [each.name for each in dataclasses.fields(Pool)]
        return (
            own,
            *(dataclasses.replace(own, **{key: getattr(pool, key) for key in keys}) for pool in self.pools),
        )

    @property
    def news_seconds(self) -> float:
        """How often an actor tells the ledger what it does: every second, but in a large fleet less often."""
        return min(self.lease_seconds / 2, max(_NEWS_SECONDS, self.most_actors / _NEWS_PER_SECOND))

    @property
    def seconds_between_flushes(self) -> float:
        """`flush_seconds`; in a large fleet at least `news_seconds`, since the ledger is asked each time."""
        is_large = self.news_seconds > _NEWS_SECONDS
        return max(self.flush_seconds, self.news_seconds) if is_large else self.flush_seconds

    @property
    def price_per_actor_hour(self) -> float | None:
        """What an actor costs in an hour; None where no price is given."""
        if self.price_per_gpu_hour is None and self.price_per_cpu_hour is None:
            return None
        gpus = self.gpus_per_actor * (self.price_per_gpu_hour or 0.0)
        return gpus + self.cpus_per_actor * (self.price_per_cpu_hour or 0.0)

    def cost(self, hours: Mapping[int, float]) -> float | None:
        """What actors cost that were there for so many ``hours``, by kind; None where no price is given."""
        prices = [kind.price_per_actor_hour or 0.0 for kind in self.by_kind]
        if self.price_per_actor_hour is None:
            return None
        # A run before may have had more kinds.
        return sum(prices[kind if kind < len(prices) else 0] * of_kind for kind, of_kind in hours.items())

    def too_many_failed(self, failed: int, finished: int) -> bool:
        """Whether ``failed`` of ``finished`` files are more than `max_failed` allows."""
        limit = self.max_failed
        if limit is None:
            return False
        if isinstance(limit, str):
            share = float(limit.strip().removesuffix("%")) / 100
            return finished >= _SHARE_COUNTS_FROM and failed > finished * share
        return failed > limit


_SHARE_COUNTS_FROM = 100
"""Finished files: a share of a handful says nothing."""
_NEWS_SECONDS = 1.0
_NEWS_PER_SECOND = 20
"""Of all actors together."""
