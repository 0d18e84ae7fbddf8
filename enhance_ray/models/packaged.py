"""Small nets that ship in the package beside the default models: their weights, in and out."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from enhance_ray.errors import CheckpointError

WEIGHTS_NAME = "model.safetensors"

Net = TypeVar("Net", bound=nn.Module)


def load(net: Net, name: str) -> Net:
    """``net`` with the weights in `weights/NAME`, in evaluation mode.

    Raises:
        CheckpointError: the weights are absent or do not fit.
    """
    path = Path(str(importlib.resources.files("enhance_ray"))) / "weights" / name / WEIGHTS_NAME
    try:
        net.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(path, str(error)) from error
    return net.requires_grad_(False).eval()


def save(net: nn.Module, folder: Path) -> None:
    """Write the weights of ``net`` to ``folder`` as float16; the net has the rounded ones then."""
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()
    }
    net.load_state_dict(halves)  # what is validated next is what was written
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halves, folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).chmod(0o644)  # safetensors lets nobody else read it
