"""Where a training runs: what the loop may ask of its surroundings.

`LocalContext` is this process alone. A cluster answers the same questions for one of many workers,
so that the loop is written once and knows neither.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from enhance_ray.errors import ConfigError

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"


class TrainContext(Protocol):
    """One worker's view of a run."""

    rank: int
    world_size: int
    device: torch.device
    folder: Path
    """A folder of this worker's for what is written on the way."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Prepare ``module`` for training together with the other workers."""
        ...

    def total(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over the workers; gradients pass."""
        ...

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each of ``values`` over the workers, which all have the same names."""
        ...

    def gather(self, item: Any) -> list[Any]:
        """Every worker's ``item``, by rank."""
        ...

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: Path | None = None,
        *,
        saving: bool = False,
    ) -> None:
        """Publish ``metrics`` of ``step``; all workers call this alike.

        Args:
            step: updates so far.
            metrics: the same on all workers.
            checkpoint: of the first worker, a complete model folder to keep; it is moved away.
            saving: that this is such a moment; ``metrics`` are then the last validation's, and not new.
        """
        ...

    def resume_from(self) -> Path | None:
        """The newest checkpoint of this run, or None when it starts."""
        ...


class LocalContext:
    """This process, one device, a run folder on disk.

    run/metrics.jsonl             one line per report
    run/checkpoints/step_0001000  model folders, the newest ``keep`` of them
    """

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, *, device: torch.device, keep: int = 3) -> None:
        """Use ``folder``; what an earlier process of the same run wrote there is continued."""
        if keep < 1:
            raise ConfigError("keep", f"must be at least 1, got {keep}")
        self.folder = folder
        self.device = device
        self.keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self._forget_after(self._newest_step())

    def wrap(self, module: nn.Module) -> nn.Module:
        """Leave ``module`` as it is: there is nobody to agree with."""
        return module

    def total(self, x: Tensor) -> Tensor:
        """Nothing is added."""
        return x

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values themselves."""
        return dict(values)

    def gather(self, item: Any) -> list[Any]:
        """This worker's alone."""
        return [item]

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: Path | None = None,
        *,
        saving: bool = False,
    ) -> None:
        """Append ``metrics`` to the log; move ``checkpoint`` in place and drop the oldest ones."""
        if metrics and not saving:
            with (self.folder / METRICS_NAME).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step, **metrics}) + "\n")
        if checkpoint is not None:
            target = self._checkpoints() / f"step_{step:08d}"
            if target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.rename(target)
            for old in self._list()[: -self.keep]:
                shutil.rmtree(old)

    def resume_from(self) -> Path | None:
        """The newest complete checkpoint."""
        found = self._list()
        return found[-1] if found else None

    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _list(self) -> list[Path]:
        return sorted(self._checkpoints().glob("step_*")) if self._checkpoints().is_dir() else []

    def _newest_step(self) -> int:
        newest = self.resume_from()
        return int(newest.name.removeprefix("step_")) if newest else 0

    def _forget_after(self, step: int) -> None:
        """Drop lines that a killed process wrote after its last checkpoint: they will be written again."""
        path = self.folder / METRICS_NAME
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # torn by the kill
                continue
            if entry["step"] <= step:
                kept.append(line)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
