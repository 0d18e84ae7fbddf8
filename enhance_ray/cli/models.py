"""`enhance-ray export`, `import-resemble`, `export-resemble`: model folders."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from enhance_ray.cli.common import add_command, model_folder, write_line
from enhance_ray.errors import ConfigError


def add_resemble(commands: Any) -> None:
    """Add the commands for the original's run folders."""
    take = add_command(
        commands,
        "import-resemble",
        _import_resemble,
        "turn a run folder of Resemble Enhance into a model folder",
        _IMPORT_EXAMPLES,
    )
    take.add_argument(
        "source", metavar="SOURCE", help="run folder, fsspec URI, or hf://owner/repository[@revision]"
    )
    take.add_argument("model_dir", metavar="MODEL_DIR", help="model folder to write")
    take.add_argument("--full", action="store_true", help="keep float32 instead of float16")
    take.add_argument("-f", "--force", action="store_true", help="replace MODEL_DIR")

    give = add_command(
        commands,
        "export-resemble",
        _export_resemble,
        "turn a model folder into a run folder of Resemble Enhance",
    )
    give.add_argument("model", metavar="MODEL", help="model folder of a whole enhancer")
    give.add_argument("run_dir", metavar="RUN_DIR", help="run folder to write; must not exist")
    give.add_argument("--full", action="store_true", help="write float32 instead of float16")


def add_export(commands: Any) -> None:
    """Add the command for checkpoints."""
    export = add_command(commands, "export", _export, "turn a checkpoint into a model folder to pass on")
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="model folder of a run")
    export.add_argument("model_dir", metavar="MODEL_DIR", help="model folder to write")
    export.add_argument("--card", metavar="FILE", help="card.md that says what the model is")
    export.add_argument("--nfe", type=int, metavar="N", help="evaluations that the model is to recommend")
    export.add_argument(
        "--prior-temperature", type=float, metavar="X", help="share of noise that it is to recommend"
    )
    export.add_argument("--full", action="store_true", help="keep float32 instead of halving the file")
    export.add_argument("-f", "--force", action="store_true", help="replace MODEL_DIR")


def _export(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint

    model = checkpoint.load(checkpoint.newest(parsed.checkpoint))
    weights = (model.net or model.denoiser).state_dict()
    card = Path(parsed.card).read_text(encoding="utf-8") if parsed.card else None
    target = model_folder(parsed)
    advice = {"nfe": parsed.nfe, "prior_temperature": parsed.prior_temperature}
    given = {name: value for name, value in advice.items() if value is not None}
    settings = model.config
    if given:
        if settings.enhancer is None:
            raise ConfigError("--nfe, --prior-temperature", f"{model.path} is a denoiser alone")
        settings = dataclasses.replace(settings, enhancer=dataclasses.replace(settings.enhancer, **given))
    checkpoint.save(target, settings, weights, half=not parsed.full, card=card)
    write_line(str(target))
    return 0


def _import_resemble(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint, resemble

    target = model_folder(parsed)
    model = resemble.load(parsed.source)
    assert model.net is not None
    card = (
        f"# {model.config.name}\n\nImported from {parsed.source}, whose fingerprint is {model.fingerprint}.\n"
    )
    checkpoint.save(target, model.config, model.net.state_dict(), half=not parsed.full, card=card)
    write_line(str(target))
    return 0


def _export_resemble(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint, resemble

    resemble.save(checkpoint.load(parsed.model), Path(parsed.run_dir), half=not parsed.full)
    write_line(parsed.run_dir)
    return 0


_IMPORT_EXAMPLES = """\
examples:
  enhance-ray import-resemble hf://ResembleAI/resemble-enhance resemble
  enhance-ray import-resemble runs/enhancer_stage2 resemble

"""
