"""How fast are training examples made, and how many cores does a GPU need so that it never waits?

    python benchmarks/training_data.py --data DIR [--ray]

1. Examples per second on one core, for the recipe in `configs/compact/train_denoiser.yaml` as a whole and for
   one kind of degradation at a time, beside mixing alone.
2. How full a trainer is kept: batches are taken at the pace of a GPU (it sleeps between them, as one that
   waits for a GPU does), at 80 % of what the given processes can make alone. The share of the time spent
   waiting for data is measured, with DataLoader's processes and, with --ray, with Ray Data's tasks.
3. Cores per GPU: the compact denoiser's step is measured here and projected to a GPU by the ratio of memory
   bandwidths (this net moves bytes more than it multiplies), of which this machine's is measured.

DIR is a corpus as the configuration names it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enhance_ray.settings import trees
from enhance_ray.training import loop
from enhance_ray.training.context import LocalContext
from enhance_ray.training.degrade import (
    BandFilter,
    Clipping,
    Codec,
    Distorter,
    Equalizer,
    Hum,
    LevelChanges,
    NarrowBand,
    Overdrive,
    RecordingChain,
    Reverb,
)
from enhance_ray.training.examples import Banks, Batch, ExampleConfig, Examples, batches, load_banks
from enhance_ray.training.settings import TrainConfig

COMPACT = Path(__file__).parents[1] / "configs" / "compact" / "train_denoiser.yaml"
GPU_BANDWIDTH = {"H100 SXM": 3350.0, "A10G": 600.0, "L4": 300.0}
"""GB/s, by their makers' data sheets."""
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of the corpus")
    parser.add_argument("--examples", type=int, default=60, help="timed, of each kind (default: 60)")
    parser.add_argument("--steps", type=int, default=60, help="timed, of each trainer (default: 60)")
    parser.add_argument("--processes", type=int, default=1, help="that make examples (default: 1)")
    parser.add_argument("--ray", action="store_true", help="Ray Data, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = trees.load(TrainConfig, COMPACT, [f"corpus.root={arguments.data}"])
    banks = load_banks(settings.corpus, "train")

    print("examples of 3 s per second on one core, and milliseconds beyond mixing alone")
    rate(banks, recipes(settings)["mixing alone"], arguments.examples)  # the bank's pages come from the disk
    rates = {name: rate(banks, recipe, arguments.examples) for name, recipe in recipes(settings).items()}
    for name, per_second in rates.items():
        extra = 1000 / per_second - 1000 / rates["mixing alone"]
        print(f"  {name:28} {per_second:7.1f}/s {extra:+8.1f} ms")
    per_core = rates["compact recipe"]

    pace = settings.batch_size / (0.8 * per_core * arguments.processes)
    waiting = {"DataLoader": share_waiting(local_feed(settings, banks, arguments), pace, arguments.steps)}
    if arguments.ray:
        waiting["Ray Data"] = share_waiting(ray_feed(settings, arguments), pace, arguments.steps)
    print(f"a trainer that takes 80 % of what {arguments.processes} process(es) can make waits")
    for name, share in waiting.items():
        print(f"  {name:28} {share:7.1%} of the time")

    step, bandwidth = step_seconds(settings, banks), memory_bandwidth()
    print(f"a step of batch {settings.batch_size} takes {step:.2f} s here, at {bandwidth:.1f} GB/s")
    cores = {}
    for gpu, speed in GPU_BANDWIDTH.items():
        projected = step * bandwidth / speed
        cores[gpu] = settings.batch_size / projected / per_core / 0.8
        print(f"  {gpu:12} {1000 * projected:6.1f} ms a step: {cores[gpu]:5.0f} cores feed it")
    print(json.dumps({"per_second": rates, "waiting": waiting, "step": step, "cores": cores}))


def recipes(settings: TrainConfig) -> dict[str, ExampleConfig]:
    """The compact recipe, the original's, and single degradations of the mixture on top of mixing."""
    off = Distorter(
        room_probability=0.0,
        reverb=Reverb(probability=0.0),
        noise=dataclasses.replace(Distorter().noise, probability=0.0),
        overdrive=Overdrive(probability=0.0),
        equalizer=Equalizer(probability=0.0),
        band_filter=BandFilter(probability=0.0),
    )
    plain = ExampleConfig(
        crop_seconds=3.0, silence_probability=0, distort_probability=0, distorter=off, snr_db=(0, 10)
    )
    alone = dataclasses.replace

    def of_speech(**effects: Any) -> ExampleConfig:
        # Speech and noise both go through the distorter.
        return alone(plain, distort_probability=1, distorter=alone(off, **effects))

    def of_mixture(**effects: Any) -> ExampleConfig:
        return alone(plain, recording=RecordingChain(**effects))

    return {
        "mixing alone": plain,
        "compact recipe": settings.examples,
        "original's recipe": ExampleConfig(crop_seconds=3.0),
        "room": alone(plain, room_probability=1),
        "speed": alone(plain, speed=0.08),
        "joined clips": alone(plain, join_clips=True),
        "babble": alone(plain, babble_probability=1),
        "reverb (both)": of_speech(reverb=Reverb(probability=1)),
        "overdrive (both)": of_speech(overdrive=Overdrive(probability=1)),
        "equalizer (both)": of_speech(equalizer=Equalizer(probability=1)),
        "band filter (both)": of_speech(band_filter=BandFilter(probability=1)),
        "level changes": of_mixture(level=LevelChanges(probability=1)),
        "hum": of_mixture(hum=Hum(probability=1)),
        "clipping": of_mixture(clipping=Clipping(probability=1)),
        "narrow band": of_mixture(narrow_band=NarrowBand(probability=1)),
        "codec": of_mixture(codec=Codec(probability=1)),
    }


def rate(banks: Banks, recipe: ExampleConfig, count: int) -> float:
    """Examples per second."""
    examples = Examples(banks, recipe, seed=0)
    for index in range(WARM_UP):
        examples[index]
    started = time.perf_counter()
    for index in range(count):
        examples[index]
    return count / (time.perf_counter() - started)


def local_feed(settings: TrainConfig, banks: Banks, arguments: argparse.Namespace) -> Iterator[Batch]:
    examples = Examples(banks, settings.examples, seed=1)
    return batches(
        examples,
        batch_size=settings.batch_size,
        first=0,
        steps=10**6,
        rank=0,
        world_size=1,
        workers=arguments.processes,
    )


def ray_feed(settings: TrainConfig, arguments: argparse.Namespace) -> Iterator[Batch]:
    from enhance_ray.cluster import session
    from enhance_ray.cluster.feed import DataConfig, RayFeed, corpus_for_workers

    session.connect()
    feed = RayFeed(
        corpus=corpus_for_workers(settings.corpus),
        examples=settings.examples,
        seed=1,
        batch_size=settings.batch_size,
        rank=0,
        world_size=1,
        data=DataConfig(tasks=arguments.processes, steps_per_task=4, prefetch=8),
    )
    return feed(("noisy", "target"), first=0, steps=1000)


def share_waiting(feed: Iterator[Batch], pace: float, steps: int) -> float:
    """Share of the time that a trainer with steps of ``pace`` seconds waits for its next batch."""
    for _ in itertools.islice(feed, 10):  # the pipeline fills
        time.sleep(pace)
    waited = 0.0
    started = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        next(feed)
        waited += time.perf_counter() - asked
        time.sleep(pace)
    return waited / (time.perf_counter() - started)


def step_seconds(settings: TrainConfig, banks: Banks) -> float:
    """Of the compact denoiser's training, on all cores."""
    torch.set_num_threads(torch.get_num_interop_threads() or 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = loop.Trainer(settings, LocalContext(Path(folder), device=torch.device("cpu")), banks)
        waveforms = torch.randn(2, settings.batch_size, int(settings.examples.crop_seconds * 44_100)) / 10
        batch = {"index": torch.arange(settings.batch_size), "noisy": waveforms[0], "target": waveforms[1]}
        return best_of(lambda: trainer.step(batch), 5)


def memory_bandwidth() -> float:
    """GB/s of a copy much larger than the caches, read and write counted."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_of(lambda: target.copy_(source), 10) / 1e9


def best_of(function: Callable[[], Any], times: int) -> float:
    function()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return float(np.min(seconds))


if __name__ == "__main__":
    main()
