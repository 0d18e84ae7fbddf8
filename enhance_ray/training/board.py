"""TensorBoard: curves, spectrograms of input, output and target, and their sound.

Curves go to MLflow or Weights & Biases, too, where the run's `track` says so; those find their server and
keys in their own environment variables.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from enhance_ray.dsp.mel import MelSpectrogram
from enhance_ray.errors import ConfigError

if TYPE_CHECKING:
    from enhance_ray.training.validation import Picture


Tracker = Literal["mlflow", "wandb"]


class Board:
    """Writes to ``folder/tensorboard``; with no folder it writes nothing."""

    def __init__(
        self,
        folder: Path | None,
        *,
        track: Tracker | None = None,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the board.

        Args:
            folder: None for a worker that is not the first.
            track: who else is told of the curves.
            name: of the run there; a run of that name goes on.
            settings: what the run was started with.

        Raises:
            ConfigError: TensorBoard, matplotlib or the tracker is not installed.
        """
        self._writer = self._tracker = None
        self._track = track
        if folder is None:
            return
        try:
            import matplotlib
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError("training", f"needs {error.name}: pip install 'enhance-ray[train]'") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        if track is not None:
            self._tracker = _start_tracker(track, name, settings or {})
        self._colours = matplotlib.colormaps["magma"]
        self._mel = MelSpectrogram()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._tracker is not None:
            (self._tracker.end_run if self._track == "mlflow" else self._tracker.finish)()

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One point on each curve ``group/name``."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
        if self._tracker is not None:
            named = {f"{group}/{name}": value for name, value in values.items()}
            if self._track == "mlflow":
                self._tracker.log_metrics(named, step=step)
            else:
                self._tracker.log(named, step=step)

    def examples(self, step: int, pictures: Sequence[Picture], sample_rate: int) -> None:
        """Spectrograms one above the other (input, output, target) and the three sounds."""
        if self._writer is None:
            return
        for number, picture in enumerate(pictures):
            images = [self._spectrogram(waveform) for waveform in picture]
            self._writer.add_image(f"valid/{number}", np.concatenate(images), step, dataformats="HWC")
            for name, waveform in zip(picture._fields, picture, strict=True):
                self._writer.add_audio(
                    f"valid/{number}/{name}", torch.from_numpy(waveform)[None], step, sample_rate
                )

    def _spectrogram(self, waveform: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            mel = self._mel(torch.from_numpy(waveform)[None])[0].clamp(0, 1).numpy()
        coloured: np.ndarray = self._colours(mel[::-1])[..., :3]
        return np.pad(coloured, ((2, 2), (0, 0), (0, 0)))


def _start_tracker(track: Tracker, name: str, settings: Mapping[str, Any]) -> Any:
    """The module of ``track`` with a run begun, or taken up again where one of that name exists."""
    try:
        module = importlib.import_module(track)
    except ModuleNotFoundError as error:
        raise ConfigError("track", f"{track} is not installed: pip install {track}") from error
    if track == "wandb":
        module.init(name=name, id=name, resume="allow", config=dict(settings))
        return module
    known = module.search_runs(filter_string=f"attributes.run_name = '{name}'", output_format="list")
    if known:
        module.start_run(run_id=known[0].info.run_id)
    else:
        module.start_run(run_name=name)
        module.log_dict(dict(settings), "train_config.yaml")
    return module
