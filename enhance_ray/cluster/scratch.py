"""Folders for temporary files that are emptied after a process that was killed could not do so."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_SCRATCH = "enhance-ray-actor-"
_PLAN = "enhance-ray-plan-"
_MEMORY = "enhance-ray-ledger-"
_MEMORY_SECONDS = 86_400.0
_LOCK_NAME = "lock"


def own_scratch() -> FileLock:
    """Have all temporary files of this process in a folder of its own; remove those of killed ones.

    Returns:
        What must be kept: while it is, the folder counts as used.
    """
    folder, lock = _locked_folder(_SCRATCH)
    tempfile.tempdir = str(folder)
    return lock


@contextlib.contextmanager
def planning_folder() -> Iterator[Path]:
    """A folder for what planning keeps on disk, often gigabytes; removes those of killed drivers."""
    folder, lock = _locked_folder(_PLAN)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def ledger_folder() -> Path:
    """A folder for what a ledger remembers; removes those that none has written to for a day."""
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{_MEMORY}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _MEMORY_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_MEMORY, dir=root))


def _locked_folder(prefix: str) -> tuple[Path, FileLock]:
    """A new one, used while its lock is kept; removes those of that prefix that nobody uses."""
    root = Path(tempfile.gettempdir())
    for folder in root.glob(f"{prefix}*"):
        with contextlib.suppress(Timeout, OSError), FileLock(folder / _LOCK_NAME, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    lock = FileLock(folder / _LOCK_NAME)
    lock.acquire()
    return folder, lock
