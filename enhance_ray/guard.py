"""Protection against harm: for every moment, the enhanced sound, the denoised or the original.

A generative enhancer may say other words than the speaker did, and a denoiser takes music for noise. What
came in, what the denoiser and what the enhancer made of it lie side by side in a segment, so that each step
of 190 ms can be asked:

    question                                                                    answer no
    Is speech heard in the original, or no music?                               original  (music)
    Where speech is heard in the original, is it in the denoised, too?          original  (speech_lost)
    Where the denoised is silent, is the enhanced?                              denoised  (invented)
    Where the denoised speaks, does the enhanced?                               denoised  (speech_lost)
    Do their mel spectrograms have one pattern, within 0.8 s around?            denoised  (other_words)
    Where either is voiced, is the other at the same pitch?                     denoised  (other_pitch)

All of them are asked below 4 kHz, where even a telephone has its speech: what the enhancer adds above is its
purpose. Tilt and level may differ throughout a segment, which is colour, not words. The steps around one that
is answered no are treated alike, and the versions are cross-faded.

The pitch check needs no pitch tracker: the lag at which one of two autocorrelations has its peak must be a
good lag for the other, which octaves, where trackers err, are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from enhance_ray.dsp.mel import slaney_filter_bank
from enhance_ray.models import activity
from enhance_ray.settings.options import MODEL_RATE

STEP = activity.STEP
"""Samples of one decision."""

Version = Literal["original", "denoised", "enhanced"]
Reason = Literal["music", "speech_lost", "invented", "other_words", "other_pitch"]
VERSIONS: tuple[Version, ...] = ("original", "denoised", "enhanced")
REASONS: tuple[Reason, ...] = ("music", "speech_lost", "invented", "other_words", "other_pitch")

SAME_WORDS = 0.8
"""Least correlation of the patterns. Good output of the packaged model stays above 0.9 in 999 of 1,000
moments; another sentence of the same speaker below 0.77 in 99 of 100."""
SAME_PITCH = 0.55
"""Least share of the periodicity of one that the other has at its lag. Good output: above 0.8; another
sentence: median 0.06."""
INVENTED_DB = 12.0
"""How much louder than the denoised the enhanced may become."""
LOST_DB = 15.0
"""How much quieter than the denoised the enhanced may become, where the denoised is loud."""
REMOVED_DB = 30.0
"""How much of what is taken for speech the denoiser may take away."""
SPEECH_LOGIT = 2.0
"""From which on speech in the original is taken for certain."""

_N_FFT, _HOP = 2048, 840
_FRAMES = STEP // _HOP
_BANDS_TO_NYQUIST = 96
_TOP_HZ = 4000
_LOW_HZ = 100  # below, hum has its power
_PITCH_HZ = (65, 400)
_HARMONICS_HZ = 1500  # enough of them for a period, little of the noise
_PATTERN_FRAMES = 41  # 0.8 s: shorter, and a single vowel correlates with any other
_PITCH_FRAMES = 21
_LEVEL_FRAMES = 11
_LOST_FRAMES = 105  # 2 s
_LOUD_DB, _AUDIBLE_DB, _FLOOR_DB = 20.0, 40.0, 50.0  # below speech's usual level
_PATTERN_DB = 45.0  # range of the patterns, below which all is silence
_VARIANCE = 4.0  # dB²: patterns flatter than this correlate by chance
_VOICED = 0.5
_LEAST_VOICED = 0.2  # share of a window
_QUIET_CHANNEL = 0.03  # of the loudest one's peak: nobody hears what is wrong with it
_REST_STEPS = 21  # 4 s
_TINY = 1e-10


class Choice(NamedTuple):
    """What was decided for the steps of a segment."""

    versions: Int[Tensor, " step"]
    """Index into `VERSIONS`."""
    reasons: Int[Tensor, " step"]
    """Index into `REASONS`; -1 where the best version was kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of a recording where another version was kept than the one that was asked for."""

    start: float
    """In s."""
    stop: float
    kept: Version
    reason: Reason


def choose(
    original: Float[Tensor, "channel time"],
    denoised: Float[Tensor, "channel time"],
    enhanced: Float[Tensor, "channel time"] | None,
    peaks: Float[Tensor, "channel 1"],
) -> Choice:
    """Decide for each of the ``ceil(time / STEP)`` steps of a segment, for all channels alike.

    Args:
        original: what the models were given, at 44.1 kHz.
        denoised: the denoiser's answer, at the same level.
        enhanced: the enhancer's, at any level; None where only the denoiser was asked for.
        peaks: of the channels before they were normalised; quiet ones are not asked.
    """
    best = 1 if enhanced is None else 2
    steps = -(-original.shape[-1] // STEP)
    versions, reasons = torch.full((steps,), best), torch.full((steps,), -1)
    asked = (peaks[:, 0] >= _QUIET_CHANNEL * peaks.max()).nonzero()[:, 0].tolist()
    heard = activity.load()(original[asked])
    music = _music(heard)
    for row, channel in enumerate(asked):
        first = _Sound(original[channel])
        second = _Sound(denoised[channel])
        lost = _steps(_most_kept(second, first) < -REMOVED_DB, steps)
        _refuse(versions, reasons, lost & (heard[row, 0] > SPEECH_LOGIT), 0, "speech_lost")
        if enhanced is not None:
            for reason, failed in _differences(second, _Sound(enhanced[channel])):
                _refuse(versions, reasons, _steps(failed, steps), 1, reason)
    _refuse(versions, reasons, music, 0, "music")
    return _spread(Choice(versions, reasons))


def mix(
    original: Float[Tensor, "channel time"],
    denoised: Float[Tensor, "channel time"],
    enhanced: Float[Tensor, "channel time"] | None,
    choice: Choice,
) -> Float[Tensor, "channel time"]:
    """The versions that ``choice`` says, cross-faded from the middle of a step to that of the next."""
    best = denoised if enhanced is None else enhanced
    if (choice.reasons < 0).all():
        return best
    length = original.shape[-1]
    shares = F.one_hot(choice.versions, 3).T.float()[None]
    faded = F.interpolate(shares, scale_factor=STEP, mode="linear", align_corners=False)[0, :, :length]
    versions = torch.stack([original, denoised, best])
    return (faded[:, None] * versions).sum(0)


def spans(choice: Choice, first: int, start: int, stop: int) -> Iterator[Span]:
    """What ``choice``, of a segment that begins at ``first``, says of a recording's samples [start, stop)."""
    begun: int | None = None
    steps = len(choice.versions)
    for step in range(steps + 1):
        is_new = 0 < step < steps and bool(
            choice.versions[step] != choice.versions[step - 1]
            or choice.reasons[step] != choice.reasons[step - 1]
        )
        if begun is not None and (is_new or step == steps):
            low, high = max(start, first + begun * STEP), min(stop, first + step * STEP)
            reason = int(choice.reasons[begun])
            if low < high and reason >= 0:
                kept = VERSIONS[int(choice.versions[begun])]
                yield Span(
                    start=round(low / MODEL_RATE, 3),
                    stop=round(high / MODEL_RATE, 3),
                    kept=kept,
                    reason=REASONS[reason],
                )
            begun = None
        if begun is None:
            begun = step


def joined(spans: Iterable[Span]) -> list[Span]:
    """Spans of a recording in their order, of which neighbours that say the same are one."""
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        if last and (last.stop, last.kept, last.reason) == (span.start, span.kept, span.reason):
            merged[-1] = dataclasses.replace(last, stop=span.stop)
        else:
            merged.append(span)
    return merged


class _Sound:
    """What is measured of one version, (frame,) each."""

    def __init__(self, waveform: Float[Tensor, " time"]) -> None:
        self.magnitude: Tensor = torch.stft(
            waveform,
            _N_FFT,
            _HOP,
            window=torch.hann_window(_N_FFT),
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).abs()
        frequency = torch.fft.rfftfreq(_N_FFT, 1 / MODEL_RATE)
        band = (frequency >= _LOW_HZ) & (frequency < _TOP_HZ)
        self.level = _decibels(self.magnitude[band].square().sum(0))
        self.usual = self.level.quantile(0.95)
        """Level of speech, if there is some."""

    def bands(self) -> Float[Tensor, "band frame"]:
        """In dB."""
        return _decibels(_filters().T @ self.magnitude.square())

    def autocorrelation(self) -> Float[Tensor, "lag frame"]:
        """1 for a perfect period, at the lags of voices."""
        frequency = torch.fft.rfftfreq(_N_FFT, 1 / MODEL_RATE)
        bins = int((frequency < _HARMONICS_HZ).sum())
        magnitude = self.magnitude[:bins] * (frequency[:bins, None] >= _PITCH_HZ[0])
        low, high = (round(MODEL_RATE / hz) for hz in reversed(_PITCH_HZ))
        # A cosine transform of the few bins that count costs a quarter of an inverse FFT of all.
        values: Tensor = _cosines(bins, low, high) @ magnitude
        relative: Tensor = values / magnitude.sum(0).clamp_min(_TINY)
        return relative


def _differences(denoised: _Sound, enhanced: _Sound) -> Iterator[tuple[Reason, Tensor]]:
    """By reason, the frames in which ``enhanced`` is not what was said; the weightiest reason last."""
    loud = denoised.level > denoised.usual - _LOUD_DB
    offset = (enhanced.level - denoised.level)[loud].median()
    level = enhanced.level - offset
    audible = torch.maximum(denoised.level, level) > denoised.usual - _LOUD_DB
    yield "other_pitch", audible & (_same_pitch(denoised, enhanced) < SAME_PITCH)
    yield "other_words", audible & (_same_pattern(denoised, enhanced, offset, loud) < SAME_WORDS)
    change = _smooth(level.clamp_min(denoised.usual - _FLOOR_DB), _LEVEL_FRAMES) - _smooth(
        denoised.level.clamp_min(denoised.usual - _FLOOR_DB), _LEVEL_FRAMES
    )
    yield "speech_lost", (change < -LOST_DB) & loud
    yield "invented", (change > INVENTED_DB) & (level > denoised.usual - _AUDIBLE_DB)


def _music(heard: Float[Tensor, "channel 2 step"]) -> Tensor:
    """(step,): where music alone is heard in all channels, up to the very steps at which it begins and ends.

    What is judged over two seconds is found a second late; from there it grows as far as each step says so.
    Rests and quiet passages between two finds, in which nobody speaks, belong to it.
    """
    smoothed = activity.smooth(heard)
    may_be, found = (activity.is_music_alone(logits).all(dim=0) for logits in (heard, smoothed))
    for _ in range(activity.WINDOW // 2):
        near = F.max_pool1d(found[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
        found = found | (near & may_be)
    found_before = (
        F.max_pool1d(F.pad(found[None].float(), (_REST_STEPS, 0)), _REST_STEPS + 1, stride=1)[0] > 0
    )
    found_after = F.max_pool1d(F.pad(found[None].float(), (0, _REST_STEPS)), _REST_STEPS + 1, stride=1)[0] > 0
    nobody_speaks = (smoothed[:, 0] < activity.SPEECH_THRESHOLD).all(dim=0)
    return found | (found_before & found_after & nobody_speaks)


def _most_kept(denoised: _Sound, original: _Sound) -> Float[Tensor, " frame"]:
    """The least that the denoiser takes away within `_LOST_FRAMES`, in dB: pauses are shorter than that."""
    change = _smooth(denoised.level, _LEVEL_FRAMES) - _smooth(original.level, _LEVEL_FRAMES)
    return F.max_pool1d(change[None], _LOST_FRAMES, stride=1, padding=_LOST_FRAMES // 2)[0]


def _same_pattern(
    denoised: _Sound, enhanced: _Sound, offset: Tensor, loud: Tensor
) -> Float[Tensor, " frame"]:
    """Correlation of two spectrograms over bands and `_PATTERN_FRAMES`, without what differs throughout."""
    first, second = denoised.bands(), enhanced.bands() - offset
    floor = first.flatten()[::7].quantile(0.98) - _PATTERN_DB  # every seventh: exact enough, and cheap
    first, second = first.clamp_min(floor), second.clamp_min(floor)
    colour = (second - first)[:, loud].mean(dim=1, keepdim=True)
    second = (second - colour).clamp_min(floor)
    mean_first, mean_second, square_first, square_second, product = (
        _smooth(values.mean(0), _PATTERN_FRAMES)
        for values in (first, second, first.square(), second.square(), first * second)
    )
    spread = (square_first - mean_first.square() + _VARIANCE) * (
        square_second - mean_second.square() + _VARIANCE
    )
    return (product - mean_first * mean_second + _VARIANCE) / spread.sqrt()


def _same_pitch(denoised: _Sound, enhanced: _Sound) -> Float[Tensor, " frame"]:
    """How good each one's period is for the other, in [0, 1]; 1 where little is voiced in `_PITCH_FRAMES`."""
    first, second = denoised.autocorrelation(), enhanced.autocorrelation()
    agreement = torch.ones(first.shape[-1])
    voiced = torch.zeros(first.shape[-1])
    for own, other in ((first, second), (second, first)):
        strength, lag = own.max(dim=0)
        is_voiced = strength > _VOICED
        share = other.gather(0, lag[None])[0] / strength.clamp_min(_TINY)
        agreement = torch.where(is_voiced, torch.minimum(agreement, share.clamp(0, 1)), agreement)
        voiced = torch.maximum(voiced, is_voiced.float())
    share_voiced = _smooth(voiced, _PITCH_FRAMES)
    agreement = _smooth(agreement * voiced, _PITCH_FRAMES) / share_voiced.clamp_min(_TINY)
    return torch.where(share_voiced > _LEAST_VOICED, agreement, 1.0)


def _refuse(versions: Tensor, reasons: Tensor, failed: Tensor, version: int, reason: Reason) -> None:
    """Where ``failed``, keep ``version`` if that is further back than what was to be kept."""
    changed = failed & (versions >= version)
    versions[changed] = version
    reasons[changed] = REASONS.index(reason)


def _spread(choice: Choice) -> Choice:
    """With the steps beside each, and one that lies alone between two of them.

    The cross-fade is to be over where something is wrong, and nobody changes the version for half a syllable.
    """
    # The smallest version counts, with its reason.
    code = choice.versions * len(REASONS) + choice.reasons.clamp_min(0)
    code = torch.where(choice.reasons < 0, 3 * len(REASONS), code)
    # Two steps wider, then one narrower: what is alone between two does not come back.
    wide = -F.max_pool1d(-code[None, None].float(), 5, stride=1, padding=2)
    least = F.max_pool1d(wide, 3, stride=1, padding=1)[0, 0].long()
    is_best = least == 3 * len(REASONS)
    return Choice(
        torch.where(is_best, choice.versions, least // len(REASONS)),
        torch.where(is_best, -1, least % len(REASONS)),
    )


def _steps(failed: Tensor, steps: int) -> Tensor:
    """Steps in which at least a third of the frames ``failed``."""
    frames = F.pad(failed.float()[: steps * _FRAMES], (0, max(0, steps * _FRAMES - len(failed))))
    return frames.view(steps, _FRAMES).mean(dim=1) > 1 / 3


def _smooth(values: Float[Tensor, " frame"], width: int) -> Float[Tensor, " frame"]:
    """Moving mean, cut short at the ends."""
    return F.avg_pool1d(values[None, None], width, stride=1, padding=width // 2, count_include_pad=False)[
        0, 0
    ]


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power + _TINY)


@functools.cache
def _filters() -> Float[Tensor, "bin band"]:
    """Mel bands up to 4 kHz, each with a sum of 1."""
    filters = slaney_filter_bank(MODEL_RATE, _N_FFT, _BANDS_TO_NYQUIST)
    frequency = torch.fft.rfftfreq(_N_FFT, 1 / MODEL_RATE)
    total = filters.sum(0)
    centre = frequency @ filters / total
    return (filters / total)[:, centre < _TOP_HZ]


@functools.cache
def _cosines(bins: int, low: int, high: int) -> Float[Tensor, "lag bin"]:
    """Of each bin at lags [low, high) in samples."""
    lags = torch.arange(low, high, 2)[:, None]
    return torch.cos(2 * torch.pi * lags * torch.arange(bins) / _N_FFT)
