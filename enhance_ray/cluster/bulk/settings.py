"""What a bulk job is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from enhance_ray.errors import ConfigError
from enhance_ray.options import EnhanceOptions, Precision, refuse_all_tracks


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkConfig:
    """From where to where, what is done, and what it may cost.

    Raises:
        ConfigError: a value is out of its range.
    """

    input: str
    """Folder or prefix; a glob (``s3://bucket/shows/**/*.mp3``); one recording or shard; or a manifest:
    .parquet, .jsonl or .csv with a column "uri" and perhaps bytes, etag, last_modified and output. Its other
    columns are carried through to the records."""
    output: str
    """Folder or prefix; the job's own files are in `state.FOLDER` below it."""
    model: str = "default"
    """As `Enhancer.load` takes it; nodes must be able to read it, so a URI on a cluster."""
    options: EnhanceOptions = field(default_factory=EnhanceOptions)
    layout: Literal["tree", "content"] = "tree"
    """``tree`` keeps the inputs' names; ``content`` names an output by a hash of its input's URI and etag."""
    partial: bool = False
    """Keep what can be decoded of damaged inputs; their records carry a warning."""
    scores: bool = False
    """Have records say how good inputs and outputs sound, before and after (`engine.scores`)."""

    actors: int | tuple[int, int] = 1
    """Copies of the model; a range [least, most] follows the cluster's size."""
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    """1 for a GPU each; a fraction lets several share one."""
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = True
    """Compile parts of the enhancer in every actor; torch keeps the result on the node's disk."""
    batch_size: int | None = None
    """Segments that run at once, of any files; by default what suits the device."""
    files_at_once: int = 4
    """Files that an actor has open, a thread each, which decodes and encodes."""

    files_per_part: int = 1000
    """Most files of a part of the manifest: what an actor takes at once, with one table of records."""
    gigabytes_per_part: float = 16.0
    """The same in size. Small jobs get smaller parts, so that all actors have some."""
    listing_threads: int = 16
    """Folders that are listed at the same time."""

    max_failed: int | float | str | None = "10%"
    """Failures that stop the job: a number; or a share such as "1%", which counts from a hundred files on;
    null for never."""
    patience_seconds: float = 300.0
    """How long a storage that fails is asked again before that is a file's failure."""
    flush_seconds: float = 30.0
    """How often an actor writes down what it finished: what a lost one may have to do again."""
    stall_minutes: float = 30.0
    """An actor in which nothing at all has moved for so long gives up, and its files are tried elsewhere."""
    lease_seconds: float = 120.0
    """An actor that is not heard of for so long is ended, and its files are tried elsewhere; it tells its
    news every second, whatever its model does."""
    price_per_gpu_hour: float | None = None
    """In any currency; for the bill."""
    price_per_cpu_hour: float | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            if not getattr(self, name):
                raise ConfigError(name, "must be a path or URI")
        least, most = self.actor_range
        if not 1 <= least <= most:
            raise ConfigError("actors", f"expected a number or [least, most] from 1 on, got {self.actors}")
        share = min(self.cpus_per_actor, self.gpus_per_actor)
        if share < 0 or not self.cpus_per_actor + self.gpus_per_actor:
            raise ConfigError("cpus_per_actor, gpus_per_actor", "must not be negative, nor both 0")
        for name in ("files_at_once", "files_per_part", "listing_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        for name in ("gigabytes_per_part", "flush_seconds", "stall_minutes", "lease_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be positive, got {getattr(self, name)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError("batch_size", f"must be at least 1, got {self.batch_size}")
        if self.patience_seconds < 0:
            raise ConfigError("patience_seconds", f"must not be negative, got {self.patience_seconds}")
        for name in ("price_per_gpu_hour", "price_per_cpu_hour"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(name, f"must not be negative, got {getattr(self, name)}")
        self.too_many_failed(0, 0)
        refuse_all_tracks(self.options, "bulk jobs")

    @property
    def actor_range(self) -> tuple[int, int]:
        """Least and most actors."""
        return (self.actors, self.actors) if isinstance(self.actors, int) else self.actors

    @property
    def price_per_actor_hour(self) -> float | None:
        """What an actor costs in an hour; None where no price is given."""
        if self.price_per_gpu_hour is None and self.price_per_cpu_hour is None:
            return None
        gpus = self.gpus_per_actor * (self.price_per_gpu_hour or 0.0)
        return gpus + self.cpus_per_actor * (self.price_per_cpu_hour or 0.0)

    def too_many_failed(self, failed: int, finished: int) -> bool:
        """Whether ``failed`` of ``finished`` files are more than `max_failed` allows."""
        limit = self.max_failed
        if limit is None:
            return False
        if isinstance(limit, str):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", limit.strip())
            if match is None or not 0 <= float(match[1]) <= 100:
                raise ConfigError(
                    "max_failed", f"expected a number, a share like '1%', or null, got '{limit}'"
                )
            return finished >= _SHARE_COUNTS_FROM and failed > finished * float(match[1]) / 100
        if limit < 0:
            raise ConfigError("max_failed", f"must not be negative, got {limit}")
        return failed > limit


_SHARE_COUNTS_FROM = 100
"""Finished files: a share of a handful says nothing."""
