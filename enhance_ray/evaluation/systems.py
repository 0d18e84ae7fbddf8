"""What is compared: the input itself, models with settings, and folders of files made elsewhere."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml

from enhance_ray import resemble
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import ConfigError
from enhance_ray.evaluation.pairs import Pair, Waveform
from enhance_ray.evaluation.settings import INPUT, EvaluateConfig, Mode, SystemConfig
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

Settings = TypeVar("Settings", bound=EvaluateConfig)


class SystemOutput(NamedTuple):
    """What a system makes of a pair."""

    system: str
    waveform: Waveform
    """(time,) at `MODEL_RATE`, as long as the pair."""
    rtf: float
    """Seconds that the model took per second of audio; nan where none ran."""


def resolve(settings: Settings) -> Settings:
    """The same evaluation with its systems listed, and a model for each that has no folder.

    Raises:
        CheckpointError: there is no such model.
    """
    systems = settings.systems
    if not systems:
        modes = settings.modes or abilities(settings.model)
        options = dataclasses.replace(settings.options, mode="denoise")
        systems = tuple(SystemConfig(name=mode, mode=mode, options=options) for mode in modes)
    return dataclasses.replace(
        settings,
        systems=tuple(
            system
            if system.folder is not None or system.model is not None
            else dataclasses.replace(system, model=settings.model)
            for system in systems
        ),
    )


def abilities(model: str) -> tuple[Mode, ...]:
    """What a model can do; its weights are not read.

    Raises:
        CheckpointError: there is no such model.
    """
    return ("denoise", "enhance") if resemble.is_enhancer(model) else ("denoise",)


def of_model(model: str) -> list[SystemConfig]:
    """A system for each of the model's `abilities`, named by the last part of its path.

    Raises:
        CheckpointError: there is no such model.
    """
    last = PurePosixPath(model.rstrip("/").replace("\\", "/")).name
    return [SystemConfig(name=f"{last} {mode}", model=model, mode=mode) for mode in abilities(model)]


def parse(text: str) -> SystemConfig:
    """A system from ``NAME:key=value,key=value``, the keys those of `EnhanceOptions`, and model.

    Raises:
        ConfigError: it has not that form, or a key or value is wrong.
    """
    where = f"--system {text}"
    name, separator, pairs = text.partition(":")
    if not separator or not name:
        raise ConfigError(where, "expected NAME:key=value,key=value")
    tree: dict[str, Any] = {"name": name, "options": {}}
    for pair in filter(None, pairs.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(where, f"expected key=value, got '{pair}'")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(where, f"the value of {key} is not YAML: {error}") from error
        (tree if key in ("model", "mode") else tree["options"])[key] = parsed
    return trees.from_tree(SystemConfig, tree, where=where)


def parse_folder(text: str) -> SystemConfig:
    """A folder of enhanced files from ``NAME=DIR`` or ``DIR``, then named by its last part."""
    name, separator, folder = text.partition("=")
    if not separator or "/" in name:
        name, folder = PurePosixPath(text.rstrip("/").replace("\\", "/")).name, text
    return SystemConfig(name=name, folder=folder)


class Systems:
    """All systems of an evaluation, each model loaded once."""

    def __init__(self, settings: EvaluateConfig, device: str = "auto") -> None:
        """Load the models of ``settings``, which `resolve` has seen.

        Raises:
            CheckpointError: a model cannot be used.
            ConfigError: it cannot do what is asked of it, or the device is absent.
        """
        self._systems = settings.systems
        models = {system.model for system in self._systems if system.model is not None}
        self._enhancers = {}
        for model in sorted(models):
            wanted = [system.resolved for system in self._systems if system.model == model]
            enhancer = self._enhancers[model] = Enhancer.load(
                model, device=device, denoiser_only=all(options.mode == "denoise" for options in wanted)
            )
            for options in wanted:
                enhancer.check(options)
                # What a first call sets up is no part of any real-time factor.
                _timed(enhancer, np.zeros(MODEL_RATE // 2, np.float32), options)

    def __call__(self, pair: Pair) -> Iterator[SystemOutput]:
        """What each makes of ``pair``, the input itself first."""
        yield SystemOutput(INPUT, pair.example.degraded, math.nan)
        for system in self._systems:
            if system.model is None:
                yield SystemOutput(system.name, pair.enhanced[system.name], math.nan)
            else:
                enhancer, options = self._enhancers[system.model], system.resolved
                yield SystemOutput(system.name, *_timed(enhancer, pair.example.degraded, options))


def _timed(enhancer: Enhancer, waveform: Waveform, options: EnhanceOptions) -> tuple[Waveform, float]:
    run = enhancer.denoise if options.mode == "denoise" else enhancer.enhance
    started = time.perf_counter()
    restored, _ = run(waveform, MODEL_RATE, options)
    return np.asarray(restored), (time.perf_counter() - started) * MODEL_RATE / waveform.size
