"""Voices that a corpus of read speech lacks, made of those that it has: held, shouted, growled, whispered.

As in `degrade`, an effect is a function of explicit parameters and a dataclass of ranges that draws them.
What comes out is clean speech of another kind, and counts as clean wherever an example is made of it.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import numpy as np
import scipy
from numpy.typing import NDArray

from enhance_ray.settings.ranges import Probability, Range, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform, draw_logarithmic

_WINDOW_SECONDS = 0.046
"""Two to five periods of a voice."""
_TILT_HZ = (200.0, 1000.0, 10_000.0)
"""Where a tilt begins, where it changes nothing, and where it ends."""


def hold(waveform: Waveform, sample_rate: int, *, speed: float) -> Waveform:
    """The beginning of ``waveform``, slowed down to ``speed`` at the same pitch, as long as all of it was.

    Pieces of two to five periods follow each other more slowly than they were, each from where it continues
    the one before best (WSOLA: Verhelst and Roelands 1993, doi:10.1109/ICASSP.1993.319366).

    Args:
        waveform: the sound.
        sample_rate: Hz.
        speed: below 1; at 0.3 a vowel of 0.2 s lasts 0.7 s.
    """
    window = _window(sample_rate)
    hop, reach = window // 2, window // 4
    rising = scipy.signal.get_window("hann", window)[:hop].astype(np.float32)
    padded = np.pad(waveform, (0, 2 * window))
    held = np.zeros(waveform.size + 2 * window, np.float32)
    held[:hop] = padded[:hop]
    place = 0
    for at in range(0, waveform.size, hop):
        # What is heard at ``at`` fades out as the piece before went on, and the next one fades in.
        going_on = padded[place + hop : place + window] if at else padded[:hop]
        low = max(0, int(speed * at) - reach)
        likeness = scipy.signal.correlate(padded[low : low + 2 * reach + hop], going_on, "valid")
        place = low + int(likeness.argmax()) if at else 0
        held[at : at + hop] = rising[::-1] * going_on + rising * padded[place : place + hop]
    return held[: waveform.size]


def scale_formants(waveform: Waveform, sample_rate: int, *, factor: float) -> Waveform:
    """Move the spectral envelope to ``factor`` times its frequencies; pitch and time stay as they are.

    So a vocal tract of 1 / ``factor`` times the length would sound, more or less: the envelope is smooth over
    some 500 Hz, so that no voice is too high for it, and what is narrower moves in part. It is the logarithm
    of the spectrum behind a lifter of 1.8 ms (Oppenheim and Schafer 1968, doi:10.1109/TAU.1968.1161965). No
    bin changes by more than 15 dB.
    """
    window = _window(sample_rate)
    spectrum = _spectrum(waveform, window)
    level = np.log(np.abs(spectrum) + np.float32(1e-6))
    lifter = np.zeros(window // 2 + 1, np.float32)
    kept = round(0.0018 * sample_rate)
    lifter[: kept + 1] = np.cos(np.linspace(0, np.pi / 2, kept + 1)) ** 2
    lifter = np.concatenate([lifter, lifter[-2:0:-1]])
    cepstrum = scipy.fft.irfft(level, window, axis=0)
    envelope = scipy.fft.rfft(cepstrum * lifter[:, None], axis=0).real
    bins = np.arange(len(envelope))
    place = np.minimum(bins / factor, bins[-1])
    low = np.minimum(place.astype(np.int64), bins[-1] - 1)
    share = (place - low).astype(np.float32)[:, None]
    moved = (1 - share) * envelope[low] + share * envelope[low + 1]
    most = 15 / 20 * np.log(10)
    return _sound(spectrum * np.exp(np.clip(moved - envelope, -most, most)), window, waveform.size)


def tilt(waveform: Waveform, sample_rate: int, *, slope_db: float) -> Waveform:
    """Raise the spectrum by ``slope_db`` an octave from 200 Hz to 10 kHz; 1 kHz stays as it is.

    A raised voice is brighter and a soft one darker by some dB an octave: Sluijter and van Heuven 1996,
    doi:10.1121/1.417955.
    """
    low, centre, high = _TILT_HZ
    points = scipy.fft.next_fast_len(waveform.size, real=True)
    octaves = np.log2(np.clip(scipy.fft.rfftfreq(points, 1 / sample_rate), low, high) / centre)
    gains = (10 ** (slope_db * octaves / 20)).astype(np.float32)
    tilted: Waveform = scipy.fft.irfft(scipy.fft.rfft(waveform, points) * gains, points)[: waveform.size]
    return tilted


def growl(
    waveform: Waveform, sample_rate: int, *, depth: float, frequency: float, rng: np.random.Generator
) -> Waveform:
    """Let the level beat ``frequency`` times a second, not quite evenly, by up to ``depth`` of itself.

    That gives a voice the subharmonics and sidebands of a rough one, as the folds above the vocal cords do
    in a growl: Gentilucci, Ardaillon and Liuni 2018, "Vocal distortion and real-time processing of
    roughness".

    Args:
        waveform: the sound.
        sample_rate: Hz.
        depth: within [0, 1].
        frequency: Hz, on average.
        rng: decides how it wavers, by about 15 %.
    """
    count = waveform.size
    knots = max(2, round(20 * count / sample_rate))
    wavering = 1 + 0.15 * rng.standard_normal(knots)
    rates = np.interp(np.arange(count), np.linspace(0, count, knots), frequency * wavering)
    phase = 2 * np.pi * (rng.random() + np.cumsum(rates) / sample_rate)
    return np.asarray(waveform * (1 - depth * (0.5 + 0.5 * np.cos(phase))), np.float32)


def whisper(waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Noise with the spectral envelope of ``waveform``, less its lowest part.

    The envelope is the power over about 300 Hz; below 500 Hz a whisper is weak: Ito, Takeda and Itakura 2005,
    doi:10.1016/j.specom.2003.10.005.
    """
    window = _window(sample_rate) // 2
    breath = _spectrum(rng.standard_normal(waveform.size, dtype=np.float32), window)
    power = np.square(np.abs(_spectrum(waveform, window)))
    hertz = np.linspace(0, sample_rate / 2, len(power), dtype=np.float32)
    width = max(1, round(300 / hertz[1]))
    # A running sum in float32 ends a little below zero where loud bins are followed by silent ones.
    smooth = scipy.ndimage.uniform_filter1d(power, width, axis=0, mode="nearest").clip(min=0)
    envelope = np.sqrt(smooth)
    weak = np.square(hertz) / (np.square(hertz) + 500**2)
    loudness = np.sqrt(np.square(np.abs(breath)).mean())
    return _sound(breath / loudness * envelope * weak[:, None], window, waveform.size)


def _window(sample_rate: int) -> int:
    """A window that four steps fill."""
    return 4 * round(_WINDOW_SECONDS / 4 * sample_rate)


def _spectrum(waveform: Waveform, window: int) -> NDArray[np.complexfloating]:
    padded = np.pad(waveform, (0, max(0, window - waveform.size)))
    spectrum: NDArray[np.complexfloating] = scipy.signal.stft(
        padded, nperseg=window, noverlap=window - window // 4
    )[2]
    return spectrum


def _sound(spectrum: NDArray[np.complexfloating], window: int, length: int) -> Waveform:
    waveform = scipy.signal.istft(spectrum, nperseg=window, noverlap=window - window // 4)[1][:length]
    return np.pad(np.asarray(waveform, np.float32), (0, length - waveform.size))


# ----------------------------------------------------------------------------------- ranges


@settings
class Held(Effect):
    """Held and slow speech: `hold`."""

    speed: Annotated[Range, Within(0.05, 1)] = (0.25, 0.7)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return hold(waveform, sample_rate, speed=rng.uniform(*self.speed))


@settings
class Formants(Effect):
    """Speakers of another size: `scale_formants`."""

    factor: Annotated[Range, Within(0.5, 2)] = (0.82, 1.22)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return scale_formants(waveform, sample_rate, factor=draw_logarithmic(rng, self.factor))


@settings
class Tilted(Effect):
    """Shouted to soft speech: `tilt`."""

    slope_db: Annotated[Range, Within(-12, 12)] = (-4.0, 5.0)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return tilt(waveform, sample_rate, slope_db=rng.uniform(*self.slope_db))


@settings
class Growled(Effect):
    """Rough speech: `growl`."""

    depth: Annotated[Range, Within(0, 1)] = (0.4, 0.95)
    frequency: Annotated[Range, Within(1, 200)] = (25.0, 90.0)
    """Hz."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        depth, frequency = rng.uniform(*self.depth), rng.uniform(*self.frequency)
        return growl(waveform, sample_rate, depth=depth, frequency=frequency, rng=rng)


@settings
class Whispered(Effect):
    """Whispered speech: `whisper`."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return whisper(waveform, sample_rate, rng)


@settings
class Voices:
    """How often voices are changed, and how; by default never."""

    pitch_probability: Probability = 0.0
    """How often speech is played at another speed, far enough to be another's voice."""
    pitch: Annotated[Range, Within(0.5, 2)] = (0.75, 1.4)
    """Factor of pitch, formants and speed."""
    formants: Formants = field(default_factory=Formants)
    held: Held = field(default_factory=Held)
    tilted: Tilted = field(default_factory=Tilted)
    growled: Growled = field(default_factory=Growled)
    whispered: Whispered = field(default_factory=Whispered)

    def draw_pitch(self, rng: np.random.Generator) -> float:
        """The factor of this example, mostly 1."""
        if self.pitch_probability and rng.random() < self.pitch_probability:
            return float(rng.uniform(*self.pitch))
        return 1.0

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        """Change the voice in all ways that are drawn, but for its pitch."""
        for effect in (self.formants, self.held, self.tilted, self.growled, self.whispered):
            if effect.probability and rng.random() < effect.probability:
                waveform = effect(waveform, sample_rate, rng)
        return waveform
