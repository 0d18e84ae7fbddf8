"""What a corpus is worth before training on it, and the rooms to put it in.

- `check` measures every recording and room response under a folder, says which cannot be used and
  what to know about the rest: band, noise, clipping, silence.
- `rirs` simulates shoebox rooms by the image source method, with ray tracing for the late part
  (pyroomacoustics: Scheibler et al. 2018, arXiv:1710.04196), and writes their responses.
- `load_rirs` reads a folder of responses for `degrade.Distorter`.

A folder of responses holds mono `.npy` files at 44.1 kHz, as in the reference (which takes them to be
at 44.0 kHz), or audio files at any rate.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import scipy
from jaxtyping import Float32
from numpy.typing import NDArray

from enhance_ray import audio
from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import NotNegative, Positive, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade import Response, Waveform, direct_path, resample_fft
from enhance_ray.training.parallel import in_order
from enhance_ray.training.splits import Split, held_out

Block = Float32[np.ndarray, "channel time"]
Progress = Callable[[int, int], None]
"""Called with (done, all) after each file."""

PRE_RAMP = MODEL_RATE // 1000
"""Samples that a response keeps before its direct path: 1 ms of microphone or simulation ringing."""


# ------------------------------------------------------------- checking: limits and results


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
class SoundStats:
    """What was measured on a recording."""

    seconds: float
    sample_rate: int
    channels: int
    peak: float
    bandwidth: float
    """Hz; see `effective_bandwidth`."""
    snr_db: float | None
    """See `estimate_snr`: for speech with pauses. None where there is too little sound to tell."""
    clipped: float
    """Share of the samples at full scale or on a flat top."""
    silent: float
    """Share of the 20 ms frames more than 40 dB below the loudest."""
    offset: float
    """Mean of the samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseStats:
    """What was measured on a room response."""

    seconds: float
    direct_seconds: float
    """Where the direct path is."""
    t60: float | None
    """See `reverberation_time`."""
    drr_db: float
    """See `direct_to_reverberant`."""


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


# --------------------------------------------------------------------------- checking: files


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
            responses = _read_npy(path)
            digest = hashlib.sha256(responses.tobytes()).hexdigest()
            return FileCheck(path=name, stats=response_stats(responses[0]), digest=digest, problem=None)
        analysis = _SoundAnalysis()
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


class _SoundAnalysis:
    """Measures a recording block by block, keeping 400 bytes a second and a bounded sample of spectra."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._spectra = SpectrumSample()
        self._frame_powers: list[NDArray[np.float64]] = []
        self._frames = self._clipped = self._sample_rate = self._channels = 0
        self._sum = self._peak = 0.0

    def add(self, block: Block, sample_rate: int) -> None:
        self._channels, self._sample_rate = block.shape[0], sample_rate
        self._frames += block.shape[1]
        self._sum += float(block.sum(dtype=np.float64))
        self._peak = max(self._peak, float(np.abs(block).max()))
        self._clipped += sum(count_clipped(channel) for channel in block)
        # At 16 bits, channels interleaved: the same for any container and length of blocks.
        samples = np.clip(np.rint(block.T * 32_768), -32_768, 32_767)
        self._sha.update(np.ascontiguousarray(samples, "<i2").tobytes())
        mono: Waveform = block.mean(0)
        self._frame_powers.append(_frames(mono, sample_rate // 50).var(-1, dtype=np.float64))
        self._spectra.add(mono)

    def digest(self) -> str:
        return self._sha.hexdigest()

    def stats(self) -> SoundStats:
        powers = np.concatenate(self._frame_powers)
        samples = self._frames * self._channels
        return SoundStats(
            seconds=self._frames / self._sample_rate,
            sample_rate=self._sample_rate,
            channels=self._channels,
            peak=self._peak,
            bandwidth=effective_bandwidth(self._spectra.frames(), self._sample_rate),
            snr_db=estimate_snr(powers),
            clipped=self._clipped / samples,
            silent=float(np.mean(powers <= 1e-4 * powers.max())),
            offset=self._sum / samples,
        )


class SpectrumSample:
    """Power spectra of up to 4,096 frames spread evenly over a recording of any length.

    When it is full, every second frame is dropped, and from then on every second one is taken.
    """

    POINTS, LIMIT = 2048, 4096

    def __init__(self) -> None:
        self._kept: list[NDArray[np.float32]] = []
        self._stride = 1
        self._seen = 0
        self._window: Waveform = scipy.signal.get_window("hann", self.POINTS).astype(np.float32)

    def add(self, mono: Waveform) -> None:
        frames = _frames(mono, self.POINTS)
        for frame in frames[-self._seen % self._stride :: self._stride]:
            self._kept.append(np.square(np.abs(scipy.fft.rfft(frame * self._window))))
        self._seen += len(frames)
        while len(self._kept) > self.LIMIT:
            self._kept = self._kept[::2]
            self._stride *= 2

    def frames(self) -> Float32[np.ndarray, "frame bin"]:
        return np.stack(self._kept)


def _frames(mono: Waveform, length: int) -> Float32[np.ndarray, "frame sample"]:
    """Whole frames without overlap; what is shorter than one is padded with zeros to one."""
    if mono.size < length:
        mono = np.pad(mono, (0, length - mono.size))
    return mono[: mono.size // length * length].reshape(-1, length)


# ------------------------------------------------------------------------------ measurements


def effective_bandwidth(spectra: Float32[np.ndarray, "frame bin"], sample_rate: int) -> float:
    """Highest frequency in Hz at which a recording still holds something.

    That is where its spectrum falls 50 dB below its largest value for good. The spectrum is taken
    after pre-emphasis, which makes speech about flat (without, it would be 60 to 70 dB); with each bin
    at the level that a tenth of the active frames passes, so that sibilants count although they are
    rare, and a click does not; and smoothed over 250 Hz, so that a tone does not count.

    Args:
        spectra: power from 0 to half the sample rate.
        sample_rate: Hz.
    """
    frequencies = np.linspace(0, sample_rate / 2, spectra.shape[1])
    emphasis = np.square(np.abs(1 - 0.97 * np.exp(-2j * np.pi * frequencies / sample_rate)))
    emphasized = spectra * emphasis
    loudness = emphasized.sum(-1)
    if loudness.max() == 0:
        return 0.0
    level = np.quantile(emphasized[loudness >= 1e-4 * loudness.max()], 0.9, axis=0)
    smoothed = scipy.ndimage.median_filter(level, max(1, round(250 / frequencies[1])))
    return float(frequencies[np.flatnonzero(smoothed >= 1e-5 * smoothed.max())[-1]])


def estimate_snr(frame_powers: NDArray[np.float64]) -> float | None:
    """Level of speech over that of the quietest tenth, in dB, from the powers of 20 ms frames.

    Speech is what lies 6 dB above the quietest tenth. Frames below -100 dBFS do not count: somebody
    cut or muted there. None where less than half a second remains.
    """
    audible = frame_powers[frame_powers >= 1e-10]
    if audible.size < 25:
        return None
    noise = np.quantile(audible, 0.1)
    speech = audible[audible >= min(4 * noise, audible.max())].mean()
    return float(10 * np.log10(max(speech - noise, 1e-12) / noise))


def count_clipped(channel: Waveform) -> int:
    """Samples at full scale, and samples on flat tops: four or more equal ones in a row, above -26 dBFS.

    A flat top also tells of clipping before the level was lowered.
    """
    magnitude = np.abs(channel)
    same = (np.diff(channel) == 0) & (magnitude[1:] > 0.05)
    flat = same[:-2] & same[1:-1] & same[2:]
    top = magnitude >= 0.9999
    for offset in range(4):
        top[offset : offset + flat.size] |= flat
    return int(np.count_nonzero(top))


def response_stats(response: Response, sample_rate: int = MODEL_RATE) -> ResponseStats:
    """Measure one room response."""
    return ResponseStats(
        seconds=response.size / sample_rate,
        direct_seconds=direct_path(response) / sample_rate,
        t60=reverberation_time(response, sample_rate),
        drr_db=direct_to_reverberant(response, sample_rate),
    )


def energy_decay(response: Response) -> NDArray[np.float64]:
    """(time,) energy from each sample to the end, as a share of all (Schroeder 1965)."""
    energy = np.square(response, dtype=np.float64)[::-1].cumsum()[::-1]
    decay: NDArray[np.float64] = energy / energy[0]
    return decay


def reverberation_time(response: Response, sample_rate: int) -> float | None:
    """T60 in seconds: three times the time in which the decay falls from -5 to -25 dB (ISO 3382-1).

    None where it falls by more than that from one sample to the next: there is no tail.
    """
    decay = energy_decay(response[direct_path(response) :])
    start, end = (int(np.argmax(decay < 10 ** (level / 10))) for level in (-5, -25))
    return 3 * (end - start) / sample_rate if end > start else None


def direct_to_reverberant(response: Response, sample_rate: int) -> float:
    """Energy up to 2.5 ms after the direct path over the energy after that, in dB."""
    edge = direct_path(response) + round(2.5e-3 * sample_rate)
    energy = np.square(response, dtype=np.float64)
    return float(10 * np.log10(energy[:edge].sum() / max(energy[edge:].sum(), 1e-12)))


# ------------------------------------------------------------------------------ room responses


def load_rirs(folder: str | Path, *, split: Split | None = None, held_out_every: int = 8) -> list[Response]:
    """Read the room responses under ``folder``, `.npy` at 44.1 kHz or audio at any rate, by name.

    Each channel is a response of its own. It is cut to begin at most 1 ms before its direct path, and
    to end where what is left is 60 dB below the whole.

    Args:
        folder: local, searched recursively.
        split: the files of one side only (`splits.held_out`); by default all.
        held_out_every: one in so many files is for validation.

    Raises:
        AudioReadError: there is no such folder, or a file in it is not a response.
    """
    paths = [*audio.find_audio(str(folder)), *map(str, Path(folder).rglob("*.npy"))]
    if split:
        paths = [path for path in paths if held_out(path, held_out_every) == (split == "valid")]
    return [
        trim_response(response)
        for path in sorted(paths)
        for response in (_read_npy(path) if path.endswith(".npy") else _read_audio(path))
    ]


def trim_response(response: Response) -> Float32[np.ndarray, " kept"]:
    """Cut what comes earlier than 1 ms before the direct path, and the tail below -60 dB."""
    start = max(0, direct_path(response) - PRE_RAMP)
    end = int(np.count_nonzero(energy_decay(response) >= 1e-6))
    return response[start:end]


def _read_npy(path: str) -> Block:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise AudioReadError(path, f"it is not an .npy array: {error}") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioReadError(path, f"it holds {array.dtype}, not floating-point samples")
    responses = np.atleast_2d(array.squeeze()).astype(np.float32)
    if responses.ndim > 2 or responses.shape[0] > 64:
        raise AudioReadError(path, f"expected (time,) or (channel, time), got {array.shape}")
    return _checked_responses(path, responses)


def _read_audio(path: str) -> Block:
    with audio.decode(path) as blocks:
        waveforms = np.concatenate(list(blocks), axis=-1)
        sample_rate = blocks.info.sample_rate
    if sample_rate != MODEL_RATE:
        waveforms = np.stack([resample_fft(each, sample_rate, MODEL_RATE) for each in waveforms])
    return _checked_responses(path, waveforms)


def _checked_responses(path: str, responses: Block) -> Block:
    if not np.isfinite(responses).all():
        raise AudioReadError(path, "it holds NaN or infinite samples")
    if responses.size == 0 or not responses.any(-1).all():
        raise AudioReadError(path, "it is silent")
    return responses


# ---------------------------------------------------------------------------------- simulation


@settings
class RoomRanges:
    """What rooms are drawn from. Lengths in metres."""

    length: Annotated[tuple[Positive, Positive], Within()] = (2.5, 10.0)
    width: Annotated[tuple[Positive, Positive], Within()] = (2.0, 8.0)
    height: Annotated[tuple[Positive, Positive], Within()] = (2.2, 4.0)
    t60: Annotated[tuple[Positive, Positive], Within()] = (0.1, 1.5)
    """Seconds, drawn on a logarithmic scale; redrawn, as the room is, where no walls can absorb that much."""
    distance: Annotated[tuple[Positive, Positive], Within()] = (0.3, 4.0)
    """From mouth to microphone."""
    wall: NotNegative = 0.3
    """Closest that either is to a wall."""

    def __post_init__(self) -> None:
        shortest = min(self.length[0], self.width[0], self.height[0])
        if 2 * self.wall >= shortest:
            raise ConfigError("wall", f"expected less than half of {shortest:g} m, got {self.wall:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRoom:
    """One row of `rirs.json`. Lengths in metres."""

    file: str
    size: tuple[float, float, float]
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]
    t60_asked: float
    """What the walls were chosen for, by Sabine's formula, in seconds."""
    t60: float | None
    """What the response shows, in seconds."""
    drr_db: float


def rirs(
    out_folder: str | Path,
    count: int,
    seed: int = 0,
    *,
    ranges: RoomRanges | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    workers: int = 1,
    progress: Progress | None = None,
) -> list[SimulatedRoom]:
    """Simulate ``count`` rooms and write `rir_00000.npy`, ... and `rirs.json` into ``out_folder``.

    A response is mono at 44.1 kHz, with its direct path at 1 ms and a peak of 1. Room i depends on
    (seed, i) alone: a longer run of the same seed begins with the same rooms.

    Args:
        out_folder: created if absent.
        count: number of rooms.
        seed: decides all of them.
        ranges: what they are drawn from; `RoomRanges` by default.
        dtype: of the arrays; float16 keeps 11 bits of each sample, in half the space.
        workers: processes; 1 does it in this one.
        progress: called after each room.

    Raises:
        ConfigError: ``count`` is not positive, the folder holds simulated rooms already, nothing fits
            ``ranges``, or pyroomacoustics is not installed.
    """
    out = Path(out_folder)
    if count < 1:
        raise ConfigError("count", f"expected 1 or more, got {count}")
    if (out / "rirs.json").exists():
        raise ConfigError(str(out), "it holds simulated rooms already (rirs.json): choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    write = functools.partial(_write_room, out=out, seed=seed, ranges=ranges or RoomRanges(), dtype=dtype)
    rooms = parallel_map(write, range(count), workers, progress)
    table = [asdict(room) for room in rooms]
    (out / "rirs.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return rooms


def _write_room(index: int, *, out: Path, seed: int, ranges: RoomRanges, dtype: str) -> SimulatedRoom:
    room, response = simulate_room(f"rir_{index:05d}.npy", np.random.default_rng([seed, index]), ranges)
    np.save(out / room.file, response.astype(dtype))
    return room


def simulate_room(file: str, rng: np.random.Generator, ranges: RoomRanges) -> tuple[SimulatedRoom, Response]:
    """Draw a room, a mouth and a microphone in it, and compute the response between them.

    Raises:
        ConfigError: nothing fits ``ranges``, or pyroomacoustics is not installed.
    """
    try:
        import pyroomacoustics  # an extra: training with recorded responses does not need it
    except ModuleNotFoundError as error:
        raise ConfigError("pyroomacoustics", "is not installed: pip install 'enhance-ray[train]'") from error

    scene = _draw_scene(rng, ranges)
    pyroomacoustics.seed(int(rng.integers(2**31)))  # of the rays and the noise between them
    simulation = pyroomacoustics.ShoeBox(
        scene.size,
        fs=MODEL_RATE,
        # Early reflections one by one; later, rays that walls scatter a little.
        materials=pyroomacoustics.Material(scene.absorption, scattering=0.2),
        max_order=10,
        ray_tracing=True,
        air_absorption=True,
    )
    simulation.set_ray_tracing(n_rays=3000)
    simulation.add_source(scene.source)
    simulation.add_microphone(scene.microphone)
    simulation.compute_rir()
    response = _place_direct_path(simulation.rir[0][0].astype(np.float32))
    room = SimulatedRoom(
        file=file,
        size=_rounded(scene.size),
        source=_rounded(scene.source),
        microphone=_rounded(scene.microphone),
        t60_asked=round(scene.t60, 3),
        t60=reverberation_time(response, MODEL_RATE),
        drr_db=round(direct_to_reverberant(response, MODEL_RATE), 2),
    )
    return room, response


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    size: NDArray[np.float64]
    source: NDArray[np.float64]
    microphone: NDArray[np.float64]
    t60: float
    absorption: float


def _draw_scene(rng: np.random.Generator, ranges: RoomRanges) -> _Scene:
    """Draw until walls can absorb enough for the T60 and mouth and microphone are as far apart as asked."""
    for _ in range(1000):
        size = np.array([rng.uniform(*side) for side in (ranges.length, ranges.width, ranges.height)])
        t60 = math.exp(rng.uniform(*np.log(ranges.t60)))
        source, microphone = rng.uniform(ranges.wall, size - ranges.wall, (2, 3))
        volume, surface = size.prod(), 2 * (size.prod() / size).sum()
        absorption = 24 * math.log(10) / 343 * volume / (surface * t60)  # Sabine's formula
        distance = np.linalg.norm(source - microphone)
        if absorption < 0.95 and ranges.distance[0] <= distance <= ranges.distance[1]:
            return _Scene(size=size, source=source, microphone=microphone, t60=t60, absorption=absorption)
    raise ConfigError("", "no room within the ranges of size, t60 and distance was found in 1000 draws")


def _place_direct_path(response: Response) -> Float32[np.ndarray, " kept"]:
    """Shift the direct path to 1 ms, cut the tail below -60 dB, scale the peak to 1."""
    direct = direct_path(response)
    if direct < PRE_RAMP:
        response = np.pad(response, (PRE_RAMP - direct, 0))
    trimmed = trim_response(response)
    return trimmed / float(np.abs(trimmed).max())


def _rounded(position: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = position.round(3).tolist()
    return x, y, z


# -------------------------------------------------------------------------------- parallelism


def parallel_map(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, progress: Progress | None
) -> list[Any]:
    """``[function(item) for item in items]`` over ``workers`` processes, in order."""
    collected = []
    with contextlib.closing(in_order(function, items, workers)) as results:
        for result in results:
            collected.append(result)
            if progress:
                progress(len(collected), len(items))
    return collected
