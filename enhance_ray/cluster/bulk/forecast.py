"""What a job will take and cost, from its manifest and the headers of a sample, before anything is spent.

hours of a kind of file = its bytes * (seconds / bytes) of the sample
actor-hours             = hours * channels / speed of an actor
machine-hours           = hours * channels / speed of an actor there / actors on it
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from enhance_ray import audio
from enhance_ray.audio import AudioInfo, Patience
from enhance_ray.cluster.bulk import shards
from enhance_ray.cluster.bulk.names import path_of
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState
from enhance_ray.cluster.bulk.worker import Load, load_enhancer
from enhance_ray.errors import AudioError
from enhance_ray.settings.options import MODEL_RATE

_SAMPLES = 200
_LEAST_SAMPLES = 12  # of a kind of file
_MEMBERS = 3  # of a shard
_PATIENCE = 30.0
_ENDING = r"(?s)^.*?((?:[.][^./]+)?)$"
_RESAMPLES = 400
_MEASURED_SECONDS = 20
_SAMPLE_BYTES = {"s16": 2, "s24": 3, "s32": 4, "f32": 4}
_FLAC_SHARE = 0.45
"""Size of restored speech in flac against plain samples."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The job on machines of one kind."""

    machine: str
    machine_hours: float
    cost: float


@dataclass(kw_only=True, slots=True)
class Forecast:
    """A job before it is done."""

    files: int
    bytes: int
    sampled: int
    """Files whose headers were read."""
    unreadable: float
    """Share of them that cannot be used."""
    hours: float
    """Of audio."""
    hours_interval: tuple[float, float]
    """95 %, by the choice of the sample alone."""
    hours_by_kind: dict[str, float]
    """By codec and rate."""
    speed: float
    """Seconds of one channel that an actor does in a second."""
    speed_is_measured: bool
    """On this machine, with this model; otherwise it was given."""
    actor_hours: float
    wall_hours: float
    """With the most actors that the job may have, if all are as fast."""
    output_bytes: float
    cost: float | None
    """In the currency of the prices; None where there are none."""
    choices: list[Choice]
    """The cheapest first; one for each of the settings' machines."""

    def actors_for(self, hours: float) -> int:
        """How many actors finish within ``hours``, if the cluster has room for them."""
        return max(1, math.ceil(self.actor_hours / hours))

    def text(self, finish_in: float | None = None) -> str:
        """For people, who may have said in how many hours the job is to end."""
        low, high = self.hours_interval
        lines = [
            f"{self.files:,} files, {self.bytes / 1e9:,.2f} GB; headers of {self.sampled:,} were read,"
            f" {self.unreadable:.1%} of them unusable",
            f"{self.hours:,.2f} h of audio ({low:,.2f} to {high:,.2f})",
            *(f"  {kind:<28}{hours:>14,.2f} h" for kind, hours in self.hours_by_kind.items()),
            f"{self.actor_hours:,.2f} actor-hours at {self.speed:,.0f} times real time"
            + (" (measured on this machine)" if self.speed_is_measured else " (as given)"),
            f"{self.wall_hours:,.2f} h until the end, {self.output_bytes / 1e9:,.2f} GB of output",
        ]
        if self.cost is not None:
            lines.append(
                f"cost {self.cost:,.2f}, {self.cost / self.hours if self.hours else 0:.4f} per hour of audio"
            )
        if finish_in is not None:
            lines.append(f"to end in {finish_in:g} h: {self.actors_for(finish_in):,} actors")
        if self.choices:
            lines.append("on machines of one kind, the cheapest first:")
        for each in self.choices:
            line = f"  {each.machine:<28}{each.machine_hours:>14,.2f} machine-hours, cost {each.cost:,.2f}"
            if finish_in is not None:
                line += f"; {math.ceil(each.machine_hours / finish_in):,} of them end in {finish_in:g} h"
            lines.append(line)
        return "\n".join(lines)


@dataclass(slots=True)
class _Kind:
    """All files of one extension."""

    files: int = 0
    bytes: int = 0
    sample: list[tuple[str, int]] = field(default_factory=list)
    """(uri, bytes), each file as likely as any other."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the header of a file says."""

    bytes: int
    info: AudioInfo | None
    """None if it is unusable."""

    @property
    def seconds(self) -> float:
        return (self.info.seconds or 0.0) if self.info is not None else 0.0


def forecast(
    settings: BulkConfig, state: JobState, *, speed: float | None = None, load: Load = load_enhancer
) -> Forecast:
    """Say what a planned job will take.

    Args:
        settings: of the job.
        state: with its manifest.
        speed: seconds of audio that an actor does in a second; by default it is measured here, which is right
            for actors like this machine alone.
        load: how actors get their model.
    """
    kinds = _kinds(state)
    seen = {name: _look(kind.sample, settings.listing_threads) for name, kind in kinds.items()}
    measured = speed is None
    if speed is None:
        speed = _measure(settings, load)
    hours = channel_hours = output_bytes = 0.0
    by_kind: defaultdict[str, float] = defaultdict(float)
    for name, kind in kinds.items():
        factor = _factor(kind, seen[name])
        for each in seen[name]:
            if each.info is None:
                continue
            share = factor * each.seconds / 3600
            channels = 1 if settings.options.channels == "mono" else each.info.channels
            hours += share
            by_kind[f"{each.info.codec} {each.info.sample_rate / 1000:g} kHz"] += share
            channel_hours += share * channels
            output_bytes += factor * _output_bytes(each.info, settings)
    looks = list(itertools.chain.from_iterable(seen.values()))
    price = settings.price_per_actor_hour
    actor_hours = channel_hours / speed
    choices = [
        Choice(each.name, machine_hours, machine_hours * each.price_per_hour)
        for each in settings.machines
        for machine_hours in [channel_hours / (each.speed * each.actors)]
    ]
    return Forecast(
        files=sum(kind.files for kind in kinds.values()),
        bytes=sum(kind.bytes for kind in kinds.values()),
        sampled=len(looks),
        unreadable=sum(each.info is None for each in looks) / len(looks) if looks else 0.0,
        hours=hours,
        hours_interval=_interval(kinds, seen),
        hours_by_kind=dict(sorted(by_kind.items(), key=lambda item: -item[1])),
        speed=speed,
        speed_is_measured=measured,
        actor_hours=actor_hours,
        wall_hours=actor_hours / settings.most_actors,
        output_bytes=output_bytes,
        cost=None if price is None else price * actor_hours,
        choices=sorted(choices, key=lambda choice: choice.cost),
    )


def _kinds(state: JobState) -> dict[str, _Kind]:
    """Files by extension, with a sample of each kind; the manifest may be long."""
    random = np.random.default_rng(0)
    kinds: defaultdict[str, _Kind] = defaultdict(_Kind)
    # The smallest of random numbers are a sample in which every file is as likely as any other.
    drawn: defaultdict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for table in state.inputs(state.parts(), ["uri"]):
        endings = pc.utf8_lower(pc.replace_substring_regex(table["uri"], _ENDING, r"\1"))
        encoded = endings.combine_chunks().dictionary_encode()
        codes, sizes = encoded.indices.to_numpy(), table["bytes"].fill_null(0).to_numpy()
        numbers = random.random(len(table))
        for code, ending in enumerate(encoded.dictionary.to_pylist()):
            rows = np.flatnonzero(codes == code)
            kinds[ending].files += rows.size
            kinds[ending].bytes += int(sizes[rows].sum())
            rows = rows[np.argsort(numbers[rows])[:_SAMPLES]]
            uris = table["uri"].take(rows).to_pylist()
            found = zip(numbers[rows].tolist(), uris, sizes[rows].tolist(), strict=True)
            drawn[ending] = sorted([*drawn[ending], *found])[:_SAMPLES]
    total = sum(kind.files for kind in kinds.values())
    for ending, kind in kinds.items():
        most = max(_LEAST_SAMPLES, round(_SAMPLES * kind.files / total))
        kind.sample = [(uri, size) for _, uri, size in drawn[ending][:most]]
    return dict(kinds)


def _look(sample: Sequence[tuple[str, int]], threads: int) -> list[_Seen]:
    with ThreadPoolExecutor(threads) as pool:
        return list(itertools.chain.from_iterable(pool.map(lambda each: list(_headers(*each)), sample)))


def _headers(uri: str, size: int) -> Iterator[_Seen]:
    try:
        if not shards.is_shard(uri):
            yield _Seen(size, _timed(audio.decode(path_of(uri), partial=True, patience=Patience(_PATIENCE))))
            return
        folder = Path(tempfile.mkdtemp(prefix="enhance-ray-forecast-"))
        try:
            members = (m for m in shards.unpack(path_of(uri), folder, Patience(_PATIENCE)) if m.is_audio)
            for member in itertools.islice(members, _MEMBERS):
                yield _Seen(member.path.stat().st_size, _timed(audio.decode(str(member.path), partial=True)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except AudioError:
        yield _Seen(size, None)


def _timed(decoder: audio.Decoder) -> AudioInfo | None:
    with decoder:
        return decoder.info if decoder.info.seconds else None


def _factor(kind: _Kind, seen: Sequence[_Seen]) -> float:
    """Files of the kind for each that was looked at, by size where sizes are known."""
    sampled = sum(each.bytes for each in seen)
    if kind.bytes and sampled:
        return kind.bytes / sampled
    return kind.files / len(seen) if seen else 0.0


def _interval(kinds: dict[str, _Kind], seen: dict[str, list[_Seen]]) -> tuple[float, float]:
    """Percentile bootstrap of the hours."""
    random = np.random.default_rng(0)
    totals = np.zeros(_RESAMPLES)
    for name, kind in kinds.items():
        seconds = np.array([each.seconds for each in seen[name]])
        sizes = np.array([each.bytes for each in seen[name]], np.float64)
        drawn = random.integers(len(seconds), size=(_RESAMPLES, len(seconds)))
        if kind.bytes and sizes.sum():
            totals += kind.bytes * seconds[drawn].sum(1) / np.maximum(sizes[drawn].sum(1), 1)
        else:
            totals += kind.files * seconds[drawn].mean(1)
    low, high = np.percentile(totals / 3600, [2.5, 97.5])
    return float(low), float(high)


def _output_bytes(info: AudioInfo, settings: BulkConfig) -> float:
    target = audio.output_format(info, settings.options.format)
    seconds = info.seconds or 0.0
    channels = 1 if settings.options.channels == "mono" else info.channels
    if target.bit_rate is not None:
        return seconds * target.bit_rate / 8 * channels / info.channels
    plain = seconds * MODEL_RATE * channels * _SAMPLE_BYTES[target.sample_format]
    return plain * (_FLAC_SHARE if target.codec in ("flac", "alac") else 1.0)


def _measure(settings: BulkConfig, load: Load) -> float:
    """Times real time of the model on this machine, for one channel."""
    enhancer = load(settings)
    noise = np.random.default_rng(0).normal(0, 0.05, _MEASURED_SECONDS * MODEL_RATE).astype(np.float32)
    run = enhancer.denoise if settings.options.mode == "denoise" else enhancer.enhance
    run(noise[: 2 * MODEL_RATE], MODEL_RATE, settings.options)  # warms up
    started = time.perf_counter()
    run(noise, MODEL_RATE, settings.options)
    return _MEASURED_SECONDS / (time.perf_counter() - started)
