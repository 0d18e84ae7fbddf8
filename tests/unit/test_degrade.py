"""Degradations: what they promise in common, and that each is of the kind it says."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from golden import torchaudio_numbers
from scipy import signal, stats

from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.training import degrade

RATE = 44_100


def speech_like(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Noise with the long-term slope and the syllables of speech, and pauses. Peak 0.7."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    noise = signal.lfilter([1, -1], [1, -1.8, 0.81], rng.standard_normal(time.size))
    sound = noise * np.maximum(0, np.sin(2 * np.pi * 3 * time + 0.1))
    return (0.7 * sound / np.abs(sound).max()).astype(np.float32)


def room_response(direct: int = 44, seconds: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(1)
    tail = rng.standard_normal(round(seconds * RATE)) * np.exp(-np.arange(round(seconds * RATE)) / 3000)
    return np.concatenate([np.zeros(direct), [1.0], 0.1 * tail]).astype(np.float32)


EFFECTS: dict[str, degrade.Effect] = {
    "room": degrade.Room(responses=[room_response()]),
    "reverb": degrade.Reverb(),
    "noise": degrade.GaussianNoise(),
    "overdrive": degrade.Overdrive(),
    "equalizer": degrade.Equalizer(),
    "band_filter": degrade.BandFilter(),
    "level": degrade.LevelChanges(),
    "hum": degrade.Hum(),
    "clipping": degrade.Clipping(),
    "asymmetric_clipping": degrade.Clipping(asymmetry_db=(-12, 12)),
    "wind": degrade.Wind(),
    "plosives": degrade.Plosives(),
    "narrow_band": degrade.NarrowBand(),
    "mp3": degrade.Codec(codecs=("mp3",)),
    "aac": degrade.Codec(codecs=("aac",)),
    "opus": degrade.Codec(codecs=("opus",), bit_rate=(20_000, 64_000)),
    "vorbis": degrade.Codec(codecs=("vorbis",)),
    "gsm": degrade.Codec(codecs=("gsm",)),
    "alaw": degrade.Codec(codecs=("alaw",)),
    "mulaw": degrade.Codec(codecs=("mulaw",)),
    "packet_loss": degrade.PacketLoss(),
}
every_effect = pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)


def shift(before: np.ndarray, after: np.ndarray) -> int:
    """By how many samples ``after`` lags ``before``."""
    correlation = signal.correlate(after, before, method="fft")
    return int(np.argmax(correlation)) - (before.size - 1)


def magnitude_db(response: np.ndarray, frequency: float) -> float:
    phasor = np.exp(-2j * np.pi * frequency / RATE * np.arange(response.size))
    return 20 * math.log10(abs(response @ phasor))


def impulse(size: int = 8192, at: int = 4000) -> np.ndarray:
    waveform = np.zeros(size, np.float32)
    waveform[at] = 1
    return waveform


# ---------------------------------------------------------------------- common to all effects


@every_effect
@pytest.mark.parametrize("length", [1, 777, 20_001])
def test_an_effect_keeps_length_and_precision_and_stays_finite(effect, length):
    waveform = speech_like()[:length]
    for seed in range(5):
        degraded = effect(waveform, RATE, np.random.default_rng(seed))
        assert degraded.shape == waveform.shape
        assert degraded.dtype == np.float32
        assert np.isfinite(degraded).all()


@every_effect
def test_an_effect_leaves_its_input_as_it_was(effect):
    waveform = speech_like(0.3)
    untouched = waveform.copy()
    effect(waveform, RATE, np.random.default_rng(0))
    np.testing.assert_array_equal(waveform, untouched)


@every_effect
def test_the_generator_alone_decides_the_outcome(effect):
    waveform = speech_like(0.3)
    first, again = (effect(waveform, RATE, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@every_effect
def test_silence_stays_silence(effect):
    silence = np.zeros(RATE // 2, np.float32)
    for seed in range(5):
        # Opus and MP3 decoders answer silence with a little noise, below -80 dB.
        assert np.abs(effect(silence, RATE, np.random.default_rng(seed))).max() < 1e-4


@every_effect
def test_an_effect_does_not_shift_the_speech(effect):
    waveform = speech_like(1.0)
    for seed in range(5):
        assert shift(waveform, effect(waveform, RATE, np.random.default_rng(seed))) == 0


@pytest.mark.parametrize("bit_rate", [8000, 12_000, 16_000])
def test_opus_at_low_rates_is_off_by_less_than_a_tenth_of_a_millisecond(bit_rate):
    waveform = speech_like(1.0)
    assert abs(shift(waveform, degrade.transcode(waveform, RATE, codec="opus", bit_rate=bit_rate))) <= 4


# --------------------------------------------------------------------------------- mixing


@pytest.mark.parametrize("snr_db", [-12.0, 0.0, 25.0])
def test_snr_over_the_active_speech_is_what_was_asked(snr_db):
    speech = speech_like(1.0)
    noise = np.random.default_rng(3).standard_normal(4 * RATE).astype(np.float32)
    with_pause = np.concatenate([speech, np.zeros(3 * RATE, np.float32)])
    added = degrade.mix_at_snr(with_pause, noise, snr_db) - with_pause
    speech_power = degrade.active_power(speech, RATE)
    # float32 loses the small noise under loud speech when it is taken out again.
    assert 10 * math.log10(speech_power / np.square(added).mean()) == pytest.approx(snr_db, abs=1e-3)


def test_active_power_does_not_count_pauses():
    tone = np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE)).astype(np.float32)
    half_silent = np.concatenate([tone, np.zeros(9 * RATE, np.float32)])
    assert degrade.active_power(half_silent, RATE) == pytest.approx(0.5, rel=1e-3)


def test_noise_alone_passes_as_it_is():
    noise = speech_like(0.2)
    np.testing.assert_array_equal(degrade.mix_at_snr(np.zeros_like(noise), noise, 5.0), noise)


# -------------------------------------------------------------------------- each of its kind


def test_a_direct_path_is_found_before_a_louder_reflection():
    response = np.zeros(3000, np.float32)
    response[[99, 100, 900]] = 0.4, 0.7, 1.0
    assert degrade.direct_path(response) == 100


@pytest.mark.parametrize("direct", [0, 44, 5000])
def test_a_room_is_aligned_wherever_its_direct_path_is(direct):
    waveform = speech_like(0.5) * np.float32(0.1)
    aligned = degrade.add_room(waveform, room_response(0))
    np.testing.assert_allclose(degrade.add_room(waveform, room_response(direct)), aligned, atol=1e-6)


def test_a_room_that_would_clip_is_scaled_below_full_scale():
    loud = degrade.add_room(speech_like(0.5), 3 * room_response())
    assert np.abs(loud).max() == pytest.approx(0.98, abs=1e-5)


@pytest.mark.parametrize(
    ("reverberance", "hf_damping", "room_scale"), [(100, 0, 0), (50, 50, 50), (0, 100, 20)]
)
def test_reverb_equals_its_recursions_sample_by_sample(reverberance, hf_damping, room_scale):
    dry = np.random.default_rng(0).standard_normal(1500).astype(np.float32)
    feedback = 1 - 0.7 * (0.02 / 0.7) ** (reverberance / 100)
    pole = 0.2 + 0.3 * hf_damping / 100
    scale = 0.1 + 0.9 * room_scale / 100

    wet = np.zeros(dry.size)
    for delay in [round(scale * delay) for delay in degrade.COMB_DELAYS]:
        line, low_passed = np.zeros(delay), 0.0
        for n, sample in enumerate(dry):
            output = line[n % delay]
            low_passed = (1 - pole) * output + pole * low_passed
            line[n % delay] = sample + feedback * low_passed
            wet[n] += output
    for delay in [round(scale * delay) for delay in degrade.ALLPASS_DELAYS]:
        line = np.zeros(delay)
        for n, sample in enumerate(wet):
            output = line[n % delay]
            line[n % delay] = sample + 0.5 * output
            wet[n] = output - sample

    reverberant = degrade.add_reverb(
        dry, RATE, reverberance=reverberance, hf_damping=hf_damping, room_scale=room_scale
    )
    expected = dry + 0.015 / math.sqrt(2) * wet
    np.testing.assert_allclose(reverberant, expected, atol=1e-5)  # float32 sums of values near 4
    assert np.abs(expected - dry).max() > 0.01


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_gaussian_noise_has_the_share_that_was_asked(share):
    waveform = speech_like(1.0)
    noise = (
        degrade.add_gaussian_noise(waveform, share, np.random.default_rng(0)) - np.float32(share) * waveform
    )
    assert noise.std() / waveform.std() == pytest.approx(1 - share, rel=0.01)  # the mean of 44,100 draws


@pytest.mark.parametrize(("gain_db", "colour"), torchaudio_numbers.DRIVES)
def test_overdrive_equals_torchaudio_once_its_start_click_is_over(gain_db, colour):
    with np.load(torchaudio_numbers.NUMBERS) as numbers:
        waveform, expected = numbers["overdrive/input"], numbers[f"overdrive/{gain_db:g}/{colour:g}"]
    driven = degrade.overdrive(waveform, gain_db=gain_db, colour=colour)
    # 0.995^n of the click is left: 1e-7 after 3300 samples.
    np.testing.assert_allclose(driven[3300:], expected[3300:], atol=2e-5)


@pytest.mark.parametrize("gain_db", [-30, -6, 12, 30])
@pytest.mark.parametrize("frequency", [100.0, 1000.0, 4000.0])
def test_equalizer_gain_at_its_centre_is_what_was_asked(frequency, gain_db):
    response = degrade.equalize(impulse(65_536, at=0), RATE, frequency=frequency, q=2, gain_db=gain_db)
    assert magnitude_db(response, frequency) == pytest.approx(gain_db, abs=0.01)
    assert magnitude_db(response, 15_000.0) == pytest.approx(0, abs=1.0)


@pytest.mark.parametrize("taps", [50, 51, 200])
@pytest.mark.parametrize(("low", "high"), [(0.0, 4000.0), (1000.0, 4000.0)])
def test_band_filter_is_symmetric_around_where_the_sound_was(low, high, taps):
    response = degrade.filter_band(impulse(at=4000), RATE, low=low, high=high, taps=taps)
    np.testing.assert_allclose(response[3700:4000], response[4300:4000:-1], atol=1e-7)
    assert np.argmax(np.abs(response)) == 4000


def test_band_filter_keeps_its_band_and_removes_the_rest():
    lowpass = degrade.filter_band(impulse(), RATE, high=4000.0, taps=200)
    assert magnitude_db(lowpass, 1000) == pytest.approx(0, abs=0.1)
    assert magnitude_db(lowpass, 4000) == pytest.approx(-6, abs=0.3)
    assert magnitude_db(lowpass, 8000) < -80
    bandpass = degrade.filter_band(impulse(), RATE, low=1000.0, high=5000.0, taps=200)
    assert magnitude_db(bandpass, 3000) == pytest.approx(0, abs=0.5)
    assert magnitude_db(bandpass, 9000) < -80


@pytest.mark.parametrize("rate", [8000, 11_025, 12_000, 16_000, 22_050])
def test_narrow_band_keeps_what_is_below_and_nothing_above(rate):
    response = degrade.limit_bandwidth(impulse(), RATE, rate)
    assert magnitude_db(response, 0.45 * rate) == pytest.approx(0, abs=0.1)
    assert magnitude_db(response, 0.51 * rate) < -60


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations([8000, 44_100, 48_000], 2)))
def test_fft_resampling_keeps_a_tone_in_place(source, target):
    length = source // 2 + 1
    tone = np.sin(2 * np.pi * 440 / source * np.arange(length)).astype(np.float32)
    resampled = degrade.resample_fft(tone, source, target)
    assert resampled.size == math.ceil(length * target / source)
    expected = np.sin(2 * np.pi * 440 / target * np.arange(resampled.size))
    inner = slice(target // 10, -target // 10)  # the ends see the tone's sudden start and stop
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=2e-3)


def test_hard_clipping_cuts_at_its_level_and_nothing_else():
    waveform = speech_like(0.5)
    clipped = degrade.clip(waveform, threshold_db=-6.0, soft=False)
    level = np.abs(waveform).max() * 10 ** (-6 / 20)
    assert np.abs(clipped).max() == pytest.approx(level)
    quiet = np.abs(waveform) < level
    np.testing.assert_array_equal(clipped[quiet], waveform[quiet])


@pytest.mark.parametrize("soft", [False, True])
def test_asymmetric_clipping_has_another_limit_below_zero(soft):
    waveform = speech_like(0.5)
    waveform[100] = -waveform.max()  # both sides go as far
    clipped = degrade.clip(waveform, threshold_db=-20.0, soft=soft, asymmetry_db=8.0)
    assert 20 * math.log10(-clipped.min() / clipped.max()) == pytest.approx(8.0, abs=0.1)


def test_wind_is_low_comes_in_gusts_and_lies_at_its_level():
    waveform = speech_like(4.0)
    wind = (
        degrade.add_wind(
            waveform,
            RATE,
            corner=50,
            gusts_per_second=2,
            snr_db=5,
            rng=np.random.default_rng(0),
        )
        - waveform
    )
    assert 10 * math.log10(np.square(waveform).mean() / np.square(wind).mean()) == pytest.approx(5, abs=0.01)
    power = np.square(np.abs(np.fft.rfft(wind)))
    bins = np.fft.rfftfreq(wind.size, 1 / RATE)
    assert power[bins < 300].sum() > 0.8 * power.sum() > 0
    levels = 10 * np.log10(np.square(wind[: 40 * 4410].reshape(40, 4410)).mean(1))
    assert np.ptp(levels) > 6


def test_plosives_start_where_asked_and_leave_the_rest_alone():
    waveform = speech_like(1.0)
    heard = degrade.add_plosives(waveform, RATE, times=[0.5], frequency=60, decay=0.02, level=0.5)
    thump = heard - waveform
    assert np.abs(thump).max() == pytest.approx(0.5 * np.abs(waveform).max(), rel=1e-3)
    assert not thump[: RATE // 2].any() and not thump[round(0.63 * RATE) :].any()


def test_soft_clipping_bends_toward_its_level():
    waveform = speech_like(0.5)
    level = np.abs(waveform).max() * 10 ** (-6 / 20)
    clipped = degrade.clip(waveform, threshold_db=-6.0, soft=True)
    assert 0.9 * level < np.abs(clipped).max() < level
    quiet = np.abs(waveform) < level / 20
    np.testing.assert_allclose(clipped[quiet], waveform[quiet], atol=1e-3 * level)


def test_level_changes_reach_their_gains():
    ones = np.ones(RATE, np.float32)
    curve = degrade.change_level(ones, RATE, gains_db=[0.0, -20.0, 6.0], starts=[0.2, 0.6], ramp=0.1)
    at = {seconds: 20 * math.log10(curve[round(seconds * RATE)]) for seconds in (0.1, 0.25, 0.5, 0.9)}
    assert at == pytest.approx({0.1: 0.0, 0.25: -10.0, 0.5: -20.0, 0.9: 6.0}, abs=0.05)


def test_hum_lies_at_multiples_of_its_frequency_and_at_its_level():
    waveform = speech_like(1.0)
    hum = (
        degrade.add_hum(waveform, RATE, frequency=50.0, harmonics=np.array([1.0, 0, 0.5j]), snr_db=10.0)
        - waveform
    )
    assert 10 * math.log10(np.square(waveform).mean() / np.square(hum).mean()) == pytest.approx(10, abs=0.01)
    power = np.square(np.abs(np.fft.rfft(hum)))
    assert power[[50, 150]] / power.sum() == pytest.approx([0.8, 0.2], abs=1e-3)


@pytest.mark.parametrize("repeat", [False, True])
def test_a_lost_packet_is_silent_or_the_one_before_at_half(repeat):
    frame = RATE // 50
    waveform = np.arange(1, 6, dtype=np.float32).repeat(frame)
    received = np.array([True, True, False, False, True])
    heard = degrade.lose_packets(waveform, RATE, received=received, repeat=repeat)
    middles = heard[frame // 2 :: frame]
    np.testing.assert_allclose(middles, [1, 2, 1, 0.5, 5] if repeat else [1, 2, 0, 0, 5], atol=1e-6)


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 1.0), (0.15, 3.0)])
def test_packets_are_lost_as_often_and_in_bursts_as_long_as_asked(loss, burst):
    effect = degrade.PacketLoss(loss=(loss, loss), burst=(burst, burst))
    rate, frame = 5000, 100
    heard = effect(np.ones(20_000 * frame, np.float32), rate, np.random.default_rng(4))
    lost = heard[frame // 2 :: frame] < 0.75
    starts = np.count_nonzero(lost[1:] & ~lost[:-1])
    assert lost.mean() == pytest.approx(loss, rel=0.1)  # 3,000 or 1,000 losses
    assert lost.sum() / starts == pytest.approx(burst, rel=0.1)


def test_in_a_bad_stretch_only_some_packets_may_be_lost():
    """Elliott's channel: as many are lost in all, but more often one alone."""
    gilbert, elliott = (
        degrade.PacketLoss(loss=(0.1, 0.1), burst=(6.0, 6.0), density=(density, density), edge=(0, 0))
        for density in (1.0, 0.5)
    )
    runs = []
    for effect in (gilbert, elliott):
        heard = effect(np.ones(20_000 * 100, np.float32), 5000, np.random.default_rng(4))
        lost = heard[50::100] < 0.75
        assert lost.mean() == pytest.approx(0.1, rel=0.15)
        runs.append(lost.sum() / np.count_nonzero(lost[1:] & ~lost[:-1]))
    assert runs[0] == pytest.approx(6, rel=0.15)
    assert runs[1] < 2.5


@pytest.mark.parametrize(("edge", "part"), [(0.0, 0), (0.01, 441)])
def test_what_is_received_fades_as_long_as_asked(edge, part):
    heard = degrade.lose_packets(
        np.ones(3 * 882, np.float32), RATE, received=np.array([True, False, True]), repeat=False, edge=edge
    )
    assert np.count_nonzero((heard > 0.001) & (heard < 0.999)) / 2 == pytest.approx(part, abs=2)


@pytest.mark.parametrize("codec", ["mp3", "aac", "opus", "vorbis"])
def test_more_bits_leave_more_of_the_sound(codec):
    waveform = speech_like(1.0)
    likeness = [
        np.corrcoef(waveform, degrade.transcode(waveform, RATE, codec=codec, bit_rate=bit_rate))[0, 1]
        for bit_rate in (8000, 32_000, 64_000)
    ]
    assert likeness == sorted(likeness)
    assert likeness[0] < 0.9 < likeness[-1]


@pytest.mark.parametrize("codec", ["gsm", "alaw", "mulaw"])
def test_a_telephone_s_codec_keeps_the_band_of_telephones(codec):
    waveform = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    heard = degrade.transcode(waveform, RATE, codec=codec, bit_rate=64_000)
    power = np.square(np.abs(np.fft.rfft(heard)))
    assert power[4100:].sum() < 1e-3 * power.sum()
    assert shift(degrade.limit_bandwidth(waveform, RATE, 8000), heard) == 0


def test_a_codec_keeps_the_level_whatever_it_is():
    waveform = speech_like(0.5)
    quiet, loud = (
        degrade.transcode(waveform * np.float32(gain), RATE, codec="opus", bit_rate=32_000) / gain
        for gain in (0.001, 10.0)
    )
    np.testing.assert_allclose(quiet, loud, atol=1e-3)  # decoded to 16 bits


def test_noise_with_pauses_is_measured_where_it_sounds():
    speech, noise = speech_like(1.0), np.zeros(RATE, np.float32)
    noise[:882] = 0.1
    added = degrade.mix_at_snr(speech, noise, 5.0, RATE, noise_pauses=True) - speech
    ratio = degrade.active_power(speech, RATE) / degrade.active_power(added, RATE)
    assert 10 * math.log10(ratio) == pytest.approx(5, abs=0.01)


# --------------------------------------------------------------------------- combinations

SCENE = ("add_room", "add_reverb", "add_gaussian_noise", "overdrive", "equalize", "filter_band")


@pytest.fixture
def permutations(monkeypatch):
    """Names of the effects applied to 4,000 examples, in order."""
    applied: list[str] = []
    for name in SCENE:
        monkeypatch.setattr(
            f"{getattr(degrade, name).__module__}.{name}",
            lambda waveform, *_, _name=name, **__: applied.append(_name) or waveform,
        )
    distorter, waveform = degrade.Distorter(), np.zeros(1, np.float32)
    drawn = []
    for seed in range(4000):
        applied.clear()
        distorter(waveform, RATE, np.random.default_rng(seed), responses=[waveform])
        drawn.append(tuple(applied))
    return drawn


def test_the_number_of_effects_is_binomial_as_in_the_reference(permutations):
    counts = Counter(len(names) for names in permutations)
    expected = len(permutations) * stats.binom.pmf(range(7), 6, 0.5)
    assert stats.chisquare([counts[n] for n in range(7)], expected).pvalue > 0.01


def test_every_order_of_the_effects_is_as_likely(permutations):
    pairs = Counter(names for names in permutations if len(names) == 2)
    assert len(pairs) == 30
    assert stats.chisquare(list(pairs.values())).pvalue > 0.01


def test_an_empty_bank_disables_rooms_alone():
    off = {name: {"probability": 0.0} for name in ("reverb", "overdrive", "equalizer", "band_filter")}
    tree = {"room_probability": 1.0, "noise": {"probability": 1.0}, **off}
    distorter = trees.from_tree(degrade.Distorter, tree)
    with_noise = distorter(impulse(), RATE, np.random.default_rng(0))
    with_room = distorter(impulse(), RATE, np.random.default_rng(0), [room_response()])
    assert np.abs(with_noise[4001:]).max() < 0.02
    assert np.abs(with_room[4001:]).max() > 0.1


def test_clean_probability_is_how_often_speech_passes_untouched():
    distorter = degrade.Distorter(clean_probability=0.2, noise=degrade.GaussianNoise(probability=1.0))
    waveform = speech_like(0.02)
    untouched = sum(
        np.array_equal(waveform, distorter(waveform, RATE, np.random.default_rng(seed)))
        for seed in range(1000)
    )
    assert untouched / 1000 == pytest.approx(0.2, abs=0.04)  # three standard deviations


def test_the_recording_chain_is_off_until_asked_for():
    waveform = speech_like(0.1)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(degrade.RecordingChain()(waveform, RATE, rng), waveform)
    narrow = degrade.RecordingChain(narrow_band=degrade.NarrowBand(probability=1.0, rates=(8000,)))
    np.testing.assert_array_equal(narrow(waveform, RATE, rng), degrade.limit_bandwidth(waveform, RATE, 8000))


def test_validation_hears_one_room_then_one_reverb():
    waveform, response = speech_like(0.5), room_response()
    expected = degrade.add_reverb(
        degrade.add_room(waveform, response), RATE, reverberance=50, hf_damping=50, room_scale=50
    )
    np.testing.assert_array_equal(degrade.distort_for_validation(waveform, RATE, response), expected)


# -------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"clean_probability": 1.5}, "clean_probability"),
        ({"reverb": {"hf_damping": [80, 20]}}, "hf_damping"),
        ({"band_filter": {"lowpass": [2000, 30_000]}}, "lowpass"),
        ({"recording": {"codec": {"bit_rate": [1000, 64_000]}}}, "bit_rate"),
        ({"recording": {"codec": {"codecs": []}}}, "codecs"),
        ({"recording": {"narrow_band": {"rates": [80]}}}, "rates"),
        ({"recording": {"hum": {"probability": -0.1}}}, "probability"),
    ],
)
def test_a_setting_that_cannot_be_names_its_key(settings, key):
    with pytest.raises(ConfigError, match=key):
        trees.from_tree(degrade.Distorter, settings)


def test_settings_survive_their_file(tmp_path):
    recording = degrade.RecordingChain(codec=degrade.Codec(probability=0.3, codecs=("opus",)))
    distorter = degrade.Distorter(clean_probability=0.2, recording=recording)
    trees.save(distorter, tmp_path / "distorter.yaml")
    assert trees.load(degrade.Distorter, tmp_path / "distorter.yaml") == distorter


def test_a_damped_room_keeps_its_start_and_decays_as_fast_as_asked():
    rate = 44_100
    response = np.full(rate, 0.1, np.float32)
    response[44] = 1  # the direct path
    damped = degrade.damp_room(response, rate, t60=0.3, early=0.02)
    start = 44 + round(0.02 * rate)
    np.testing.assert_array_equal(damped[:start], response[:start])
    assert damped.dtype == np.float32
    for decibels in (20, 60):
        moment = start + round(0.3 * rate * decibels / 60)
        assert 20 * np.log10(damped[moment] / 0.1) == pytest.approx(-decibels, abs=0.1)
