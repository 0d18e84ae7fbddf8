"""Every error that this package raises on purpose.

    EnhanceRayError
    ├── ConfigError             a setting, option or command is wrong: nothing was started
    ├── CheckpointError         a model folder or checkpoint cannot be used
    ├── AudioError              one input cannot be used
    │   ├── ModelFailedError        ... because the model gives no numbers for it
    │   ├── AudioReadError          ... because it cannot be decoded
    │   │   └── StorageReadError        ... because its storage does not give it
    │   └── AudioWriteError         ... because its output cannot be written
    │       └── StorageWriteError       ... because its storage does not take it
    └── TrainingDivergedError   the loss is no longer finite

Errors carry fields, survive pickling, and build their text once. `code` is a stable word for
programs (records, HTTP answers); `reason` is a sentence for people.
"""

from __future__ import annotations

from pathlib import Path


class EnhanceRayError(Exception):
    """Base of all errors raised on purpose."""

    code = "error"


class ConfigError(EnhanceRayError):
    """A setting is wrong. ``where`` names the file and key, ``reason`` says what would do."""

    code = "config_invalid"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)  # args == constructor arguments: this is what pickles
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


class CheckpointError(EnhanceRayError):
    """A model cannot be loaded from or saved to ``path``; ``reason`` says why."""

    code = "checkpoint_unusable"

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use model {self.path}: {self.reason}"


class AudioError(EnhanceRayError):
    """One input cannot be used. ``path`` names it; ``reason`` says why.

    ``remedy`` is an option of the command line that would help: other surfaces, which lack it, leave it out.
    """

    action = "use"
    code = "audio_unusable"

    def __init__(self, path: str | Path, reason: str, remedy: str | None = None) -> None:
        super().__init__(str(path), reason, *([remedy] if remedy else []))
        self.path = str(path)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"cannot {self.action} {self.path}: {self.reason}"
        return f"{text} ({self.remedy})" if self.remedy else text

    def reason_for(self, name: str) -> str:
        """Why ``name`` failed: the reason, with the file that it is about where that is another one."""
        return self.reason if self.path == name else f"cannot {self.action} {self.path}: {self.reason}"


class AudioReadError(AudioError):
    """An input cannot be decoded: damaged, empty, not audio, or unreachable."""

    action = "read"
    code = "audio_unreadable"


class AudioWriteError(AudioError):
    """An output cannot be written: it exists, its folder is read-only, the disk is full."""

    action = "write"
    code = "audio_unwritable"


class ModelFailedError(AudioError):
    """The model gives NaN or infinite samples: its weights are broken, or it cannot cope with this input."""

    action = "restore"
    code = "model_failed"

    def __init__(self, path: str | Path, reason: str = "the model gave NaN or infinite samples") -> None:
        super().__init__(path, reason)


class StorageReadError(AudioReadError):
    """A storage fails to give an input that may be fine: another try may succeed."""

    code = "storage_unreadable"


class StorageWriteError(AudioWriteError):
    """A storage fails to take an output: another try may succeed."""

    code = "storage_unwritable"


class TrainingDivergedError(EnhanceRayError):
    """Loss or gradient is no longer finite at ``step``; ``reason`` says what to try."""

    code = "training_diverged"

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason

    def __str__(self) -> str:
        return f"training diverged at step {self.step}: {self.reason}"


def explain(error: BaseException) -> str:
    """One line for people."""
    text = getattr(error, "strerror", None) or str(error)
    return (text or type(error).__name__).strip().splitlines()[0]
