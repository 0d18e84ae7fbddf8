"""Which recordings and room responses of a folder cannot be used, and what to know about the rest."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from enhance_ray import audio
from enhance_ray.errors import AudioReadError
from enhance_ray.training.corpus.responses import ResponseStats, read_npy, response_stats
from enhance_ray.training.corpus.sounds import SoundAnalysis, SoundStats
from enhance_ray.training.parallel import Progress, parallel_map


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckLimits:
    """From where on a recording is worth a remark."""

    bandwidth: float = 16_000.0
    """Hz; speech that holds less is no target for full-band restoration."""
    snr_db: float = 15.0
    """Speech with a lower estimate teaches a denoiser to keep noise."""
    clipped: float = 1e-4
    """Share of the samples."""
    silent: float = 0.8
    """Share of the time."""
    offset: float = 0.01
    """Mean of the samples, full scale is 1."""
    seconds: float = 0.5
    """Shortest recording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """One file: what it is, why it cannot be used, what to know if it can."""

    path: str
    """Relative to the folder that was checked."""
    stats: SoundStats | ResponseStats | None
    """None where it cannot be read."""
    digest: str | None
    """Hash of the samples: equal for equal sound in different containers, if lossless."""
    problem: str | None
    """Why it cannot be used; None if it can."""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusReport:
    """All files of a folder, in the order of their names."""

    files: tuple[FileCheck, ...]
    ignored: tuple[str, ...]
    """Files that are neither audio nor `.npy`."""

    @property
    def unusable(self) -> list[FileCheck]:
        return [file for file in self.files if file.problem]

    def summary(self) -> str:
        """Some lines for people: how much there is, what cannot be used, how often each remark."""
        sounds = [f.stats for f in self.files if isinstance(f.stats, SoundStats) and not f.problem]
        rooms = [f.stats for f in self.files if isinstance(f.stats, ResponseStats) and not f.problem]
        hours = sum(stats.seconds for stats in sounds) / 3600
        lines = [
            f"{len(sounds)} recordings, {hours:.2f} h; {len(rooms)} room responses; "
            f"{len(self.unusable)} unusable; {len(self.ignored)} other files"
        ]
        lines += [f"  unusable: {file.path}: {file.problem}" for file in self.unusable]
        kinds = Counter(remark.partition(":")[0] for file in self.files for remark in file.remarks)
        lines += [f"  {count} x {kind}" for kind, count in kinds.most_common()]
        return "\n".join(lines)


def check(
    folder: str | Path,
    *,
    role: Literal["speech", "noise"] = "speech",
    limits: CheckLimits | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> CorpusReport:
    """Measure every audio file and room response (`.npy`) under ``folder``.

    Args:
        folder: local, searched recursively.
        role: what the recordings are to be; bandwidth and SNR are remarked on for speech only.
        limits: from where on to remark; `CheckLimits` by default.
        workers: processes; 1 does it in this one.
        progress: called after each file.

    Raises:
        AudioReadError: there is no such folder.
    """
    root = Path(folder)
    sounds = audio.find_audio(str(root))
    responses = [str(path) for path in root.rglob("*.npy") if not path.name.startswith(".")]
    everything = {str(path) for path in root.rglob("*") if path.is_file()}
    measure = functools.partial(_check_file, root=root, role=role, limits=limits or CheckLimits())
    rows = parallel_map(measure, sorted([*sounds, *responses]), workers, progress)
    ignored = sorted(everything - {*sounds, *responses})
    return CorpusReport(
        files=tuple(_mark_duplicates(rows)),
        ignored=tuple(Path(path).relative_to(root).as_posix() for path in ignored),
    )


def _check_file(path: str, *, root: Path, role: str, limits: CheckLimits) -> FileCheck:
    name = Path(path).relative_to(root).as_posix()
    try:
        if path.endswith(".npy"):
            responses = read_npy(path)
            digest = hashlib.sha256(responses.tobytes()).hexdigest()
            return FileCheck(path=name, stats=response_stats(responses[0]), digest=digest, problem=None)
        analysis = SoundAnalysis()
        with audio.decode(path) as blocks:
            for block in blocks:
                analysis.add(block, blocks.info.sample_rate)
        sound = analysis.stats()
    except AudioReadError as error:
        return FileCheck(path=name, stats=None, digest=None, problem=error.reason)
    return FileCheck(
        path=name,
        stats=sound,
        digest=analysis.digest(),
        problem=_problem(sound, limits),
        remarks=tuple(_remarks(sound, limits, role)),
    )


def _problem(stats: SoundStats, limits: CheckLimits) -> str | None:
    if stats.peak == 0:
        return "it is silent"
    if stats.seconds < limits.seconds:
        return f"it is short: {stats.seconds:.2f} s"
    return None


def _remarks(stats: SoundStats, limits: CheckLimits, role: str) -> Iterator[str]:
    if role == "speech" and stats.bandwidth < limits.bandwidth:
        yield f"narrow band: nothing above {stats.bandwidth:.0f} Hz"
    if role == "speech" and stats.snr_db is not None and stats.snr_db < limits.snr_db:
        yield f"noisy: about {stats.snr_db:.0f} dB SNR"
    if stats.clipped > limits.clipped:
        yield f"clipped: {stats.clipped:.2%} of the samples"
    if stats.silent > limits.silent:
        yield f"mostly silent: {stats.silent:.0%} of the time"
    if abs(stats.offset) > limits.offset:
        yield f"DC offset: {stats.offset:.3f}"


def _mark_duplicates(rows: Sequence[FileCheck]) -> Iterator[FileCheck]:
    first: dict[str, str] = {}
    for row in rows:
        original = first.setdefault(row.digest, row.path) if row.digest and not row.problem else row.path
        yield row if original == row.path else replace(row, problem=f"it is the same sound as {original}")
