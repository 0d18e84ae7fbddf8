"""Our denoiser beside the open ones that run from packages, on the mixtures of `mixtures.py`.

    pip install 'enhance-ray[eval,peers]'
    python benchmarks/denoisers.py --data DIR --model default --cache peers.json

prints a table for all mixtures, for the additive and for the reverberant ones, and as its last line the
same numbers as JSON. What is fair, and how:

- everyone gets the same waveform at 44.1 kHz; who works at 48 kHz is resampled there and back by libsoxr;
- everyone's constant delay, found by cross-correlation on clean speech, is taken out before scoring: SI-SDR
  and ESTOI would charge it as distortion;
- everyone runs with the defaults of its package and a fresh state per mixture, on one thread;
- RTF is CPU time, resampling included, per second of audio: a busy machine does not change it much.

`--cache` keeps the scores of the packages, so that comparing another model costs only its own work. They are
computed again when a package's version, the recipe, the metrics or `peers.py` change.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixtures
import numpy as np
import peers
import torch
from peers import PEERS, Denoise, Outcome, System, input_itself

from enhance_ray import metrics


def ours(model: str) -> Denoise:
    """What a user gets from the model folder ``model``, or from `default`."""
    from enhance_ray import Enhancer

    enhancer = Enhancer.load(model, device="cpu", denoiser_only=True)
    return lambda noisy: enhancer.denoise(noisy.astype(np.float32), mixtures.RATE)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a process needs to know to run any system on any mixture."""

    data: Path
    reference: mixtures.Reference
    model: str | None


class Bench:
    """The corpus, and the systems that were asked for so far."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(1)
        self.settings = settings
        self.corpus = mixtures.Corpus(settings.data)
        self.calibration = self.corpus.render(self.corpus.plans(1)[0]).clean
        self.systems: dict[str, System] = {}

    def run(self, plan: mixtures.Plan, names: Iterable[str]) -> dict[str, Outcome]:
        mixture = self.corpus.render(plan, self.settings.reference)
        return {name: self._system(name).run(mixture) for name in names}

    def _system(self, name: str) -> System:
        if name not in self.systems:
            self.systems[name] = System(self._load(name), self.calibration)
        return self.systems[name]

    def _load(self, name: str) -> Denoise:
        if name == "ours":
            assert self.settings.model is not None
            return ours(self.settings.model)
        return input_itself() if name == "input" else PEERS[name].load()


class Cache:
    """Outcomes that need no second run, in a JSON file; without a path it forgets."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.outcomes = json.loads(path.read_text()) if path and path.exists() else {}
        sources = (mixtures.__file__, peers.__file__, metrics.__file__)
        self.sources = b"".join(Path(source).read_bytes() for source in sources)

    def key(self, name: str, plan: mixtures.Plan, reference: str) -> str:
        version = importlib.metadata.version(PEERS[name].distribution) if name in PEERS else ""
        choices = json.dumps([name, version, reference, dataclasses.asdict(plan)])
        return hashlib.sha256(self.sources + choices.encode()).hexdigest()

    def get(self, key: str) -> Outcome | None:
        return Outcome(**self.outcomes[key]) if key in self.outcomes else None

    def put(self, key: str, outcome: Outcome) -> None:
        self.outcomes[key] = dataclasses.asdict(outcome)
        if self.path:
            unfinished = self.path.with_name(f"{self.path.name}.part")
            unfinished.write_text(json.dumps(self.outcomes))
            unfinished.replace(self.path)


def evaluate(
    plans: list[mixtures.Plan], names: list[str], settings: Settings, cache: Cache, jobs: int
) -> Iterator[tuple[mixtures.Plan, dict[str, Outcome]]]:
    """Every system's outcome on every mixture, in the order of ``plans``; ours never comes from the cache."""
    spawned = multiprocessing.get_context("spawn")  # a forked torch or onnxruntime may hang
    with ProcessPoolExecutor(jobs, mp_context=spawned) as pool:
        known, pending = [], []
        for plan in plans:
            stored = {
                name: cache.get(cache.key(name, plan, settings.reference)) for name in names if name != "ours"
            }
            known.append({name: outcome for name, outcome in stored.items() if outcome})
            missing = [name for name in names if name not in known[-1]]
            pending.append(pool.submit(_run, settings, plan, missing))
        for plan, stored_outcomes, future in zip(plans, known, pending, strict=True):
            fresh = future.result()
            for name, outcome in fresh.items():
                if name != "ours":
                    cache.put(cache.key(name, plan, settings.reference), outcome)
            yield plan, {name: (stored_outcomes | fresh)[name] for name in names}


def _run(settings: Settings, plan: mixtures.Plan, names: list[str]) -> dict[str, Outcome]:
    return _bench(settings).run(plan, names)


@functools.cache
def _bench(settings: Settings) -> Bench:
    return Bench(settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One system over the mixtures of one condition."""

    scores: dict[str, metrics.Interval]
    rtf: float
    delay_ms: float

    def to_tree(self) -> dict[str, Any]:
        """For JSON: intervals as [mean, low, high]."""
        intervals = {
            name: [round(value, 4) for value in (interval.mean, interval.low, interval.high)]
            for name, interval in self.scores.items()
        }
        return {"scores": intervals, "rtf": round(self.rtf, 4), "delay_ms": round(self.delay_ms, 2)}


def summarise(results: list[tuple[mixtures.Plan, dict[str, Outcome]]], condition: str) -> dict[str, Summary]:
    """By system; ``condition`` may be `all`."""
    chosen = [(plan, outcomes) for plan, outcomes in results if condition in ("all", plan.condition)]
    seconds = sum(plan.seconds for plan, _ in chosen)
    summaries = {}
    for name in chosen[0][1]:
        outcomes = [outcomes[name] for _, outcomes in chosen]
        summaries[name] = Summary(
            scores={key: metrics.mean_interval([o.scores[key] for o in outcomes]) for key in metrics.METRICS},
            rtf=sum(outcome.cpu_seconds for outcome in outcomes) / seconds,
            delay_ms=1000 * outcomes[0].delay / mixtures.RATE,
        )
    return summaries


def markdown(summaries: dict[str, Summary]) -> str:
    """A table: mean and half the width of the 95 % interval."""
    titles = [f"{m.title} {'↑' if m.higher_is_better else '↓'}" for m in metrics.METRICS.values()]
    lines = [
        "| " + " | ".join(["", *titles, "RTF", "delay taken out"]) + " |",
        "|---|" + "---:|" * (len(titles) + 2),
    ]
    for name, summary in summaries.items():
        cells = [
            f"{interval.mean:.{metric.digits}f} ± {(interval.high - interval.low) / 2:.{metric.digits}f}"
            for metric, interval in zip(metrics.METRICS.values(), summary.scores.values(), strict=True)
        ]
        lines.append(
            "| " + " | ".join([name, *cells, f"{summary.rtf:.3f}", f"{summary.delay_ms:.1f} ms"]) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mixtures.add_arguments(parser)
    parser.add_argument(
        "--model", metavar="DIR", help="ours: a model folder, or 'default'; absent: only the others"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all of them")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="JSON with the peers' scores of earlier runs"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, one thread each")
    arguments = parser.parse_args()

    settings = Settings(data=arguments.data, reference=arguments.reference, model=arguments.model)
    names = ["input", *(["ours"] if arguments.model else []), *arguments.peers]
    plans = mixtures.Corpus(arguments.data).plans(arguments.count, arguments.seed)
    results = list(evaluate(plans, names, settings, Cache(arguments.cache), arguments.jobs))
    conditions = {
        condition: summarise(results, condition) for condition in ("all", "additive", "reverberant")
    }
    for condition, summaries in conditions.items():
        print(f"\n{condition}: {sum(condition in ('all', plan.condition) for plan in plans)} mixtures\n")
        print(markdown(summaries))
    tree = {
        condition: {name: summary.to_tree() for name, summary in summaries.items()}
        for condition, summaries in conditions.items()
    }
    print(json.dumps({"seed": arguments.seed, "reference": arguments.reference, "conditions": tree}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes, which load NumPy and torch anew
    main()
