"""What happens to speech before it reaches us, as seeded functions on arrays: clean -> degraded.

Each effect comes twice: a function of explicit parameters (`equalize`), and a frozen dataclass of
ranges (`Equalizer`) that draws the parameters from a generator and calls the function. The ranges
are settings and part of a training YAML. Every effect keeps length, time alignment and float32:

    effect(waveform (time,), sample_rate, rng) -> waveform (time,)

`Distorter` applies the reference's six effects (room, reverb, noise, overdrive, equalizer, filter)
as a random permutation, then the `RecordingChain` of what archives suffer from (levels, hum,
clipping, narrow band, codec, packet loss), which is off by default and may also be called alone,
on a mixture. `mix_at_share` and `mix_at_snr` add noise to speech.

Reference: resemble_enhance/data, with the ranges of its effects. Other than there: rooms are aligned
by their direct path and at 44.1 kHz, filters are compensated for their delay, sox is not needed, and
nothing is cut to [-1, 1] on the way, except by overdrive, which is about that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
from av import AudioCodecContext, AudioFrame, CodecContext
from jaxtyping import Bool, Complex, Float32
from scipy import fft, ndimage, signal

from enhance_ray.errors import ConfigError
from enhance_ray.options import MODEL_RATE

Waveform = Float32[np.ndarray, " time"]
Waveforms = Float32[np.ndarray, "*batch time"]
Response = Float32[np.ndarray, " tap"]
Range = tuple[float, float]
WholeRange = tuple[int, int]
CodecName = Literal["mp3", "aac", "opus"]

# ------------------------------------------------------------------------------- mixing


def peak_normalize(waveform: Waveforms) -> Waveforms:
    """Divide by the largest magnitude over time. Silence stays silence."""
    peak: Waveforms = np.abs(waveform).max(-1, keepdims=True)
    return waveform / (peak + 1e-7)


def mix_at_share(clean: Waveforms, noise: Waveforms, share: float) -> tuple[Waveforms, Waveforms]:
    """The reference's mixture: ``share`` of clean and ``1 - share`` of noise, at equal energy before.

    Args:
        clean: speech at any level.
        noise: noise at any level.
        share: the reference's alpha, within [0, 1]. The SNR over the whole length is
            20 log10(share / (1 - share)) dB: 0.2 is -12 dB, 0.8 is +12 dB.

    Returns:
        The mixture with peak 1, and the clean part of it.
    """
    share = float(share)  # a NumPy float64 would widen the arrays
    part = share * _unit_energy(clean)
    mixture = part + (1 - share) * _unit_energy(noise)
    peak = np.abs(mixture).max(-1, keepdims=True) + 1e-7
    return mixture / peak, part / peak


def _unit_energy(waveform: Waveforms) -> Waveforms:
    waveform = peak_normalize(waveform)
    norm: Waveforms = np.sqrt(np.square(waveform).sum(-1, keepdims=True) + 1e-7)
    return np.asarray(waveform / norm, np.float32)


def mix_at_snr(clean: Waveform, noise: Waveform, snr_db: float, sample_rate: int = MODEL_RATE) -> Waveform:
    """Add ``noise`` to ``clean``, scaled so that their power ratio is ``snr_db``.

    Args:
        clean: speech at any level.
        noise: noise at any level.
        snr_db: 10 log10(speech power / noise power) in dB: the speech measured where it is active
            (`active_power`), so that pauses do not make the noise weaker; the noise over all.
        sample_rate: Hz.

    Returns:
        The mixture, with ``clean`` at the level it came in; peaks may pass 1. Where the speech is
        silent no gain gives the ratio, and the noise passes as it is: the model must learn to
        answer noise alone with silence.
    """
    speech_power, noise_power = active_power(clean, sample_rate), _power(noise)
    if speech_power == 0 or noise_power == 0:
        return np.asarray(clean + noise, np.float32)
    gain = math.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)
    return clean + float(gain) * noise  # a NumPy float64 would widen the arrays


def active_power(waveform: Waveform, sample_rate: int) -> float:
    """Mean power of the 20 ms frames within 40 dB of the loudest one; 0 for silence."""
    frame = max(1, sample_rate // 50)
    whole = waveform[: waveform.size // frame * frame] if waveform.size >= frame else waveform
    powers = np.square(whole, dtype=np.float64).reshape(-1, min(frame, whole.size)).mean(-1)
    return float(powers[powers >= 1e-4 * powers.max()].mean())


def _power(waveform: Waveform) -> float:
    return float(np.square(waveform, dtype=np.float64).mean())


# ----------------------------------------------------------------------- rate conversion


def resample_fft(waveform: Waveform, source_rate: int, target_rate: int) -> Float32[np.ndarray, " resampled"]:
    """Change the rate in the frequency domain: fast, without delay, and for training data only.

    Flat to 95 % of the lower Nyquist frequency, a raised cosine from there to nothing. Returns
    ceil(time * target_rate / source_rate) samples. `dsp.resample` is what inference uses.
    """
    divisor = math.gcd(source_rate, target_rate)
    step_in, step_out = source_rate // divisor, target_rate // divisor
    margin = source_rate // 20  # keeps the ringing at one end from wrapping round to the other
    blocks = fft.next_fast_len(-(-(waveform.size + margin) // step_in), real=True)
    spectrum = fft.rfft(waveform, blocks * step_in)
    bins = blocks * min(step_in, step_out) // 2 + 1
    output: Waveform = fft.irfft(spectrum[:bins] * _edge_taper(bins), blocks * step_out)
    length = -(-waveform.size * step_out // step_in)
    return output[:length] * (step_out / step_in)


def _edge_taper(bins: int) -> Float32[np.ndarray, " bins"]:
    """1 up to 95 % of the bins, then half a cosine down to 0 at the last."""
    taper = np.ones(bins, np.float32)
    edge = max(1, bins // 20)
    taper[bins - edge :] = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, edge + 1) / edge)
    return taper


# --------------------------------------------------------------------- effects: functions


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
    points = fft.next_fast_len(waveform.size + response.size - 1, real=True)
    wet: Waveform = fft.irfft(fft.rfft(waveform, points) * fft.rfft(response, points), points)
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
        damped, state = signal.lfilter(numerator, denominator, outputs[:, start : start + block], zi=state)
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
    filtered = _recursive_filter([-1.0, 1 + gain], [1.0, -gain], phases.reshape(rows, delay))
    return filtered.reshape(-1)[: waveform.size]


def _recursive_filter(
    numerator: Sequence[float],
    denominator: Sequence[float],
    waveforms: Float32[np.ndarray, "time ..."],
) -> Float32[np.ndarray, "time ..."]:
    """`scipy.signal.lfilter` over the first axis in single precision."""
    filtered = signal.lfilter(
        np.array(numerator, np.float32), np.array(denominator, np.float32), waveforms, axis=0
    )
    return np.ascontiguousarray(filtered, np.float32)


def add_gaussian_noise(waveform: Waveform, share: float, rng: np.random.Generator) -> Waveform:
    """``share`` of the signal and ``1 - share`` of white noise of the same energy."""
    noise = rng.standard_normal(waveform.size, dtype=np.float32)
    level = math.sqrt(_power(waveform) / _power(noise))
    return share * waveform + ((1 - share) * level) * noise


def overdrive(waveform: Waveform, *, gain_db: float = 20.0, colour: float = 20.0) -> Waveform:
    """sox's overdrive: a cubic shaper that is asymmetric by ``colour``, with half of the dry sound.

        d = shape(10^(gain_db / 20) x + colour / 200),  shape(v) = v - v^3 / 3 within [-1, 1], else +-2/3
        y = x / 2 + 3/4 (d without its DC),             cut to [-1, 1]

    sox lets the DC of ``colour`` fade in as a click at the start; here the rest position counts as 0.
    """
    offset = colour / 200
    driven = np.clip(waveform * 10 ** (gain_db / 20) + offset, -1, 1)
    shaped = driven - driven * driven * driven / 3 - (offset - offset**3 / 3)
    without_dc = _recursive_filter([1.0, -1.0], [1.0, -0.995], shaped)
    return np.clip(0.5 * waveform + 0.75 * without_dc, -1, 1)


def equalize(waveform: Waveform, sample_rate: int, *, frequency: float, q: float, gain_db: float) -> Waveform:
    """A peaking equalizer: ``gain_db`` at ``frequency`` (Hz), a band of ``frequency / q`` around it.

    R. Bristow-Johnson, Cookbook formulae for audio EQ biquad filter coefficients, "peakingEQ".
    """
    amplitude = 10 ** (gain_db / 40)
    omega = 2 * math.pi * frequency / sample_rate
    alpha = math.sin(omega) / (2 * q)
    numerator = [1 + alpha * amplitude, -2 * math.cos(omega), 1 - alpha * amplitude]
    denominator = [1 + alpha / amplitude, -2 * math.cos(omega), 1 - alpha / amplitude]
    # In double: poles near the unit circle lose accuracy in single precision.
    equalized = signal.lfilter(numerator, denominator, waveform.astype(np.float64))
    return np.asarray(equalized, np.float32)


def filter_band(
    waveform: Waveform, sample_rate: int, *, low: float = 0.0, high: float, taps: int
) -> Waveform:
    """Keep ``low`` to ``high`` Hz by a windowed sinc; ``low`` 0 is a low-pass.

    Linear phase, and its delay is taken off. The window is Kaiser's for 120 dB, sox's default: few
    taps then mean wide edges (7 kHz between pass and stop with 50 taps at 44.1 kHz).

    Args:
        waveform: the sound.
        sample_rate: Hz.
        low: lower -6 dB point in Hz.
        high: upper -6 dB point in Hz, below half the sample rate.
        taps: length of the filter; an even one is made odd, so that its delay is whole.
    """
    taps |= 1
    window = ("kaiser", signal.kaiser_beta(120))
    if low > 0:
        kernel = signal.firwin(taps, [low, high], window=window, pass_zero=False, scale=False, fs=sample_rate)
    else:
        kernel = signal.firwin(taps, high, window=window, fs=sample_rate)
    return np.asarray(signal.oaconvolve(waveform, kernel.astype(np.float32), mode="same"), np.float32)


def limit_bandwidth(waveform: Waveform, sample_rate: int, rate: int) -> Waveform:
    """Leave only what a recording at ``rate`` Hz could hold, by resampling there and back."""
    narrow = resample_fft(waveform, sample_rate, rate)
    return resample_fft(narrow, rate, sample_rate)[: waveform.size]


def clip(waveform: Waveform, *, threshold_db: float, soft: bool) -> Waveform:
    """Limit to ``threshold_db`` relative to the peak: cut off, or bent over by tanh if ``soft``."""
    threshold = float(np.abs(waveform).max()) * 10 ** (threshold_db / 20)
    if threshold == 0:
        return waveform
    if soft:
        bent: Waveform = np.tanh(waveform / threshold)
        return threshold * bent
    return np.asarray(np.clip(waveform, -threshold, threshold), np.float32)


def change_level(
    waveform: Waveform, sample_rate: int, *, gains_db: Sequence[float], starts: Sequence[float], ramp: float
) -> Waveform:
    """Play at ``gains_db[0]``; at each of ``starts`` (seconds, ascending) move to the next gain.

    Args:
        waveform: the sound.
        sample_rate: Hz.
        gains_db: one more than there are ``starts``.
        starts: where the moves begin.
        ramp: how long one takes at most, in seconds (it ends where the next begins): short is a jump
            of an automatic gain control, long is a talker walking away.
    """
    times, levels = [0.0], [gains_db[0]]
    for start, end, before, after in zip(
        starts, [*starts[1:], math.inf], gains_db[:-1], gains_db[1:], strict=True
    ):
        times += [start, min(start + ramp, end)]
        levels += [before, after]
    # The powers at every millisecond only, and straight lines between: that cannot be heard.
    milliseconds = np.arange(0, waveform.size / sample_rate + 1e-3, 1e-3)
    gains = 10 ** (np.interp(milliseconds, times, levels) / 20)
    curve = np.interp(np.arange(waveform.size) / sample_rate, milliseconds, gains)
    return waveform * np.asarray(curve, np.float32)


def add_hum(
    waveform: Waveform,
    sample_rate: int,
    *,
    frequency: float,
    harmonics: Complex[np.ndarray, " harmonic"],
    snr_db: float,
) -> Waveform:
    """Add mains hum, ``snr_db`` below the signal's power over the whole length.

    Args:
        waveform: the sound; to silence nothing is added.
        sample_rate: Hz.
        frequency: of the mains, in Hz.
        harmonics: (harmonic,) complex amplitudes of the multiples of ``frequency``, from the first.
        snr_db: 10 log10(signal power / hum power) in dB.
    """
    turn = 2j * math.pi * frequency / sample_rate
    phasor = np.exp(turn * np.arange(waveform.size)).astype(np.complex64)
    hum = np.zeros_like(phasor)
    for amplitude in harmonics[::-1]:  # Horner: ((a3 z + a2) z + a1) z
        hum += np.complex64(amplitude)
        hum *= phasor
    in_phase: Waveform = hum.real
    gain = math.sqrt(_power(waveform) / _power(in_phase)) * 10 ** (-snr_db / 20)
    return waveform + gain * in_phase


def lose_packets(
    waveform: Waveform, sample_rate: int, *, received: Bool[np.ndarray, " frame"], repeat: bool
) -> Waveform:
    """Drop 20 ms frames, with edges of 2 ms.

    Args:
        waveform: the sound.
        sample_rate: Hz.
        received: (frame,) booleans for ceil(time / 20 ms) frames; false is lost.
        repeat: put the last received frame, halved with each repetition, where one is lost; else
            nothing.
    """
    frame = sample_rate // 50
    steps = np.repeat(received, frame)[: waveform.size].astype(np.float32)
    kept: Waveform = ndimage.uniform_filter1d(steps, sample_rate // 500, mode="nearest")
    if not repeat:
        return np.asarray(waveform * kept, np.float32)
    frames = np.zeros(received.size * frame, np.float32)
    frames[: waveform.size] = waveform
    number = np.arange(received.size)
    last = np.maximum.accumulate(np.where(received, number, -1))
    fade = np.where(last < 0, 0, 0.5 ** (number - last)).astype(np.float32)
    repeated = (frames.reshape(-1, frame)[last] * fade[:, None]).reshape(-1)[: waveform.size]
    return np.asarray(waveform * kept + repeated * (1 - kept), np.float32)


# ------------------------------------------------------------------------ codec round trip


@dataclass(frozen=True, kw_only=True)
class _Coder:
    """How one codec is run through libav: at the encoder's fast settings, a crop costs 20 ms, not 150."""

    encoder: str
    decoder: str
    sample_format: str
    options: Mapping[str, str]
    rates: Sequence[tuple[int, int]]
    """(bit/s from which, sample rate in Hz), best first: what encoders choose by themselves."""
    priming: int
    """Samples that the decoder gives before the first of the input. MP3 and Opus packets carry the
    number and libav drops them; for AAC it is the container's business, and we have none."""


_CODERS: Mapping[CodecName, _Coder] = {
    "mp3": _Coder(
        encoder="libmp3lame",
        decoder="mp3float",
        sample_format="fltp",
        options={"compression_level": "7"},
        rates=((32_000, 44_100), (16_000, 22_050), (0, 11_025)),
        priming=0,
    ),
    "aac": _Coder(
        encoder="aac",
        decoder="aac",
        sample_format="fltp",
        options={"aac_coder": "fast"},
        rates=((48_000, 44_100), (24_000, 32_000), (12_000, 16_000), (0, 8_000)),
        priming=1024,
    ),
    "opus": _Coder(
        encoder="libopus",
        decoder="libopus",
        sample_format="flt",
        options={"compression_level": "3"},
        rates=((0, 48_000),),  # it narrows its band by itself
        priming=0,
    ),
}


def transcode(waveform: Waveform, sample_rate: int, *, codec: CodecName, bit_rate: int) -> Waveform:
    """Encode at ``bit_rate`` (bit/s, mono) and decode again, aligned with the input.

    A low bit rate takes a low sample rate with it, as encoders do. The sound is coded with a peak of
    0.9, so that its level makes no difference to what is lost. (Below 20 kbit/s Opus may be up to
    4 samples off: its speech coder's own rate cannot place them closer.)
    """
    coder = _CODERS[codec]
    coded_rate = next(rate for floor, rate in coder.rates if bit_rate >= floor)
    scale = float(np.abs(waveform).max()) / 0.9 or 1.0
    given = resample_fft(waveform / scale, sample_rate, coded_rate)
    decoded = np.zeros(given.size, np.float32)
    received = _through_libav(given, coder, coded_rate, bit_rate)[coder.priming :][: given.size]
    decoded[: received.size] = received
    return scale * resample_fft(decoded, coded_rate, sample_rate)[: waveform.size]


def _through_libav(
    waveform: Waveform, coder: _Coder, sample_rate: int, bit_rate: int
) -> Float32[np.ndarray, " decoded"]:
    encoder = _codec_context(coder.encoder, "w")
    encoder.sample_rate = sample_rate
    encoder.layout = "mono"
    encoder.format = coder.sample_format
    encoder.bit_rate = bit_rate
    encoder.time_base = Fraction(1, sample_rate)
    encoder.options = dict(coder.options)
    frame = AudioFrame.from_ndarray(waveform[None], format=coder.sample_format, layout="mono")
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]

    decoder = _codec_context(coder.decoder, "r")
    decoder.extradata = encoder.extradata
    decoder.sample_rate = sample_rate
    decoder.layout = "mono"
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.concatenate([_samples(frame) for frame in frames])


def _codec_context(name: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    context = CodecContext.create(name, mode)
    assert isinstance(context, AudioCodecContext)
    return context


def _samples(frame: AudioFrame) -> Waveform:
    full_scale = 32_768 if frame.format.name == "s16" else 1
    return (frame.to_ndarray().reshape(-1) / full_scale).astype(np.float32)


# ------------------------------------------------------------------- effects: their ranges


@dataclass(frozen=True, kw_only=True)
class Effect(ABC):
    """Ranges of one effect, from which a call draws.

    Raises:
        ConfigError: a probability or a range is not what it can be.
    """

    LIMITS: ClassVar[Mapping[str, Range]] = {}
    """Smallest and largest value that makes sense, for each field that is a range."""

    probability: float = 0.0
    """How often the effect is applied, in [0, 1]."""

    def __post_init__(self) -> None:
        _check_probability("probability", self.probability)
        for name, (floor, ceiling) in self.LIMITS.items():
            low, high = getattr(self, name)
            if not floor <= low <= high <= ceiling:
                wanted = f"[low, high] with {floor:g} <= low <= high <= {ceiling:g}"
                raise ConfigError(name, f"expected {wanted}, got [{low:g}, {high:g}]")

    @abstractmethod
    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        """Apply the effect once, whatever ``probability`` says."""


@dataclass(frozen=True, kw_only=True)
class Room(Effect):
    """A room response from a bank (`corpus.load_rirs`). Not a setting: the bank is data."""

    responses: Sequence[Response]
    probability: float = 0.5

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_room(waveform, self.responses[int(rng.integers(len(self.responses)))])


@dataclass(frozen=True, kw_only=True)
class Reverb(Effect):
    """Artificial reverberation: `add_reverb`, its controls from 0 to 100."""

    LIMITS: ClassVar = dict.fromkeys(("reverberance", "hf_damping", "room_scale"), (0, 100))

    probability: float = 0.5
    reverberance: Range = (0.0, 100.0)
    hf_damping: Range = (0.0, 100.0)
    room_scale: Range = (0.0, 100.0)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_reverb(
            waveform,
            sample_rate,
            reverberance=rng.uniform(*self.reverberance),
            hf_damping=rng.uniform(*self.hf_damping),
            room_scale=rng.uniform(*self.room_scale),
        )


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Effect):
    """White noise: `add_gaussian_noise`."""

    LIMITS: ClassVar = {"share": (0, 1)}

    probability: float = 0.5
    share: Range = (0.8, 1.0)
    """Of the signal; the rest is noise of the same energy."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return add_gaussian_noise(waveform, rng.uniform(*self.share), rng)


@dataclass(frozen=True, kw_only=True)
class Overdrive(Effect):
    """A driven amplifier: `overdrive`."""

    LIMITS: ClassVar = {"gain_db": (0, 100), "colour": (0, 100)}

    probability: float = 0.5
    gain_db: Range = (5.0, 40.0)
    colour: Range = (20.0, 80.0)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return overdrive(waveform, gain_db=rng.uniform(*self.gain_db), colour=rng.uniform(*self.colour))


@dataclass(frozen=True, kw_only=True)
class Equalizer(Effect):
    """One band lifted or lowered: `equalize`."""

    LIMITS: ClassVar = {"frequency": (10, 20_000), "q": (1, 100), "gain_db": (-60, 60)}

    probability: float = 0.5
    frequency: Range = (100.0, 4000.0)
    """Hz."""
    q: WholeRange = (1, 5)
    gain_db: WholeRange = (-30, 30)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return equalize(
            waveform,
            sample_rate,
            frequency=rng.uniform(*self.frequency),
            q=_draw_whole(rng, self.q),
            gain_db=_draw_whole(rng, self.gain_db),
        )


@dataclass(frozen=True, kw_only=True)
class BandFilter(Effect):
    """A low-pass or a band-pass, one as often as the other: `filter_band`."""

    LIMITS: ClassVar = {
        "taps": (3, 10_000),
        "lowpass": (10, 20_000),
        "bandpass_low": (1, 10_000),
        "bandpass_width": (10, 10_000),
    }

    probability: float = 0.5
    taps: WholeRange = (50, 200)
    lowpass: Range = (2000.0, 16_000.0)
    """Upper edge of the low-pass in Hz."""
    bandpass_low: WholeRange = (100, 1000)
    """Lower edge of the band-pass in Hz."""
    bandpass_width: WholeRange = (2000, 4000)
    """From its lower to its upper edge, in Hz."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        taps = _draw_whole(rng, self.taps)
        if rng.random() < 0.5:
            return filter_band(waveform, sample_rate, high=rng.uniform(*self.lowpass), taps=taps)
        low = _draw_whole(rng, self.bandpass_low)
        high = low + _draw_whole(rng, self.bandpass_width)
        return filter_band(waveform, sample_rate, low=low, high=high, taps=taps)


@dataclass(frozen=True, kw_only=True)
class LevelChanges(Effect):
    """Slow ramps and jumps of the level: `change_level`."""

    LIMITS: ClassVar = {"changes": (1, 100), "gain_db": (-60, 30), "ramp": (1e-3, 100)}

    changes: WholeRange = (1, 3)
    """How often the level changes."""
    gain_db: Range = (-18.0, 6.0)
    ramp: Range = (0.005, 2.0)
    """Seconds, drawn on a logarithmic scale."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        changes = _draw_whole(rng, self.changes)
        return change_level(
            waveform,
            sample_rate,
            gains_db=rng.uniform(*self.gain_db, changes + 1).tolist(),
            starts=np.sort(rng.uniform(0, waveform.size / sample_rate, changes)).tolist(),
            ramp=_draw_logarithmic(rng, self.ramp),
        )


@dataclass(frozen=True, kw_only=True)
class Hum(Effect):
    """Mains hum of 50 or 60 Hz, a little off, with harmonics that fall off at random: `add_hum`."""

    LIMITS: ClassVar = {"snr_db": (-20, 100), "harmonics": (1, 40)}

    snr_db: Range = (5.0, 35.0)
    harmonics: WholeRange = (3, 15)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        number = np.arange(1, _draw_whole(rng, self.harmonics) + 1)
        amplitudes = rng.uniform(0.1, 1, number.size) / number ** rng.uniform(0, 2)
        return add_hum(
            waveform,
            sample_rate,
            frequency=rng.choice((50.0, 60.0)) * rng.uniform(0.998, 1.002),
            harmonics=amplitudes * np.exp(2j * np.pi * rng.random(number.size)),
            snr_db=rng.uniform(*self.snr_db),
        )


@dataclass(frozen=True, kw_only=True)
class Clipping(Effect):
    """Too loud for the recorder, hard or soft, one as often as the other: `clip`."""

    LIMITS: ClassVar = {"threshold_db": (-40, 0)}

    threshold_db: Range = (-18.0, -1.0)
    """Relative to the peak."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return clip(waveform, threshold_db=rng.uniform(*self.threshold_db), soft=rng.random() < 0.5)


@dataclass(frozen=True, kw_only=True)
class NarrowBand(Effect):
    """Recorded or sent at a lower rate: `limit_bandwidth`."""

    rates: tuple[int, ...] = (8000, 11_025, 12_000, 16_000, 22_050)
    """Hz; one is drawn. Those not below the signal's own rate change nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates or min(self.rates) < 1000:
            raise ConfigError(
                "rates", f"expected one or more rates in Hz, 1000 or above, got {list(self.rates)}"
            )

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        rate = int(rng.choice(self.rates))
        return limit_bandwidth(waveform, sample_rate, rate) if rate < sample_rate else waveform


@dataclass(frozen=True, kw_only=True)
class Codec(Effect):
    """Compressed at a low bit rate: `transcode`."""

    LIMITS: ClassVar = {"bit_rate": (8000, 64_000)}

    codecs: tuple[CodecName, ...] = ("mp3", "aac", "opus")
    """One is drawn."""
    bit_rate: WholeRange = (8000, 64_000)
    """bit/s, drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.codecs:
            raise ConfigError("codecs", f"expected one or more of {', '.join(_CODERS)}, got none")

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        codec = self.codecs[int(rng.integers(len(self.codecs)))]
        bit_rate = round(_draw_logarithmic(rng, self.bit_rate))
        return transcode(waveform, sample_rate, codec=codec, bit_rate=bit_rate)


@dataclass(frozen=True, kw_only=True)
class PacketLoss(Effect):
    """Lost 20 ms packets, silent or repeated, one as often as the other: `lose_packets`.

    Losses come in bursts: a chain of two states, received and lost (Gilbert 1960).
    """

    LIMITS: ClassVar = {"loss": (0, 0.5), "burst": (1, 50)}

    loss: Range = (0.01, 0.15)
    """Share of the packets that is lost."""
    burst: Range = (1.0, 3.0)
    """Mean number of packets lost in a row."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        frames = -(-waveform.size // (sample_rate // 50))
        received = _draw_losses(rng, frames, rng.uniform(*self.loss), rng.uniform(*self.burst))
        return lose_packets(waveform, sample_rate, received=received, repeat=rng.random() < 0.5)


def _draw_losses(
    rng: np.random.Generator, frames: int, loss: float, burst: float
) -> Bool[np.ndarray, " frame"]:
    """True where received: a Gilbert chain that starts in its stationary state."""
    lose, recover = loss / ((1 - loss) * burst), 1 / burst
    received = np.empty(frames, bool)
    state = rng.random() >= loss
    for frame, draw in enumerate(rng.random(frames)):
        received[frame] = state
        state = draw >= lose if state else draw < recover
    return received


def _draw_whole(rng: np.random.Generator, bounds: WholeRange) -> int:
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))


def _draw_logarithmic(rng: np.random.Generator, bounds: Range) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(name, f"expected a number within [0, 1], got {value:g}")


# --------------------------------------------------------------------------- combinations


@dataclass(frozen=True, kw_only=True)
class RecordingChain:
    """What recording, storing and sending do to a sound, in the order in which they happen.

    All off by default (the reference has none of it). Each effect is drawn by its own probability.
    """

    level: LevelChanges = LevelChanges()
    hum: Hum = Hum()
    clipping: Clipping = Clipping()
    narrow_band: NarrowBand = NarrowBand()
    codec: Codec = Codec()
    packet_loss: PacketLoss = PacketLoss()

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        chain = (self.level, self.hum, self.clipping, self.narrow_band, self.codec, self.packet_loss)
        return _apply(
            [effect for effect in chain if rng.random() < effect.probability], waveform, sample_rate, rng
        )


@dataclass(frozen=True, kw_only=True)
class Distorter:
    """Clean -> degraded, as in the reference by default: a random permutation of six effects.

    The reference draws n from Binomial(6, 1/2), then an ordered selection of n of the six. That is
    the same as a coin for each and a shuffle, which is what happens here, with coins that may be
    biased by each effect's ``probability``.

    Raises:
        ConfigError: a probability is outside [0, 1].
    """

    clean_probability: float = 0.0
    """How often nothing is done: 0 for training a denoiser, 0.2 for the enhancer in the reference."""
    room_probability: float = 0.5
    """How often a room of the bank is applied, where there is a bank."""
    reverb: Reverb = Reverb()
    noise: GaussianNoise = GaussianNoise()
    overdrive: Overdrive = Overdrive()
    equalizer: Equalizer = Equalizer()
    band_filter: BandFilter = BandFilter()
    recording: RecordingChain = RecordingChain()
    """Applied after the permutation."""

    def __post_init__(self) -> None:
        _check_probability("clean_probability", self.clean_probability)
        _check_probability("room_probability", self.room_probability)

    def __call__(
        self,
        waveform: Waveform,
        sample_rate: int,
        rng: np.random.Generator,
        responses: Sequence[Response] = (),
    ) -> Waveform:
        """Degrade ``waveform``; ``responses`` is the bank of rooms at the same rate, perhaps empty."""
        if rng.random() < self.clean_probability:
            return waveform
        effects: list[Effect] = [self.reverb, self.noise, self.overdrive, self.equalizer, self.band_filter]
        if responses:
            effects.append(Room(responses=responses, probability=self.room_probability))
        chosen = [effect for effect in effects if rng.random() < effect.probability]
        permuted = [chosen[i] for i in rng.permutation(len(chosen))]
        return self.recording(_apply(permuted, waveform, sample_rate, rng), sample_rate, rng)


def distort_for_validation(
    waveform: Waveform, sample_rate: int, response: Response | None = None
) -> Waveform:
    """The reference's fixed distortion for validation: the first room, then reverb at 50/50/50."""
    if response is not None:
        waveform = add_room(waveform, response)
    return add_reverb(waveform, sample_rate)


def _apply(
    effects: Sequence[Effect], waveform: Waveform, sample_rate: int, rng: np.random.Generator
) -> Waveform:
    for effect in effects:
        waveform = effect(waveform, sample_rate, rng)
    return waveform
