"""Recordings to make examples of: decoded once into one file, or decoded when they are drawn.

`Bank` is for what fits on a disk: every recording decoded once, at the model's rate, mono, in one
memory-mapped file. Crops then cost a page read instead of a decoder, worker processes share the pages, and
the next run on the same files starts at once. `StreamedBank` is for what does not fit: it reads a recording
when it is drawn, by ranges where it lies in a shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float32, Int16
from numpy.typing import NDArray

from enhance_ray import audio
from enhance_ray.dsp.resample import StreamingResampler
from enhance_ray.errors import AudioError, ConfigError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.parallel import in_order
from enhance_ray.training.sources import Source

logger = logging.getLogger(__name__)

Waveform = Float32[np.ndarray, " time"]
LAYOUT = 2
"""Raised when the file below changes its meaning, so that an old one is made anew."""
LONG_SECONDS = 120.0
"""From this length on, a recording is not kept in memory as a whole."""
MOST_DECODERS = 16
"""Processes that decode a corpus at once; a disk feeds hardly more."""
ALONE = 200
"""Fewer recordings than this are decoded here: processes take seconds to start."""


class Recordings(Protocol):
    """Recordings at the model's rate, mono, by number."""

    def __len__(self) -> int: ...

    def companions(self, index: int) -> NDArray[np.int64]:
        """The recordings by the same speaker, itself among them; itself alone where that is not known."""
        ...

    def length(self, index: int) -> int:
        """Samples of recording ``index``."""
        ...

    def read(self, index: int, start: int = 0, length: int | None = None) -> Waveform:
        """Samples ``start`` to ``start + length`` (or the end) of a recording, as float32."""
        ...


class _Groups:
    """Which recordings belong together."""

    def __init__(self, groups: Sequence[str]) -> None:
        self._of = list(groups)

    def companions(self, index: int) -> NDArray[np.int64]:
        group = self._of[index]
        return self._members[group] if group else np.array([index])

    @cached_property
    def _members(self) -> dict[str, NDArray[np.int64]]:
        names, members = np.unique(np.array(self._of, dtype=object), return_inverse=True)
        order = np.argsort(members, kind="stable")
        starts = np.searchsorted(members[order], np.arange(len(names) + 1))
        return {name: order[starts[i] : starts[i + 1]] for i, name in enumerate(names)}


@dataclass(frozen=True)
class Bank:
    """Decoded recordings, one after the other."""

    samples: Int16[np.ndarray, " time"]
    """Full scale is 32767."""
    names: tuple[str, ...]
    groups: tuple[str, ...]
    bounds: NDArray[np.int64]
    """Recording i is ``samples[bounds[i]:bounds[i + 1]]``."""

    def __len__(self) -> int:
        return len(self.names)

    def companions(self, index: int) -> NDArray[np.int64]:
        """The recordings by the same speaker."""
        return self._groups.companions(index)

    @cached_property
    def _groups(self) -> _Groups:
        return _Groups(self.groups)

    @property
    def seconds(self) -> float:
        """Length of all recordings together."""
        return float(self.bounds[-1]) / MODEL_RATE

    def length(self, index: int) -> int:
        """Samples of recording ``index``."""
        return int(self.bounds[index + 1] - self.bounds[index])

    def read(self, index: int, start: int = 0, length: int | None = None) -> Waveform:
        """Samples ``start`` to ``start + length`` (or the end) of a recording, as float32."""
        first = int(self.bounds[index]) + start
        last = int(self.bounds[index + 1])
        piece = self.samples[first : last if length is None else min(last, first + length)]
        return piece.astype(np.float32) / 32767


def load_bank(
    sources: Sequence[Source], cache: Path, *, progress: Callable[[int, int], None] | None = None
) -> Bank:
    """Decode ``sources``, or map what an earlier call with the same files left in ``cache``.

    Recordings that cannot be decoded are left out with a warning that names them.

    Args:
        sources: what to decode; several channels are mixed down.
        cache: folder for the decoded samples, two bytes each.
        progress: called with (files done, files in all).

    Raises:
        ConfigError: nothing could be decoded.
    """
    folder = cache / f"bank-{_digest(sources)}"
    cache.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A process that decodes imports the script that started it, and would wait for its own parent.
            raise ConfigError("the script", "put what it does under `if __name__ == '__main__':`")
        # One process of this machine decodes, the others wait for it.
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                _decode(sources, folder, progress)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    samples = np.memmap(folder / "samples.int16", np.int16, "r")
    return Bank(samples, tuple(index["names"]), tuple(index["groups"]), np.array(index["bounds"], np.int64))


class StreamedBank:
    """Recordings that are decoded when they are drawn, the newest of them kept; for one thread.

    One that cannot be read is taken for an empty one, with a warning that names it. Of one that is longer
    than `LONG_SECONDS` only what is asked for is kept in memory, but all before it has to be decoded:
    `enhance-ray corpus pack` cuts such recordings up.
    """

    def __init__(self, sources: Sequence[Source], *, cache_bytes: int = 256 * 2**20) -> None:
        """Nothing is read yet.

        Args:
            sources: where the recordings are.
            cache_bytes: of decoded samples, two bytes each, that are kept.
        """
        self.sources = sources
        self._cache: OrderedDict[int, Int16[np.ndarray, " time"]] = OrderedDict()
        self._cached_bytes, self._cache_bytes = 0, cache_bytes
        self._long: dict[int, int] = {}
        self._groups = _Groups([source.group for source in sources])

    def __len__(self) -> int:
        return len(self.sources)

    def companions(self, index: int) -> NDArray[np.int64]:
        """The recordings by the same speaker."""
        return self._groups.companions(index)

    def length(self, index: int) -> int:
        """Samples of recording ``index``; of a long one what its header says."""
        whole = self._whole(index)
        return self._long[index] if whole is None else whole.size

    def read(self, index: int, start: int = 0, length: int | None = None) -> Waveform:
        """Samples ``start`` to ``start + length`` (or the end) of a recording, as float32."""
        whole = self._whole(index)
        stop = None if length is None else start + length
        if whole is None:
            return self._decode(self.sources[index], start, stop)
        return whole[start:stop].astype(np.float32) / 32767

    def _whole(self, index: int) -> Int16[np.ndarray, " time"] | None:
        if index in self._long:
            return None
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        source = self.sources[index]
        frames = None if source.place else _long_frames(source)
        if frames is not None:
            self._long[index] = frames
            return None
        samples = _to_int16(self._decode(source))
        self._cache[index] = samples
        self._cached_bytes += samples.nbytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return samples

    def _decode(self, source: Source, start: int = 0, stop: int | None = None) -> Waveform:
        try:
            return _decode_source(source, start, stop)
        except AudioError as error:
            _leave_out(error)
            return np.zeros(0, np.float32)


def _long_frames(source: Source) -> int | None:
    """Samples at the model's rate, where the header promises more than `LONG_SECONDS`."""
    try:
        info = audio.probe(source.path)
    except AudioError:
        return None  # decoding will say what is wrong
    seconds = (info.frames or 0) / info.sample_rate
    return int(seconds * MODEL_RATE) if seconds > LONG_SECONDS else None


def _decode(sources: Sequence[Source], folder: Path, progress: Callable[[int, int], None] | None) -> None:
    names, groups, bounds = [], [], [0]
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        temporary = Path(name) / "bank"
        temporary.mkdir()
        workers = min(MOST_DECODERS, os.cpu_count() or 1) if len(sources) >= ALONE else 1
        # Not threads: small packets keep a decoder under the interpreter's lock, two are slower than one.
        decoded = contextlib.closing(in_order(_decode_int16, sources, workers, chunk=8))
        with decoded as recordings, (temporary / "samples.int16").open("wb") as out:
            for done, (source, samples) in enumerate(zip(sources, recordings, strict=True), start=1):
                if isinstance(samples, AudioError):
                    _leave_out(samples)
                else:
                    samples.tofile(out)
                    names.append(source.name)
                    groups.append(source.group)
                    bounds.append(bounds[-1] + samples.size)
                if progress is not None:
                    progress(done, len(sources))
        if not names:
            raise ConfigError(sources[0].name, f"none of the {len(sources)} recordings could be decoded")
        index = {"names": names, "groups": groups, "bounds": bounds}
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        temporary.rename(folder)


def _decode_int16(source: Source) -> Int16[np.ndarray, " time"] | AudioError:
    try:
        return _to_int16(_decode_source(source))
    except AudioError as error:
        return error  # for the log of the process that asked


def _leave_out(error: AudioError) -> None:
    logger.warning("left out of the corpus: %s", error)


def _to_int16(waveform: Waveform) -> Int16[np.ndarray, " time"]:
    samples: Int16[np.ndarray, " time"] = np.rint(waveform.clip(-1, 1) * 32767).astype(np.int16)
    return samples


def _decode_source(source: Source, start: int = 0, stop: int | None = None) -> Waveform:
    """Samples ``start`` to ``stop`` at the model's rate, channels mixed down.

    Raises:
        AudioError: it cannot be read.
    """
    kept: list[torch.Tensor] = []
    position = 0
    with audio.decode(source.name if source.place else source.path, data=source.content()) as decoder:
        resampler = StreamingResampler(decoder.info.sample_rate, MODEL_RATE)
        for block in decoder:
            piece = resampler.push(torch.from_numpy(block.mean(axis=0, keepdims=True)))
            _keep(kept, piece, position, start, stop)
            position += piece.shape[-1]
            if stop is not None and position >= stop:
                break
        else:
            _keep(kept, resampler.finish(), position, start, stop)
    waveform: Waveform = torch.cat(kept, dim=-1)[0].numpy() if kept else np.zeros(0, np.float32)
    return waveform


def _keep(kept: list[torch.Tensor], piece: torch.Tensor, position: int, start: int, stop: int | None) -> None:
    """Append what of ``piece``, which lies at ``position``, is between ``start`` and ``stop``."""
    first = max(0, start - position)
    last = piece.shape[-1] if stop is None else min(piece.shape[-1], stop - position)
    if first < last:
        kept.append(piece[:, first:last])


def _digest(sources: Sequence[Source]) -> str:
    """Depends on what the files are: names, and on this machine sizes and times of change."""
    digest = hashlib.sha256(str(LAYOUT).encode())
    for source in sources:
        local = Path(source.path)
        status = local.stat() if not audio.is_remote(source.path) and local.exists() else None
        state = f"{status.st_size}|{status.st_mtime_ns}" if status else ""
        digest.update(f"{source.name}|{source.group}|{state}\n".encode())
    return digest.hexdigest()[:16]
