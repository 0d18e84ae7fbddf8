"""Clean recordings and what became of them: two folders of files, or examples made from a corpus.

    noisy           speech with noise
    narrow          speech of which nothing above 4 kHz is left
    narrow_noisy    both, as an old telephone recording has it

A corpus gives these conditions of the same recordings, from its held-out part; example i depends on (seed, i)
alone, so that models are compared on the same sounds and work can be shared out. The reference is the speech
in the mixture, at its level there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from enhance_ray import audio, metrics
from enhance_ray.audio import lists
from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.evaluation import facts
from enhance_ray.evaluation.settings import Condition, EvaluateConfig
from enhance_ray.metrics import METRICS
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.degrade import limit_bandwidth
from enhance_ray.training.examples import Banks, ExampleConfig, make_example

Waveform = Float32[np.ndarray, " time"]

NARROW_RATE = 8000
"""Hz; a recording at this rate holds nothing above 4 kHz."""
LENGTH_TOLERANCE = 0.1
"""Seconds by which the files of a pair may differ in length: codecs add and drop a little."""
ALL = "all"
"""The condition of files whose table names none."""
RESERVED = ("condition", "index", "name", "system", "seconds", "rtf", *METRICS)
"""What no column of a table may be called: the keys of rows."""
_NAMED = 5


class SoundPair(NamedTuple):
    """What goes in, and what should come out."""

    degraded: Waveform
    reference: Waveform


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A pair that is yet to be read or made; small, to be sent to where that is done."""

    index: int
    """Number of the example, or place among the files."""
    name: str
    """Path without extension, or the example's number."""
    condition: str
    noisy: str | None = None
    """File; None where the pair is made from the corpus."""
    clean: str | None = None
    enhanced: Mapping[str, str] = field(default_factory=dict)
    """Files by name of the system that made them."""
    known: Mapping[str, float | str] = field(default_factory=dict)
    """What the table says."""


class Pair(NamedTuple):
    """An item that was read."""

    example: SoundPair
    """At `MODEL_RATE`."""
    enhanced: Mapping[str, Waveform]
    """(time,) each, by name of the system."""
    facts: Mapping[str, float | str]
    """What the table says, and what is measured."""


def plan(config: EvaluateConfig) -> list[Item]:
    """All pairs of an evaluation. Folders are listed; no file but the table is read.

    Raises:
        ConfigError: a folder cannot be listed or holds nothing; a file lacks its counterpart, in a system's
            folder, too, or its row; the table makes no sense.
    """
    if config.clean is None or config.noisy is None:
        return [
            Item(index=index, name=f"example {index}", condition=condition)
            for index in range(config.count)
            for condition in config.conditions
        ]
    clean, noisy = _listed(config.clean), _listed(config.noisy)
    _refuse_lonely(config.noisy, clean, noisy)
    _refuse_lonely(config.clean, noisy, clean)
    made = {system.name: _listed(system.folder) for system in config.systems if system.folder is not None}
    for system in config.systems:
        if system.folder is not None:
            _refuse_lonely(system.folder, clean, made[system.name])
    about = _read_table(config.table, clean) if config.table is not None else {}
    return [
        Item(
            index=index,
            name=name,
            condition=about[name].condition if name in about else ALL,
            noisy=noisy[name],
            clean=clean[name],
            enhanced={system: files[name] for system, files in made.items()},
            known=about[name].known if name in about else {},
        )
        for index, name in enumerate(clean)
    ]


def read(item: Item, config: EvaluateConfig, banks: Banks | None) -> Pair:
    """Read or make a pair, and measure what its table does not say; ``banks`` are those of the corpus.

    Raises:
        AudioError: a file cannot be used.
        ConfigError: the lengths of two files differ by more than `LENGTH_TOLERANCE`.
    """
    enhanced = {}
    if item.clean is None or item.noisy is None:
        assert banks is not None
        example = make(banks, config, item.condition, item.index)
    else:
        clean, noisy, *made = _read_alike([item.clean, item.noisy, *item.enhanced.values()])
        example = SoundPair(noisy, clean)
        enhanced = dict(zip(item.enhanced, made, strict=True))
    measured = facts.measure(example.degraded, example.reference, MODEL_RATE, known=item.known)
    order = [*facts.FACTS, *(name for name in item.known if name not in facts.FACTS)]
    both = {**measured, **item.known}
    return Pair(example, enhanced, {name: both[name] for name in order})


def make(banks: Banks, config: EvaluateConfig, condition: Condition | str, index: int) -> SoundPair:
    """Example ``index`` of a condition of the corpus."""
    recipe = ExampleConfig(
        crop_seconds=config.seconds,
        silence_probability=0,
        distort_probability=0,
        snr_db=config.snr_db,
        join_clips=True,
    )
    drawn = make_example(banks, recipe, np.random.default_rng([config.seed, 3, index]))
    degraded = drawn.target if condition == "narrow" else drawn.noisy
    if condition != "noisy":
        degraded = limit_bandwidth(degraded, MODEL_RATE, NARROW_RATE)
    return SoundPair(degraded, drawn.target)


def _listed(folder: str) -> dict[str, str]:
    """Path below ``folder`` without extension -> file, sorted."""
    try:
        files = audio.find_audio(folder)
    except AudioReadError as error:
        raise ConfigError(folder, error.reason) from error
    if not files:
        raise ConfigError(folder, "holds no audio files")
    found: dict[str, str] = {}
    for file in files:
        remote = audio.is_remote(folder)
        below = file[len(folder.rstrip("/")) + 1 :] if remote else os.path.relpath(file, folder)
        name = _stem(Path(below).as_posix())
        if name in found:
            raise ConfigError(folder, f"holds '{name}' twice: {found[name]} and {file}; remove one")
        found[name] = file
    return found


def _refuse_lonely(folder: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise if ``folder``, which holds ``found``, lacks counterparts of ``wanted``."""
    lacking = [file for name, file in wanted.items() if name not in found]
    if lacking:
        raise ConfigError(
            folder,
            f"lacks the counterparts of {_some(lacking)}; add them, or take those away "
            "(files are matched by their paths below the folders, without extension)",
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


class _About(NamedTuple):
    condition: str
    known: Mapping[str, float | str]


def _read_table(path: str, names: Mapping[str, str]) -> dict[str, _About]:
    """What the rows of a CSV file say about the pairs ``names``; rows about others are passed over.

    A column is of numbers if all that is in it is; an empty cell is then measured if it can be, or else nan.
    """
    rows = list(lists.read_rows(path, ("file", "condition")))
    columns = list(rows[0]) if rows else []
    if "file" not in columns:
        raise ConfigError(
            path, f"needs a column 'file', of paths below the folders; it has {', '.join(columns)}"
        )
    columns = [column for column in columns if column and column not in ("file", "condition")]
    taken = [column for column in columns if column in RESERVED]
    if taken:
        raise ConfigError(path, f"the column '{taken[0]}' would hide what is measured; rename it")
    chosen: dict[str, dict[str, str]] = {}
    for row in rows:
        file = PurePosixPath((row["file"] or "").strip().replace("\\", "/")).as_posix()
        name = file if file in names else _stem(file)
        if name in chosen and name in names:
            raise ConfigError(path, f"has two rows about '{name}'")
        chosen[name] = {key: (value or "").strip() for key, value in row.items() if key is not None}
    lacking = [name for name in names if name not in chosen]
    if lacking:
        raise ConfigError(path, f"says nothing about {_some(lacking)}")
    numeric = {column for column in columns if all(_is_number(chosen[name][column]) for name in names)}
    return {
        name: _About(
            chosen[name].get("condition", "") or ALL,
            {
                column: float(chosen[name][column] or "nan") if column in numeric else chosen[name][column]
                for column in columns
                if chosen[name][column] or column not in facts.FACTS  # then it is measured
            },
        )
        for name in names
    }


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _stem(path: str) -> str:
    """Without the extension, if it is one of audio."""
    return path[: -len(PurePosixPath(path).suffix)] if audio.is_known(path) else path


def _read_alike(paths: Sequence[str]) -> list[Waveform]:
    """(time,) each, all as long as the shortest."""
    waveforms = [_read_file(path) for path in paths]
    seconds = [waveform.size / MODEL_RATE for waveform in waveforms]
    for path, length in zip(paths, seconds, strict=True):
        if abs(length - seconds[0]) >= LENGTH_TOLERANCE:
            raise ConfigError(
                path, f"is {length:.2f} s long, {paths[0]} {seconds[0]:.2f} s: they are not of the same sound"
            )
    shortest = min(waveform.size for waveform in waveforms)
    return [waveform[:shortest] for waveform in waveforms]


def _read_file(path: str) -> Waveform:
    """(time,) at `MODEL_RATE`, channels averaged."""
    with audio.decode(path) as blocks:
        waveform = np.concatenate([block.mean(axis=0) for block in blocks])
        return np.asarray(metrics.resample(waveform, blocks.info.sample_rate, MODEL_RATE), np.float32)
