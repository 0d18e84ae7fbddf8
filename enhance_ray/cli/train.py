"""`enhance-ray train`: a run on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from enhance_ray.cli.common import add_command, say, write_line
from enhance_ray.settings import trees


def add(commands: Any) -> None:
    """Add the command."""
    train = add_command(commands, "train", _train, "train a model on this machine", _TRAIN_EXAMPLES)
    train.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    train.add_argument("--run", required=True, help="folder of the run; an existing run is continued")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting: optimizer.max_lr=1.0e-3",
    )
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _train(parsed: argparse.Namespace) -> int:
    from enhance_ray.enhancer import resolve_device
    from enhance_ray.training import loop
    from enhance_ray.training.context import LocalContext

    settings = trees.load(loop.TrainConfig, parsed.config, parsed.set)
    context = LocalContext(Path(parsed.run), device=resolve_device(parsed.device))

    def show(step: int, steps: int, metrics: dict[str, float]) -> None:
        left = (steps - step) / metrics["steps_per_second"] / 3600
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        say(f"step {step}/{steps}: {numbers}, {left:.1f} h left")

    scores = loop.run(settings, context, progress=None if parsed.quiet else show)
    write_line(json.dumps({"model": str(context.resume_from()), **scores}))
    return 0


_TRAIN_EXAMPLES = """\
examples:
  enhance-ray train configs/compact/train_denoiser.yaml --run runs/compact --set corpus.root=data

"""
