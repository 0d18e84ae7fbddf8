"""A corpus in memory: every recording decoded once, at the model's rate, mono, in one memory-mapped file.

Crops then cost a page read instead of a decoder, worker processes share the pages, and the next
run on the same files starts at once.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int16
from numpy.typing import NDArray

from enhance_ray import audio
from enhance_ray.dsp.resample import StreamingResampler
from enhance_ray.errors import AudioError, ConfigError
from enhance_ray.options import MODEL_RATE
from enhance_ray.training.splits import Split, held_out

logger = logging.getLogger(__name__)

Waveform = Float32[np.ndarray, " time"]
LAYOUT = 1
"""Raised when the file below changes its meaning, so that an old one is made anew."""


@dataclass(frozen=True, slots=True)
class Source:
    """A recording of a corpus before it is decoded."""

    path: str
    group: str
    """Who speaks, where the list says so; clips of one group may follow each other in an example."""


class Recordings(Protocol):
    """Recordings at the model's rate, mono, by number."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Who speaks in each; empty where that is not known."""
        ...

    def __len__(self) -> int: ...

    def length(self, index: int) -> int:
        """Samples of recording ``index``."""
        ...

    def read(self, index: int, start: int = 0, length: int | None = None) -> Waveform:
        """Samples ``start`` to ``start + length`` (or the end) of a recording, as float32."""
        ...


@dataclass(frozen=True, slots=True)
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


def list_sources(root: Path, entries: Sequence[str], split: Split, held_out_every: int) -> list[Source]:
    """The recordings of ``split`` in ``entries``, in the order of their names.

    Args:
        root: what entries are relative to.
        entries: a folder is searched for audio, and `splits.held_out` decides by name what is
            validation; a CSV file lists recordings relative to its own folder in the columns
            ``file``, ``split`` (train or valid) and, if it has one, ``speaker``.
        split: which part.
        held_out_every: one in so many files of a folder is validation.

    Raises:
        ConfigError: an entry does not exist or holds nothing.
    """
    found: list[Source] = []
    for entry in entries:
        path = root / entry
        if path.suffix == ".csv":
            listed = _list_csv(path, split)
        elif path.is_dir():
            files = audio.find_audio(str(path))
            listed = [Source(f, "") for f in files if held_out(f, held_out_every) == (split == "valid")]
        else:
            raise ConfigError(str(path), "there is no such folder or .csv list")
        found += listed
    if not found:
        raise ConfigError(", ".join(str(root / entry) for entry in entries), f"no {split} recordings found")
    return sorted(found, key=lambda source: source.path)


def _list_csv(path: Path, split: Split) -> list[Source]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from error
    if not rows or not {"file", "split"} <= rows[0].keys():
        raise ConfigError(str(path), "expected a CSV file with the columns file, split and perhaps speaker")
    return [Source(str(path.parent / r["file"]), r.get("speaker") or "") for r in rows if r["split"] == split]


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
    if not (folder / "index.json").exists():
        _decode(sources, folder, progress)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    samples = np.memmap(folder / "samples.int16", np.int16, "r")
    return Bank(samples, tuple(index["names"]), tuple(index["groups"]), np.array(index["bounds"], np.int64))


def _decode(sources: Sequence[Source], folder: Path, progress: Callable[[int, int], None] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names, groups, bounds = [], [], [0]
    with ThreadPoolExecutor(2) as pool, (folder / "samples.int16").open("wb") as out:
        for done, (source, waveform) in enumerate(
            zip(sources, pool.map(_read, sources), strict=True), start=1
        ):
            if waveform is not None:
                np.rint(waveform.clip(-1, 1) * 32767).astype(np.int16).tofile(out)
                names.append(source.path)
                groups.append(source.group)
                bounds.append(bounds[-1] + waveform.size)
            if progress is not None:
                progress(done, len(sources))
    if not names:
        raise ConfigError(sources[0].path, f"none of the {len(sources)} recordings could be decoded")
    # Written last: without it the folder does not count, and the next run decodes again.
    index = {"names": names, "groups": groups, "bounds": bounds}
    temporary = folder / "index.tmp"
    temporary.write_text(json.dumps(index), encoding="utf-8")
    temporary.replace(folder / "index.json")


def _read(source: Source) -> Waveform | None:
    try:
        with audio.decode(source.path) as decoder:
            resampler = StreamingResampler(decoder.info.sample_rate, MODEL_RATE)
            mono = (torch.from_numpy(block.mean(axis=0, keepdims=True)) for block in decoder)
            blocks = [*map(resampler.push, mono), resampler.finish()]
    except AudioError as error:
        logger.warning("left out of the corpus: %s", error)
        return None
    waveform: Waveform = torch.cat(blocks, dim=-1)[0].numpy()
    return waveform


def _digest(sources: Sequence[Source]) -> str:
    """Depends on what the files are: names, sizes and times of change."""
    digest = hashlib.sha256(str(LAYOUT).encode())
    for source in sources:
        status = Path(source.path).stat()
        digest.update(f"{source.path}|{source.group}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
