"""What a user may ask of one recording. The CLI, the Python API, the bulk job and the endpoint read this."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from enhance_ray.errors import ConfigError
from enhance_ray.settings import messages
from enhance_ray.settings.ranges import Count, Name, NotNegative, Share, Whole
from enhance_ray.settings.schema import option, settings

MODEL_RATE = 44_100
"""Rate in Hz at which the models work, and at which outputs are written unless another one is asked for."""

ALL_TRACKS = "all"
"""Value of `Input.audio_track`: every sound of a file."""

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


@settings
class Chain:
    """Which models run."""

    mode: Literal["denoise", "enhance"] = option(
        default="denoise", text="what is run: the denoiser alone, or the whole chain"
    )


@settings
class Sampling:
    """How the enhancer draws speech from its flow."""

    nfe: Annotated[int, Interval(ge=1, le=1024)] | None = option(
        default=None,
        text="evaluations of the velocity field for each segment; time grows with it;"
        " without one, what the quality or else the model says",
        enhances=True,
    )
    solver: Solver | None = option(
        default=None,
        text="how the flow is integrated; without one, what the quality says, or midpoint",
        enhances=True,
    )
    quality: Quality | None = option(
        default=None,
        text="4, 16 or 64 evaluations with the solver that suits them, in one word",
        enhances=True,
    )
    denoise_strength: Share = option(
        default=1.0,
        text="share of the denoised sound in what guides the enhancer",
        original="lambd",
        enhances=True,
    )
    prior_temperature: Share | None = option(
        default=None,
        text="share of noise in where generation starts: more invents more;"
        " without one, what the model recommends",
        original="tau",
        enhances=True,
    )
    seed: Whole = option(default=0, text="of the noise that generation starts from", enhances=True)

    def sampling(self, recommended: int) -> tuple[Solver, int]:
        """The solver and its evaluations, for a model that recommends so many."""
        solver, nfe = QUALITIES[self.quality] if self.quality else ("midpoint", recommended)
        return self.solver or solver, self.nfe or nfe


@settings
class Treatment:
    """What is done to the sound around the models."""

    conceal: bool = option(
        default=True,
        text="fill the gaps that lost packets left, silent or repeated, before all else; for models that"
        " shape what comes in, as the packaged one",
        enhances=True,
    )
    declip: bool = option(
        default=True,
        text="make anew what was cut off because it was too loud, before the model; for models that shape"
        " what comes in, as the packaged one",
        enhances=True,
    )
    strength: Share = option(
        default=1.0, text="share of the processed sound in the output; the rest is the input (wet/dry)"
    )
    guard: bool = option(
        default=False,
        text="keep the denoised sound where the enhancer says something else, and the original where there is"
        " music or the denoiser takes speech away",
    )


@settings
class Output:
    """What is written."""

    channels: Literal["keep", "mono"] = option(
        default="keep", text="keep every channel, or mix down to one first"
    )
    loudness: Annotated[float, Interval(ge=-70, le=0)] | Literal["keep"] = option(
        default="keep", text="integrated loudness of the output in LUFS (podcasts: -16); keep leaves it"
    )
    peak_limit: Annotated[float, Interval(ge=-20, le=0)] = option(
        default=-1.0,
        text="highest true peak in dBTP that a loudness target may lead to; beyond it peaks are limited",
    )
    format: Literal["keep", "wav", "flac", "mp3", "opus", "m4a"] = option(
        default="keep",
        text="container and codec of output files; keep takes the input's, or wav where that has no encoder",
    )
    rate: Annotated[int, Interval(ge=4_000, le=384_000)] | Literal["keep"] = option(
        default=MODEL_RATE, text="sample rate of the output in Hz; keep takes the input's"
    )

    def output_rate(self, sample_rate: int) -> int:
        """Of what comes of a recording at ``sample_rate``, both in Hz."""
        return sample_rate if self.rate == "keep" else self.rate


@settings
class Input:
    """What is read."""

    audio_track: Count | Name | None = option(
        default=None,
        text="of files with several sounds the number of one, the language of one (eng), or all;"
        " without one, what players choose",
    )


@settings
class Segments:
    """How long recordings are cut.

    Raises:
        ConfigError: segments are too short for their margins.
    """

    segment_seconds: Annotated[float, Ge(1)] = option(
        default=30.0, text="longest piece that the model sees at once, in seconds; memory grows with it"
    )
    overlap_seconds: NotNegative = option(
        default=1.0, text="length of the cross-fade between two segments, in seconds"
    )
    context_seconds: NotNegative = option(
        default=0.5,
        text="margin that is computed and thrown away at each inner edge of a segment, in seconds",
    )

    def __post_init__(self) -> None:
        least = 3 * (self.overlap_seconds + 2 * self.context_seconds)
        if self.segment_seconds < least:
            raise ConfigError(
                "segment_seconds",
                f"must be at least three times overlap_seconds + 2 context_seconds, which is {least:g},"
                f" got {self.segment_seconds:g}",
            )


# Fields are in the order from the last of these to the first: that of help texts, records and jobs.
@settings
class EnhanceOptions(Segments, Input, Output, Treatment, Sampling, Chain):
    """All that changes the sound. Its parts are the only place where names, ranges, defaults and texts stand.

    What does not change it (device, batch size, threads) is an argument of `enhancer.Enhancer` and
    `files.enhance_files`. What needs a part of it alone, such as a model, takes that part.

    Raises:
        ConfigError: a value is out of its range.
    """

    def of_model(self) -> EnhanceOptions:
        """Of these, those that a model sees: work that agrees in them may run as one batch."""
        if self.mode == "denoise":
            return EnhanceOptions(mode=self.mode)
        sampling = {field.name: getattr(self, field.name) for field in dataclasses.fields(Sampling)}
        return EnhanceOptions(mode=self.mode, guard=self.guard, **sampling)


def refuse_all_tracks(options: Input, where: str) -> None:
    """Where there is one output for each input.

    Raises:
        ConfigError: the options ask for all sounds of a file.
    """
    if options.audio_track == ALL_TRACKS:
        raise ConfigError("audio_track", f"{ALL_TRACKS} is for files on the command line, not for {where}")


ALIASES: dict[str, str] = {
    alias: field.name for field in dataclasses.fields(EnhanceOptions) if (alias := field.metadata["original"])
}
"""Options by the other names that users may give them."""


def explanation(field: dataclasses.Field[Any]) -> str:
    """What an option does, its range, and its default if it has one."""
    known = [messages.span(messages.hints(EnhanceOptions)[field.name])]
    if field.default is not None and not isinstance(field.default, bool):
        known.append(f"default: {field.default}")
    facts = "; ".join(filter(None, known))
    return f"{field.metadata['description']} ({facts})" if facts else str(field.metadata["description"])
