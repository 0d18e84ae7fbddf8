"""The cache of rated groups: they are made, rated, kept, and read as the net sees them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Float32
from numpy.typing import NDArray
from torch import Tensor

from enhance_ray import checkpoint
from enhance_ray.memory import keep_large_blocks
from enhance_ray.models.opinion import OpinionNet
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.examples import Banks, CorpusConfig, load_banks
from enhance_ray.training.mos.clips import SECONDS, SPLITS, Part, make_group, rate
from enhance_ray.training.parallel import in_order
from enhance_ray.training.splits import Split


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Where clips come from and where they are kept."""

    corpus: CorpusConfig
    cache: Path
    seed: int = 0

    def path(self, part: Part, index: int) -> Path:
        """Of a group: ``clips`` (clip, time) in 16 bits, ``ratings`` (clip, scale), ``kinds`` (clip,)."""
        return self.cache / f"seed_{self.seed}" / f"{part}_{index:05d}.npz"


def collect(collection: Collection, counts: Mapping[Part, int], workers: int = 1) -> None:
    """Make and rate the first ``counts`` groups of each part that the cache does not hold yet.

    Raises:
        ConfigError: the corpus cannot be read, or a package of the `eval` extra is absent.
    """
    for part, count in counts.items():
        missing = [index for index in range(count) if not collection.path(part, index).exists()]
        if not missing:
            continue
        load_banks(collection.corpus, SPLITS[part])  # decoded once, not by every worker
        collected = in_order(functools.partial(_collect, collection, part), missing, workers)
        with contextlib.closing(collected):
            for done, _ in enumerate(collected, start=1):
                if done % 50 == 0:
                    print(f"{part}: {done} of {len(missing)} groups", flush=True)  # noqa: T201


def _collect(collection: Collection, part: Part, index: int) -> None:
    banks, model = _materials(collection.corpus, SPLITS[part])
    clips = make_group(banks, model, part, collection.seed, index)
    samples = np.stack([np.rint(32767 * clip.waveform.clip(-1, 1)).astype(np.int16) for clip in clips])
    ratings = np.stack([rate(row.astype(np.float32) / 32767) for row in samples])
    path = collection.path(part, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, clips=samples, ratings=ratings, kinds=np.array([clip.kind for clip in clips]))
    temporary.replace(path)


@functools.cache
def _materials(corpus: CorpusConfig, split: Split) -> tuple[Banks, checkpoint.Model]:
    keep_large_blocks()
    model = checkpoint.load()
    if model.net is not None:
        model.net.freeze()
    return load_banks(corpus, split), model


class Rated(NamedTuple):
    """Clips as the net sees them, and what DNSMOS says."""

    features: Float16[Tensor, "clip 2 band frame"]
    ratings: Float32[Tensor, "clip scale=3"]
    kinds: NDArray[np.str_]
    groups: NDArray[np.int64]
    """The group of each clip, ascending; its first clip is the input of the others."""


def read(collection: Collection, part: Part, count: int) -> Rated:
    """The first ``count`` groups of the cache; the windows of a file one after the other, its rating once."""
    net = OpinionNet()
    features, ratings, kinds, groups = [], [], [], []
    for index in range(count):
        with np.load(collection.path(part, index)) as group:
            clips = torch.from_numpy(group["clips"] / np.float32(32767))
            features.append(net.features(clips.reshape(-1, int(SECONDS * MODEL_RATE))).half())
            ratings.append(torch.from_numpy(group["ratings"]))
            kinds.append(group["kinds"])
            groups += [index] * len(clips)
    return Rated(torch.cat(features), torch.cat(ratings), np.concatenate(kinds), np.array(groups))
