"""The original's numbers by the names in the manifest (see README.md)."""

from __future__ import annotations

import functools
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from enhance_ray import resemble

FOLDER = Path(os.environ.get("ENHANCE_RAY_PARITY") or Path(__file__).parents[1] / "golden")


@functools.cache
def _manifest() -> dict[str, dict[str, Any]]:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    return {fixture["name"]: fixture for fixture in manifest["fixtures"]}


@functools.cache
def _arrays(file: str) -> dict[str, Tensor]:
    return load_file(FOLDER / file)


class Fixture:
    """One entry of the manifest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entry = _manifest()[name]
        self.hyper = self.entry.get("hyper", {})

    def input(self, name: str) -> Tensor:
        return _arrays(self.entry["file"])[f"{self.name}/in.{name}"]

    def output(self, name: str) -> Tensor:
        arrays = _arrays(self.entry["file"])
        key = f"{self.name}/out.{name}"
        return arrays[key if key in arrays else f"{self.name}/{name}"]

    def tolerance(self, name: str) -> float:
        return self.entry["outputs"][name]["atol"]

    def check(self, name: str, actual: Tensor) -> None:
        """Assert that ``actual`` is the original's output ``name`` within the manifest's tolerance."""
        torch.testing.assert_close(actual, self.output(name), atol=self.tolerance(name), rtol=0)

    def noise(self, index: int) -> Tensor:
        """The random draw number ``index``."""
        key = self.entry["noise"][index]["key"]
        return _arrays(self.entry["file"])[f"{self.name}/{key}"]

    def module_weights(self, ours: str) -> dict[str, Tensor]:
        """The weights of the part of an enhancer that has the prefix ``ours`` in our names."""
        prefix = self.entry["weights"]["prefix"]
        renamed = resemble.to_ours({prefix + key: tensor for key, tensor in self.weights().items()})
        return {key.removeprefix(ours): tensor for key, tensor in renamed.items() if key.startswith(ours)}

    def weights(self) -> dict[str, Tensor]:
        """The module's weights by the original's names, float32."""
        source = self.entry["weights"]
        prefix = source["prefix"]
        if "file" in source:
            found = _arrays(source["file"])
            return {key.removeprefix(prefix): found[key].float() for key in found if key.startswith(prefix)}
        spec = _specs()[source["spec"]]
        quantized = spec.get("quant") == "float16"
        return {
            key.removeprefix(prefix): _formula_weight(spec["seed"], key, tuple(shape), mean, std, quantized)
            for key, shape, mean, std in spec["tensors"]
            if std is not None and key.startswith(prefix)
        }


@functools.cache
def _specs() -> dict[str, Any]:
    specs: dict[str, Any] = json.loads((FOLDER / "specs.json").read_text())
    return specs


@functools.cache
def _formula_weight(
    seed: int, key: str, shape: tuple[int, ...], mean: float, std: float, quantized: bool
) -> Tensor:
    """Normal numbers from a generator that NumPy promises never to change, seeded by the tensor's name.

    Kept, as the original's size has 356 million of them, which take a quarter of a minute to draw.
    """
    generator = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()))
    values = (mean + std * generator.standard_normal(shape)).astype(np.float32)
    if quantized:
        values = values.astype(np.float16).astype(np.float32)
    return torch.from_numpy(np.asarray(values))


def forget_weights() -> None:
    """Give back the memory of the weights that formulas gave."""
    _formula_weight.cache_clear()


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load ``weights``, which may lack what is no weight: windows and filters that modules compute."""
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith(("window", "filter_bank", "filter")) for key in missing), missing
