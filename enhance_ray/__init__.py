"""Restore speech recordings, from one file on a laptop to a bucket on a cluster.

    from enhance_ray import Enhancer

    enhancer = Enhancer.load()
    clean, sample_rate = enhancer.denoise(waveform, sample_rate)

`cli` is the command line; `enhancer` and `engine` what is behind it; `training` makes the models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enhance_ray.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    EnhanceRayError,
    TrainingDivergedError,
)
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

if TYPE_CHECKING:
    from enhance_ray.enhancer import Enhancer
    from enhance_ray.files import enhance_files

__all__ = [
    "MODEL_RATE",
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "EnhanceOptions",
    "EnhanceRayError",
    "Enhancer",
    "TrainingDivergedError",
    "__version__",
    "enhance_files",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `--help` should not wait for it.
    if name == "Enhancer":
        from enhance_ray.enhancer import Enhancer

        return Enhancer
    if name == "enhance_files":
        from enhance_ray.files import enhance_files

        return enhance_files
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
