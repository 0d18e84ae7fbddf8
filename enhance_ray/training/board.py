"""TensorBoard: curves, spectrograms of input, output and target, and their sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch

from enhance_ray.dsp.mel import MelSpectrogram
from enhance_ray.errors import ConfigError

if TYPE_CHECKING:
    from enhance_ray.training.validation import Picture


class Board:
    """Writes to ``folder/tensorboard``; with no folder it writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        """Open the board.

        Raises:
            ConfigError: TensorBoard or matplotlib is not installed.
        """
        self._writer = None
        if folder is None:
            return
        try:
            import matplotlib
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError("training", f"needs {error.name}: pip install 'enhance-ray[train]'") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._colours = matplotlib.colormaps["magma"]
        self._mel = MelSpectrogram()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """One point on each curve ``group/name``."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

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
