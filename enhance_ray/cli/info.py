"""`enhance-ray info`: what a recording or a model is."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from enhance_ray.cli.common import add_command, write_line
from enhance_ray.records import is_utf8
from enhance_ray.settings import trees


def add(commands: Any) -> None:
    """Add the command."""
    info = add_command(commands, "info", _info, "say what a recording or a model is")
    info.add_argument("subject", metavar="FILE|MODEL", help="audio file, model folder, or 'default'")
    info.add_argument("--json", action="store_true", help="one line of JSON")


def _info(parsed: argparse.Namespace) -> int:
    from enhance_ray import checkpoint

    if (
        parsed.subject == checkpoint.DEFAULT
        or Path(parsed.subject).is_dir()
        or parsed.subject.startswith("hf://")
    ):
        facts = _model_facts(parsed.subject)
    else:
        from enhance_ray import audio

        info = audio.probe(parsed.subject)
        shown = {
            **dataclasses.asdict(info),
            "chapters": [dataclasses.asdict(chapter) for chapter in info.chapters],
            "chunks": [name.decode().strip() for name in info.chunks],
            "cover": f"{info.cover.kind}, {len(info.cover.data)} bytes" if info.cover else None,
            # Said where there is something to say.
            "track": info.track if info.track > 1 else None,
            "tracks": info.tracks if info.tracks > 1 else None,
            "start": info.start or None if info.has_video else None,
        }
        facts = {name: value for name, value in shown.items() if value not in (None, {}, [])}
    if parsed.json:
        text = json.dumps(facts, ensure_ascii=False)
        # A name that is no UTF-8 goes out by escapes, as in records.
        write_line(text if is_utf8(text) else json.dumps(facts))
    else:
        write_line(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).rstrip())
    return 0


def _model_facts(model: str) -> dict[str, Any]:
    from enhance_ray import resemble

    loaded = resemble.load_model(model)
    parameters = sum(parameter.numel() for parameter in (loaded.net or loaded.denoiser).parameters())
    return {
        "path": loaded.path,
        "fingerprint": loaded.fingerprint,
        "parameters": parameters,
        **trees.to_tree(loaded.config),
    }
