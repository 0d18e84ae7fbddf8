"""The command: decode, make examples, train, write and validate.

    python -m enhance_ray.training.activity --speech fg.csv --music songs --noise bg.csv --rooms rir --out new

Writes `model.safetensors`, and prints how the guard (`activity.music_alone`) does on what was kept out.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from enhance_ray.models import packaged
from enhance_ray.training.activity.evaluation import evaluate
from enhance_ray.training.activity.examples import ActivityBanks
from enhance_ray.training.activity.fitting import Features, train
from enhance_ray.training.bank import load_bank
from enhance_ray.training.corpus import load_rirs
from enhance_ray.training.sources import Source, list_sources
from enhance_ray.training.splits import Split

logger = logging.getLogger(__name__)

HELD_OUT_EVERY = 8
NEITHER = ("wind-chimes", "tuning-radio")
"""In names of recordings that are neither clearly noise nor clearly anything else: left out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Decode, make examples, train, write and validate; returns the exit status."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    examples = Features(_banks(args, "train"), args.seed, args.examples)
    features, heard = [], []
    for x, y in DataLoader(examples, batch_size=50, num_workers=args.workers):
        features.append(x)
        heard.append(y)
        logger.info("examples: %d of %d", 50 * len(features), args.examples)
    net = train(torch.cat(features), torch.cat(heard), seed=args.seed, epochs=args.epochs)
    packaged.save(net, args.out)
    counts = evaluate(net, _banks(args, "valid"), seed=args.seed + 1, recordings=args.recordings)
    lines = [
        f"| {name} | {count.called} | {count.windows} | {100 * count.called / max(1, count.windows):.1f} % |"
        for name, count in counts.items()
    ]
    table = "\n".join(["| recordings | called music alone | of windows | |", "|---|---:|---:|---:|", *lines])
    sys.stdout.write(f"{table}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m enhance_ray.training.activity",
        description="Train the net that hears speech and music. A folder is for training as a whole; a list "
        "says in its column split what is validation.",
    )
    parser.add_argument("--speech", nargs="+", required=True, help="clean speech: folders or lists")
    parser.add_argument("--music", nargs="+", default=[], help="music to train on: folders or lists")
    parser.add_argument("--valid-music", nargs="+", default=[], help="folders of music for validation alone")
    parser.add_argument(
        "--noise",
        nargs="+",
        required=True,
        help="noise: folders or lists; files named *music* in it are music",
    )
    parser.add_argument("--rooms", nargs="*", default=[], help="folders of impulse responses")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.safetensors")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="folder for decoded audio")
    parser.add_argument("--examples", type=int, default=6500, help="of 10 s (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=24, help="over all examples (default: %(default)s)")
    parser.add_argument(
        "--recordings",
        type=int,
        default=100,
        help="of 10 s for each kind in validation (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes for examples (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides everything (default: %(default)s)")
    return parser


def _banks(args: argparse.Namespace, split: Split) -> ActivityBanks:
    whole = args.valid_music if split == "valid" else []
    noise = [
        source
        for source in _sources(args.noise, split)
        if not any(word in Path(source.name).name for word in NEITHER)
    ]
    music = [source for source in noise if "music" in Path(source.name).name]
    music += _sources(args.music, split) + (list_sources(".", whole, None, HELD_OUT_EVERY) if whole else [])
    speech, musical, noisy = (
        load_bank(sources, args.cache)
        for sources in (
            _sources(args.speech, split),
            music,
            [source for source in noise if "music" not in Path(source.name).name],
        )
    )
    rooms = [room for folder in args.rooms for room in load_rirs(folder, split=split)]
    return ActivityBanks(speech, musical, noisy, rooms)


def _sources(entries: Sequence[str], split: Split) -> list[Source]:
    """The recordings of ``split``: lists know theirs, and folders are for training."""
    lists = [entry for entry in entries if Path(entry).suffix in (".csv", ".jsonl", ".parquet")]
    folders = [entry for entry in entries if entry not in lists]
    found = list_sources(".", lists, split, HELD_OUT_EVERY) if lists else []
    return found + (list_sources(".", folders, None, HELD_OUT_EVERY) if folders and split == "train" else [])


if __name__ == "__main__":
    sys.exit(main())
