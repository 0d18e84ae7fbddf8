"""Files on this machine and behind fsspec URIs, as C libraries can use them."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

import av
import fsspec
from fsspec.implementations.local import LocalFileSystem

from enhance_ray.audio.formats import KNOWN_EXTENSIONS
from enhance_ray.errors import (
    AudioError,
    AudioReadError,
    AudioWriteError,
    StorageReadError,
    StorageWriteError,
    explain,
)

T = TypeVar("T")

LIBAV_ERRORS = (av.FFmpegError, ValueError, OverflowError)
"""What PyAV raises of a file: libav's errors, and ValueError (UnicodeDecodeError too) of its own."""


# Every fsspec file system raises classes of its own (botocore's, aiohttp's, ...) that share no base
# below Exception. They are never passed over: each use turns them into an AudioError.
FILE_ERRORS = Exception


def is_remote(path: str) -> bool:
    """Whether ``path`` is an fsspec URI and not a path of this machine."""
    return "://" in path


def local_path(path: str) -> str:
    """``path`` without ``file://``: such files are local in all respects."""
    return LocalFileSystem._strip_protocol(path) if path.startswith("file://") else path


_PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
)


def may_pass(error: BaseException) -> bool:
    """Whether what a storage raised may be over at another try: it did not answer, or was too busy."""
    return not isinstance(error, _PERMANENT)


class Patience:
    """Asks a storage that fails again, for a while, at growing intervals with jitter."""

    def __init__(self, seconds: float = 0.0, stopped: threading.Event | None = None) -> None:
        """Set how long.

        Args:
            seconds: from an operation's first failure to its last try; 0 tries once.
            stopped: where it is set, there are no more tries.
        """
        self._seconds = seconds
        self._stopped = stopped or threading.Event()

    def __call__(self, operation: Callable[[], T]) -> T:
        """The result of ``operation``, which is called until it does not fail, or patience ends."""
        until: float | None = None
        wait = 0.25
        while True:
            try:
                return operation()
            except FILE_ERRORS as error:
                until = until or time.monotonic() + self._seconds
                # A thousand workers that lost the same server must not all come back at once.
                pause = min(wait * random.uniform(0.5, 1.5), until - time.monotonic())
                if pause <= 0 or not may_pass(error) or self._stopped.wait(pause):
                    raise
                wait = min(2 * wait, 15.0)


def read_error(path: str, reason: str, cause: BaseException) -> AudioReadError:
    """The error of an input that could not be read because of ``cause``."""
    kind = StorageReadError if is_remote(path) and may_pass(cause) else AudioReadError
    return kind(path, reason)


def write_error(path: str, reason: str, cause: BaseException) -> AudioWriteError:
    """The error of an output that could not be written because of ``cause``."""
    kind = StorageWriteError if is_remote(path) and may_pass(cause) else AudioWriteError
    return kind(path, reason)


class CallbackFile:
    """A binary file for C libraries, which call back from where an exception cannot pass.

    An error of the file ends its data, and is kept for `raise_error`, to be called after the library.
    """

    def __init__(
        self,
        file: BinaryIO,
        path: str,
        error: Callable[[str, str, BaseException], AudioError],
        patience: Patience | None = None,
    ) -> None:
        """Wrap ``file``; ``error`` is `read_error` or `write_error`."""
        self._file = file
        self._path = path
        self._error = error
        self._patience = patience or Patience()
        self._cause: Exception | None = None

    def raise_error(self) -> None:
        """Raise what went wrong in a callback, as the AudioError of this file."""
        if self._cause is not None:
            reason = f"the file system says: {explain(self._cause)}"
            raise self._error(self._path, reason, self._cause) from self._cause

    def read(self, size: int = -1) -> bytes:
        try:
            return self._patience(lambda: self._file.read(size))
        except FILE_ERRORS as error:
            self._cause = self._cause or error
            return b""

    def write(self, data: bytes | memoryview) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._cause = self._cause or error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except FILE_ERRORS as error:
            # Where a damaged header points before the start, the library shall see it, not the user.
            if not isinstance(error, ValueError) and getattr(error, "errno", None) != errno.EINVAL:
                self._cause = self._cause or error
            return -1

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed


class Window:
    """A part of a file, as a file; as much of one as soundfile asks for."""

    def __init__(self, file: CallbackFile, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data


def copy_times(source: str, target: str) -> None:
    """Give ``target`` the times of ``source``, where both are local and the file system has some."""
    if is_remote(source) or is_remote(target):
        return
    times = Path(local_path(source)).stat()
    with contextlib.suppress(OSError):
        os.utime(local_path(target), ns=(times.st_atime_ns, times.st_mtime_ns))


def open_input(path: str, patience: Patience | None = None) -> CallbackFile:
    """Open for reading at any offset.

    Raises:
        AudioReadError: there is no such file, or it cannot be opened.
    """
    local = local_path(path)
    try:
        if is_remote(local):
            file = (patience or Patience())(lambda: fsspec.open(local, "rb").open())
        elif stat.S_ISREG(Path(local).stat().st_mode):
            file = Path(local).open("rb")  # noqa: SIM115 - the Decoder closes it
        else:  # a folder; or a pipe, which would block for ever
            raise AudioReadError(path, "it is not a file")
    except AudioReadError:
        raise
    except FileNotFoundError as error:
        raise AudioReadError(path, "it does not exist") from error
    except FILE_ERRORS as error:
        raise read_error(path, f"it cannot be opened: {explain(error)}", error) from error
    try:
        file.seek(0, os.SEEK_END)
    except ValueError as error:  # what fsspec raises of a stream
        file.close()
        raise AudioReadError(path, "its server does not give it in parts (no range requests)") from error
    return CallbackFile(file, path, read_error, patience)


def exists(path: str, patience: Patience | None = None) -> bool:
    """Whether there is something at ``path``, a local path or an fsspec URI.

    Raises:
        Exception: what the storage raises, when ``patience`` has ended.
    """
    if not is_remote(path):
        return Path(path).exists()
    filesystem, name = fsspec.url_to_fs(path)
    return bool((patience or Patience())(lambda: filesystem.exists(name)))


def publish(file: Path, target: str, patience: Patience) -> None:
    """Put a complete file of this machine where it belongs; it appears there whole.

    A local file is moved: it should lie on the same disk, or is copied.

    Raises:
        Exception: what the storage raises, when ``patience`` has ended.
    """
    if is_remote(target):
        filesystem, name = fsspec.url_to_fs(target)
        patience(lambda: filesystem.put_file(str(file), name))
        return
    try:
        file.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        nearer = Path(target).with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            shutil.copyfile(file, nearer)
            nearer.replace(target)
        finally:
            nearer.unlink(missing_ok=True)


def is_known(path: str) -> bool:
    """Whether the name looks like audio or video that `decode` may read."""
    return PurePosixPath(path).suffix.lower() in KNOWN_EXTENSIONS


def find_audio(folder: str, passed_over: list[str] | None = None) -> list[str]:
    """Every file under ``folder``, a local path or an fsspec URI, whose name looks like audio.

    Sorted, and without hidden files: unfinished outputs are hidden.

    Args:
        folder: where to search.
        passed_over: where the names of the others go.

    Raises:
        AudioReadError: there is no such folder, or it cannot be listed.
    """
    if not is_remote(folder):
        if not Path(folder).is_dir():
            raise AudioReadError(folder, "it is not a folder")
        found = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]  # noqa: PTH118
    else:
        try:
            filesystem, root = fsspec.url_to_fs(folder)
            if not filesystem.isdir(root):
                raise AudioReadError(folder, "it is not a folder")
            found = [folder.rstrip("/") + name[len(root.rstrip("/")) :] for name in filesystem.find(root)]
        except FILE_ERRORS as error:
            raise AudioReadError(folder, f"it cannot be listed: {explain(error)}") from error
    # On object storages a name that ends in a slash stands for a folder.
    shown = [
        name for name in found if not name.endswith("/") and not PurePosixPath(name).name.startswith(".")
    ]
    if passed_over is not None:
        passed_over += [name for name in shown if not is_known(name)]
    return sorted(filter(is_known, shown))
