"""The work of an evaluation, pair by pair, in this process or in several."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from enhance_ray import metrics
from enhance_ray.enhancer import resolve_device
from enhance_ray.errors import AudioError, ConfigError
from enhance_ray.evaluation import pairs
from enhance_ray.evaluation.pairs import Item, Waveform
from enhance_ray.evaluation.settings import EvaluateConfig
from enhance_ray.evaluation.systems import Systems
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.examples import load_banks
from enhance_ray.training.parallel import in_order

Row = dict[str, Any]
"""Of one pair and one system: condition, index, name, system, seconds of audio, a number for each metric,
rtf, and what is known of the pair."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of a pair."""

    item: Item
    rows: list[Row]
    """One a system; none if it failed."""
    failed: str | None = None
    """Why it could not be read."""


class Scorer:
    """Everything that a process needs to score any pair."""

    def __init__(self, config: EvaluateConfig, device: str = "auto") -> None:
        """Load the models and the corpus of ``config``, which `resolve` has seen.

        Raises:
            CheckpointError: a model cannot be used.
            ConfigError: a model cannot do what is asked of it, or the corpus holds nothing.
        """
        self.config = config
        self._systems = Systems(config, device)
        self._banks = load_banks(config.corpus, "valid") if config.clean is None else None

    def __call__(self, item: Item) -> Scored:
        """Score what every system makes of a pair.

        Raises:
            ConfigError: a package of the `eval` extra is absent.
        """
        try:
            pair = pairs.read(item, self.config, self._banks)
        except (AudioError, ConfigError) as error:  # one bad pair costs the others nothing
            return Scored(item, [], str(error))
        rows = []
        reference = pair.example.reference
        for heard in self._systems(pair):
            scores = metrics.score(heard.waveform, reference, MODEL_RATE, self.config.metric_names)
            rows.append(
                {
                    "condition": item.condition,
                    "index": item.index,
                    "name": item.name,
                    "system": heard.system,
                    "seconds": reference.size / MODEL_RATE,
                    **scores,
                    "rtf": heard.rtf,
                    **pair.facts,
                }
            )
        return Scored(item, rows)

    def hear(self, item: Item) -> Mapping[str, Waveform]:
        """What there is to hear of a pair that can be read: "clean", and what each system makes of it."""
        pair = pairs.read(item, self.config, self._banks)
        return {"clean": pair.example.reference} | {
            heard.system: heard.waveform for heard in self._systems(pair)
        }


def run(
    config: EvaluateConfig, items: Sequence[Item], *, device: str = "auto", jobs: int = 1
) -> Generator[Scored]:
    """Score ``items``, in their order.

    Args:
        config: what `resolve` gave.
        items: of `plan`.
        device: of the models.
        jobs: processes, each with models of its own on one thread of torch; 1 works here, on all threads.

    Raises:
        CheckpointError: a model cannot be used.
        ConfigError: as `Scorer`.
    """
    if jobs < 1:
        raise ConfigError("jobs", f"must be at least 1, got {jobs}")
    yield from in_order(functools.partial(_score, config, device), items, jobs)


def _score(config: EvaluateConfig, device: str, item: Item) -> Scored:
    return scorer(config, device)(item)


@functools.lru_cache(maxsize=1)
def scorer(config: EvaluateConfig, device: str = "auto") -> Scorer:
    """This process' own, which is kept: models are loaded once."""
    return Scorer(config, device)


def workplace(device: str, jobs: int) -> str:
    """A sentence for readers of real-time factors."""
    where = resolve_device(device)
    if jobs > 1:
        return f"Models ran on {where}, in {jobs} processes at once, of one thread each."
    return f"Models ran on {where}, on {torch.get_num_threads()} threads."
