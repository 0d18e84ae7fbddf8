"""What a user may ask of one recording. The CLI, the Python API, the bulk job and the endpoint read this."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from enhance_ray import config
from enhance_ray.errors import ConfigError

MODEL_RATE = 44_100
"""Rate in Hz at which the models work, and at which outputs are written unless another one is asked for."""

ALL_TRACKS = "all"
"""Value of `EnhanceOptions.audio_track`: every sound of a file."""

_LEAST_RATE, _MOST_RATE = 4_000, 384_000

Precision = Literal["auto", "fp32", "bf16"]
"""What the models compute in; "auto" is bf16 where the processor computes in it natively."""

Solver = Literal["euler", "midpoint", "rk4", "ab2"]
"""How the flow is integrated; `models.ode` says what each costs."""

Quality = Literal["fast", "balanced", "best"]
QUALITIES: dict[Quality, tuple[Solver, int]] = {
    "fast": ("ab2", 4),
    "balanced": ("ab2", 16),
    "best": ("midpoint", 64),
}
"""Solver and evaluations by one word; ``best`` is the original's setting."""


def _option(
    default: Any,
    text: str,
    *,
    alias: str | None = None,
    enhances: bool = False,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field whose help text every user interface shows.

    Args:
        default: of the field.
        text: what it does.
        alias: another name that command lines take, that of the original.
        enhances: it concerns the enhancer alone.
        least: smallest number that it may be.
        most: largest; where there is one, there is a smallest.
    """
    known = {"help": text, "alias": alias, "enhances": enhances, "least": least, "most": most}
    return field(default=default, metadata=known)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnhanceOptions:
    """The only place where these names, ranges, defaults and explanations are written.

    Everything here changes the sound; what does not (device, batch size, threads) is an argument
    of `enhancer.Enhancer` and `files.enhance_files`.

    Raises:
        ConfigError: a value is out of its range.
    """

    mode: Literal["denoise", "enhance"] = _option(
        "denoise", "what is run: the denoiser alone, or the whole chain"
    )
    nfe: int | None = _option(
        None,
        "evaluations of the velocity field for each segment, 1 to 1024; time grows with it;"
        " without one, what the quality or else the model says",
        enhances=True,
        least=1,
        most=1024,
    )
    solver: Solver | None = _option(  # noqa: RUF009 - the same as every other field
        None, "how the flow is integrated; without one, what the quality says, or midpoint", enhances=True
    )
    quality: Quality | None = _option(  # noqa: RUF009 - the same as every other field
        None, "4, 16 or 64 evaluations with the solver that suits them, in one word", enhances=True
    )
    denoise_strength: float = _option(
        1.0,
        "share of the denoised sound in what guides the enhancer, 0 to 1",
        alias="lambd",
        enhances=True,
        least=0,
        most=1,
    )
    prior_temperature: float | None = _option(
        None,
        "share of noise in where generation starts, 0 to 1: more invents more;"
        " without one, what the model recommends",
        alias="tau",
        enhances=True,
        least=0,
        most=1,
    )
    seed: int = _option(0, "of the noise that generation starts from, 0 or more", enhances=True, least=0)
    conceal: bool = _option(
        True,
        "fill the gaps that lost packets left, silent or repeated, before all else; for models that shape"
        " what comes in, as the packaged one",
        enhances=True,
    )
    declip: bool = _option(
        True,
        "make anew what was cut off because it was too loud, before the model; for models that shape what"
        " comes in, as the packaged one",
        enhances=True,
    )
    strength: float = _option(
        1.0,
        "share of the processed sound in the output, 0 to 1; the rest is the input (wet/dry)",
        least=0,
        most=1,
    )
    guard: bool = _option(
        False,
        "keep the denoised sound where the enhancer says something else, and the original where there is"
        " music or the denoiser takes speech away",
    )
    channels: Literal["keep", "mono"] = _option("keep", "keep every channel, or mix down to one first")
    loudness: float | Literal["keep"] = _option(
        "keep", "integrated loudness of the output in LUFS, -70 to 0 (podcasts: -16); keep leaves it"
    )
    peak_limit: float = _option(
        -1.0,
        "highest true peak in dBTP that a loudness target may lead to; beyond it peaks are limited",
        least=-20,
        most=0,
    )
    format: Literal["keep", "wav", "flac", "mp3", "opus", "m4a"] = _option(
        "keep",
        "container and codec of output files; keep takes the input's, or wav where that has no encoder",
    )
    rate: int | Literal["keep"] = _option(
        MODEL_RATE,
        "sample rate of the output in Hz, 4000 to 384000; keep takes the input's",
    )
    audio_track: int | str | None = _option(
        None,
        "of files with several sounds the number of one, from 1, the language of one (eng), or all;"
        " without one, what players choose",
    )
    segment_seconds: float = _option(
        30.0, "longest piece that the model sees at once, in seconds; memory grows with it"
    )
    overlap_seconds: float = _option(1.0, "length of the cross-fade between two segments, in seconds")
    context_seconds: float = _option(
        0.5, "margin that is computed and thrown away at each inner edge of a segment, in seconds"
    )

    def sampling(self, recommended: int) -> tuple[Solver, int]:
        """The solver and its evaluations, for a model that recommends so many."""
        solver, nfe = QUALITIES[self.quality] if self.quality else ("midpoint", recommended)
        return self.solver or solver, self.nfe or nfe

    def output_rate(self, sample_rate: int) -> int:
        """Of what comes of a recording at ``sample_rate``, both in Hz."""
        return sample_rate if self.rate == "keep" else self.rate

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value, least, most = getattr(self, option.name), option.metadata["least"], option.metadata["most"]
            if value is not None and most is not None and not least <= value <= most:
                raise ConfigError(option.name, f"must be within [{least}, {most}], got {value}")
        if self.rate != "keep" and not _LEAST_RATE <= self.rate <= _MOST_RATE:
            raise ConfigError(
                "rate", f"must be 'keep' or within [{_LEAST_RATE}, {_MOST_RATE}], got {self.rate}"
            )
        track = self.audio_track
        if (isinstance(track, int) and track < 1) or track == "":
            raise ConfigError("audio_track", f"expected a number from 1, or a language, got {track!r}")
        if self.seed < 0:
            raise ConfigError("seed", f"must not be negative, got {self.seed}")
        if self.loudness != "keep" and not -70 <= self.loudness <= 0:
            raise ConfigError("loudness", f"must be 'keep' or within [-70, 0] LUFS, got {self.loudness}")
        if self.overlap_seconds < 0 or self.context_seconds < 0:
            raise ConfigError("overlap_seconds, context_seconds", "must not be negative")
        if (
            self.segment_seconds < 3 * (self.overlap_seconds + 2 * self.context_seconds)
            or self.segment_seconds < 1
        ):
            raise ConfigError(
                "segment_seconds",
                "must be at least 1 and three times overlap_seconds + 2 context_seconds,"
                f" got {self.segment_seconds}",
            )


def refuse_all_tracks(options: EnhanceOptions, where: str) -> None:
    """Where there is one output for each input.

    Raises:
        ConfigError: the options ask for all sounds of a file.
    """
    if options.audio_track == ALL_TRACKS:
        raise ConfigError("audio_track", f"{ALL_TRACKS} is for files on the command line, not for {where}")


def add_arguments(parser: Any, *, enhances: bool, skip: typing.Collection[str] = ("mode",)) -> None:
    """Give ``parser``, or a group of one, an argument for each option.

    Args:
        parser: of argparse.
        enhances: those of the enhancer, too.
        skip: options that are told in another way.
    """
    hints = typing.get_type_hints(EnhanceOptions)
    for option in dataclasses.fields(EnhanceOptions):
        if option.name in skip or (option.metadata["enhances"] and not enhances):
            continue
        alias = option.metadata["alias"]
        text: str = option.metadata["help"]
        flag = f"--{option.name.replace('_', '-')}"
        if hints[option.name] is bool:
            switch = argparse.BooleanOptionalAction
            parser.add_argument(flag, dest=option.name, action=switch, default=None, help=text)
            continue
        if option.default is not None:
            text += f" (default: {option.default})"
        parser.add_argument(
            flag,
            *([f"--{alias}"] if alias else []),
            dest=option.name,
            type=yaml.safe_load,
            metavar=_metavar(hints[option.name]),
            help=text.replace("%", "%%"),
        )


def from_arguments(parsed: argparse.Namespace, base: EnhanceOptions | None = None) -> EnhanceOptions:
    """The options of a command line; what it does not say is as in ``base``, or by default.

    Raises:
        ConfigError: a value is of the wrong type or out of its range.
    """
    names = {option.name for option in dataclasses.fields(EnhanceOptions)}
    given = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    return config.from_tree(EnhanceOptions, {**config.to_tree(base or EnhanceOptions()), **given}, "options")


def _metavar(kind: Any) -> str:
    choices = []
    for part in typing.get_args(kind) or (kind,):
        if part is str:
            choices.append("WORD")
        elif part in (float, int):
            choices.append("X" if part is float else "N")
        elif part is not type(None):
            choices += map(str, typing.get_args(part) or (part,))
    return "|".join(choices)
