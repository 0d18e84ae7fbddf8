"""Trains `models.opinion`: sounds of all kinds, what DNSMOS says of them, and a net that learns it.

    python -m enhance_ray.training.mos --corpus data --out enhance_ray/weights/opinion

    speech, noise, rooms -> input ─┬─> rated by DNSMOS at one level -> cache -> `train` -> `evaluate`
    what the packaged model makes ─┤
    what else could be made of it ─┘

A group is an input and what was made of it: denoised, enhanced, and spoiled in ways in which denoisers spoil
sound. It is a function of (seed, part, index) and one file of the cache: the command may be stopped and run
again. DNSMOS is most of the work, 0.3 s of a core for a clip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from enhance_ray.models import packaged
from enhance_ray.training.examples import CorpusConfig
from enhance_ray.training.mos.clips import Part
from enhance_ray.training.mos.collection import Collection, collect, read
from enhance_ray.training.mos.evaluation import evaluate
from enhance_ray.training.mos.fitting import train


def main() -> None:
    """Collect what is missing, train, print how well it went, write the weights."""
    parser = argparse.ArgumentParser(
        prog="python -m enhance_ray.training.mos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", required=True, metavar="DIR", help="with fg.csv, fg16k/, bg.csv, rir/")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/opinion"), metavar="DIR", help="clips, ratings"
    )
    parser.add_argument("--count", type=int, default=900, metavar="N", help="groups to train on")
    parser.add_argument("--held-out", type=int, default=180, metavar="N", help="groups to evaluate on")
    parser.add_argument("--files", type=int, default=12, metavar="N", help="files to evaluate on")
    parser.add_argument("--steps", type=int, default=6000, metavar="N", help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that make clips")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for model.safetensors")
    arguments = parser.parse_args()
    corpus = CorpusConfig(root=arguments.corpus, speech=("fg.csv", "fg16k"), noise=("bg.csv",))
    collection = Collection(corpus=corpus, cache=arguments.cache, seed=arguments.seed)
    counts: dict[Part, int] = {
        "train": arguments.count,
        "valid": arguments.held_out,
        "files": arguments.files,
    }
    collect(collection, counts, arguments.workers)
    net = train(read(collection, "train", arguments.count), steps=arguments.steps, seed=arguments.seed)
    for part in ("valid", "files"):
        print(f"{part}\n\n{evaluate(net, read(collection, part, counts[part]))}\n")  # noqa: T201
    packaged.save(net, arguments.out)


if __name__ == "__main__":
    main()
