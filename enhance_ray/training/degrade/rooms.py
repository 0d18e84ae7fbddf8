"""Rooms, by their response or artificial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy

from enhance_ray.settings.ranges import Probability, Range, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Response, Waveform
from enhance_ray.training.degrade.filters import recursive_filter


def direct_path(response: Response) -> int:
    """Index of the direct sound in a room response: the first peak within 6 dB of the largest.

    The first and not the largest, because two reflections that meet can be louder than the sound
    that came straight.
    """
    magnitude = np.abs(response)
    first = int(np.argmax(magnitude >= 0.5 * magnitude.max()))
    while first + 1 < magnitude.size and magnitude[first + 1] > magnitude[first]:
        first += 1
    return first


def add_room(waveform: Waveform, response: Response) -> Waveform:
    """Convolve with a room response so that the direct sound stays where it was.

    What the response holds before its direct path (a microphone's or a measurement's pre-ringing)
    comes before it here too. A peak above 0.99 is scaled to 0.98, as in the reference.
    """
    start = direct_path(response)
    points = scipy.fft.next_fast_len(waveform.size + response.size - 1, real=True)
    wet: Waveform = scipy.fft.irfft(
        scipy.fft.rfft(waveform, points) * scipy.fft.rfft(response, points), points
    )
    wet = wet[start : start + waveform.size]
    peak = float(np.abs(wet).max())
    return wet * (0.98 / peak) if peak > 0.99 else wet


def damp_room(response: Response, sample_rate: int, t60: float, early: float = 0.02) -> Response:
    """The same room with heavier curtains: from ``early`` seconds after the direct path on it decays faster.

    Args:
        response: as for `add_room`.
        sample_rate: of the response, in Hz.
        t60: time in seconds in which the additional decay reaches -60 dB.
        early: what is left as it is, in seconds; direct sound and first reflections carry the words.
    """
    seconds = (np.arange(response.size) - direct_path(response)) / sample_rate
    decay: Response = (10 ** (-3 * np.maximum(seconds - early, 0) / t60)).astype(np.float32)
    return np.asarray(response * decay, np.float32)


# Jezar's Freeverb: delays in samples at 44.1 kHz of eight parallel combs and four allpasses in series.
COMB_DELAYS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
ALLPASS_DELAYS = (225, 341, 441, 556)


def add_reverb(
    waveform: Waveform,
    sample_rate: int,
    *,
    reverberance: float = 50.0,
    hf_damping: float = 50.0,
    room_scale: float = 50.0,
) -> Waveform:
    """An artificial room: Freeverb's network with sox's controls, added to the dry sound.

    Eight comb filters with a low-pass in their loop, summed, then four allpass filters (Schroeder
    1962; Moorer 1979; Jezar's Freeverb gives the delays). The dry sound stays as it is.

    Args:
        waveform: the dry sound.
        sample_rate: Hz.
        reverberance: 0 to 100; the combs' feedback rises from 0.3 to 0.98.
        hf_damping: 0 to 100; the pole of the loop's low-pass rises from 0.2 to 0.5.
        room_scale: 0 to 100; delays from a tenth of Freeverb's to all of it.
    """
    feedback = 1 - 0.7 * (0.02 / 0.7) ** (reverberance / 100)
    pole = 0.2 + 0.3 * hf_damping / 100
    scale = (0.1 + 0.9 * room_scale / 100) * sample_rate / 44_100
    comb_delays = [max(1, round(delay * scale)) for delay in COMB_DELAYS]
    wet = _parallel_combs(waveform, comb_delays, feedback, pole)
    for delay in ALLPASS_DELAYS:
        wet = _allpass(wet, max(1, round(delay * scale)))
    # sox makes two wet channels and a mono mix averages them; they are unlike, so one of them at
    # half the power is as loud, for half the work.
    wet_gain = 0.015 / math.sqrt(2)
    return waveform + wet_gain * wet


def _parallel_combs(waveform: Waveform, delays: Sequence[int], feedback: float, pole: float) -> Waveform:
    """Sum of y_k[n] = x[n - N_k] + feedback * (low-passed y_k)[n - N_k] over the delays N_k.

    Nothing that is fed back returns before the shortest delay has passed, so blocks of that length
    are filtered at once, for all combs together.
    """
    length, block = waveform.size, min(delays)
    outputs = np.zeros((len(delays), length + max(delays) + block), np.float32)
    for line, delay in zip(outputs, delays, strict=True):
        line[delay : delay + length] = waveform
    numerator, denominator = np.array([1 - pole], np.float32), np.array([1, -pole], np.float32)
    state = np.zeros((len(delays), 1), np.float32)
    for start in range(0, length, block):
        damped, state = scipy.signal.lfilter(
            numerator, denominator, outputs[:, start : start + block], zi=state
        )
        damped *= feedback
        for line, delay, fed_back in zip(outputs, delays, damped, strict=True):
            line[start + delay : start + delay + block] += fed_back
    return np.asarray(outputs[:, :length].sum(0), np.float32)


def _allpass(waveform: Waveform, delay: int, gain: float = 0.5) -> Waveform:
    """Freeverb's allpass, H(z) = (-1 + (1 + gain) z^-N) / (1 - gain z^-N).

    Samples a whole number of delays apart form recursions of order 1 of their own.
    """
    rows = -(-waveform.size // delay)
    phases = np.zeros(rows * delay, np.float32)
    phases[: waveform.size] = waveform
    filtered = recursive_filter([-1.0, 1 + gain], [1.0, -gain], phases.reshape(rows, delay))
    return filtered.reshape(-1)[: waveform.size]


@dataclass(frozen=True, kw_only=True)
class Room(Effect):
    """A room response from a bank (`corpus.load_rirs`). Not a setting: the bank is data."""

    responses: Sequence[Response]
    probability: float = 0.5

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_room(waveform, self.responses[int(rng.integers(len(self.responses)))])


@settings
class Reverb(Effect):
    """Artificial reverberation: `add_reverb`, its controls from 0 to 100."""

    probability: Probability = 0.5
    reverberance: Annotated[Range, Within(0, 100)] = (0.0, 100.0)
    hf_damping: Annotated[Range, Within(0, 100)] = (0.0, 100.0)
    room_scale: Annotated[Range, Within(0, 100)] = (0.0, 100.0)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_reverb(
            waveform,
            sample_rate,
            reverberance=rng.uniform(*self.reverberance),
            hf_damping=rng.uniform(*self.hf_damping),
            room_scale=rng.uniform(*self.room_scale),
        )
