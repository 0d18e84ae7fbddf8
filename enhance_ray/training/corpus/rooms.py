"""Shoebox rooms, simulated, and their responses written.

The early part is by the image source method, the late part by ray tracing (pyroomacoustics: Scheibler et
al. 2018, arXiv:1710.04196).
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import NotNegative, Positive, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.corpus.responses import (
    PRE_RAMP,
    direct_to_reverberant,
    reverberation_time,
    trim_response,
)
from enhance_ray.training.degrade import Response, direct_path
from enhance_ray.training.parallel import Progress, parallel_map


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
