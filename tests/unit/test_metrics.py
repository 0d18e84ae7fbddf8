"""Metrics against closed forms, and against the packages that published them."""

import functools
import importlib.util
import math
import sys
import types
from pathlib import Path

import librosa
import numpy as np
import pesq
import pystoi
import pytest
import torch
from mel_cepstral_distance import computation as published_mcd
from scipy import signal
from speechmos import dnsmos as published_dnsmos

from enhance_ray import metrics
from enhance_ray.dsp import levels
from enhance_ray.errors import ConfigError

RATE = 44_100
SAMPLES = Path(__file__).parents[2] / "samples" / "clean"


def speech_like(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A buzz of gliding pitch in syllables: enough of speech for PESQ and ESTOI to find utterances."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    buzz = sum(np.sin(k * phase) / k for k in range(1, 40))
    syllables = np.maximum(0, np.sin(2 * np.pi * 3 * time)) ** 0.5
    return 0.1 * buzz * syllables + 1e-4 * rng.standard_normal(time.size)


def noise(size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size)


@functools.cache
def recording(name: str, start: float = 0.0, seconds: float = 4.0) -> np.ndarray:
    """Real speech at 16 kHz."""
    waveform, _ = librosa.load(SAMPLES / f"{name}.flac", sr=16_000, offset=start, duration=seconds)
    return waveform


def with_noise(waveform: np.ndarray, snr_db: float) -> np.ndarray:
    level = np.sqrt(np.square(waveform).mean()) * 10 ** (-snr_db / 20)
    return (waveform + level * noise(waveform.size)).astype(np.float32)


@pytest.mark.parametrize("ratio_db", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("gain", [1.0, 0.01, -3.0])
def test_si_sdr_is_the_ratio_to_orthogonal_noise_at_any_gain(ratio_db, gain):
    time = np.arange(RATE) / RATE
    reference = np.sin(2 * np.pi * 440 * time)
    orthogonal = np.cos(2 * np.pi * 440 * time) * 10 ** (-ratio_db / 20)
    assert metrics.si_sdr(gain * (reference + orthogonal), reference) == pytest.approx(ratio_db, abs=1e-9)


def test_si_sdr_does_not_see_a_constant_offset():
    reference = speech_like(1)
    estimate = reference + 0.01 * noise(reference.size)
    assert metrics.si_sdr(estimate + 0.5, reference) == pytest.approx(
        metrics.si_sdr(estimate, reference), abs=1e-6
    )


def test_lsd_of_a_gain_is_that_gain_in_log10_power():
    reference = 0.1 * noise(RATE)
    assert metrics.lsd(reference * 10, reference, RATE) == pytest.approx(2.0, abs=1e-9)


def test_lsd_of_a_band_sees_only_that_band():
    low = 0.1 * noise(RATE)
    spectrum = np.fft.rfft(0.1 * noise(RATE, seed=2))
    spectrum[:12_000] = 0  # bins of one hertz: the waveform is one second long
    louder_above = low + np.fft.irfft(spectrum, RATE)
    assert metrics.lsd(louder_above, low, RATE, band=(0, 11_000)) == pytest.approx(0, abs=0.01)
    assert metrics.lsd(louder_above, low, RATE, band=(12_500, 22_051)) > 0.3


def test_lsd_high_sees_only_what_lies_above_4_khz_and_needs_such_a_rate():
    low = 0.1 * noise(RATE)
    spectrum = np.fft.rfft(0.1 * noise(RATE, seed=2))
    spectrum[3_500:] = 0
    louder_below = low + np.fft.irfft(spectrum, RATE)
    assert metrics.lsd_high(louder_below, low, RATE) == pytest.approx(0, abs=0.01)
    assert metrics.lsd_high(low * 10, low, RATE) == pytest.approx(2.0, abs=1e-9)
    assert math.isnan(metrics.lsd_high(low, low, 8_000))


def test_lsd_takes_silence_for_what_sixteen_bits_make_of_it():
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, RATE) / 2**15
    assert metrics.lsd(dither, np.zeros(RATE), RATE) < 1


def test_mel_distance_of_a_gain_is_that_gain_in_decibels_and_phases_do_not_count():
    reference = 0.1 * noise(RATE)
    assert metrics.mel_distance(reference * 10, reference, RATE) == pytest.approx(20.0, abs=1e-6)
    assert metrics.mel_distance(-reference, reference, RATE) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("order", "tolerance"),
    [(1, 0.005), (2, 0.005), (13, 0.15)],  # a wide band averages some of a fast cosine
)
def test_mcd_of_a_cosine_along_the_mel_scale_is_its_effective_value_in_decibels(order, tolerance):
    """The 40 bands lie at 1/41, 2/41, ... of the scale, the cosine's phases at (n - 1/2) / 40."""
    rate, gain_db = metrics.MCD_RATE, 10
    frequency = np.fft.rfftfreq(4096, 1 / rate)
    band = 41 * np.log10(1 + frequency / 700) / np.log10(1 + rate / 2 / 700)
    decibels = gain_db * np.cos(np.pi * order * (band - 0.5) / 40)
    kernel = np.fft.fftshift(np.fft.irfft(10 ** (decibels / 20)))  # linear phase: a delay of 2048
    reference = 0.1 * noise(10 * rate)
    estimate = signal.fftconvolve(reference, kernel)[2048:][: reference.size]
    assert metrics.mcd(estimate, reference, rate) == pytest.approx(gain_db / math.sqrt(2), rel=tolerance)


def test_mcd_agrees_with_the_package_of_that_name():
    """It has natural cepstra without our constants, from log10 of power, with bands rounded to whole bins."""
    rate, window, hop = metrics.MCD_RATE, 1024, 256
    reference = with_noise(metrics.resample(recording("kathleen_chainsaw"), 16_000, rate), 20)
    estimate = signal.lfilter([1, -0.6], [1], reference) + 0.01 * noise(reference.size, seed=3)
    bands = published_mcd.get_w_n_m(rate, window, 40, 0, rate / 2)
    spectra = [
        published_mcd.get_X_km(waveform, window, window, hop, "hanning") for waveform in (estimate, reference)
    ]
    cepstra = [published_mcd.get_MC_X_ik(published_mcd.get_X_kn(power, bands), 40) for power in spectra]
    expected = 10 * math.sqrt(2) / 40 * published_mcd.get_MCD_k(*cepstra, 0, 13).mean()
    assert metrics.mcd(estimate, reference, rate) == pytest.approx(expected, rel=0.002)


def test_mcd_does_not_hear_a_gain_and_does_not_count_the_references_pauses():
    reference = np.concatenate([0.1 * noise(RATE), 1e-5 * noise(RATE, seed=2)])
    assert metrics.mcd(reference * 0.02, reference, RATE) == pytest.approx(0, abs=1e-6)
    gated = np.where(np.arange(reference.size) < RATE + 1000, reference, 0)
    assert metrics.mcd(gated, reference, RATE) == pytest.approx(0, abs=1e-3)
    noises = [metrics.mcd(with_noise(speech_like(2), snr), speech_like(2), RATE) for snr in (60, 30, 0)]
    assert noises == sorted(noises)


@pytest.mark.parametrize("change_db", [-12.0, 0.0, 6.0])
def test_loudness_change_is_a_gain_in_decibels_and_agrees_with_our_meter(change_db):
    reference = 0.1 * noise(2 * RATE)
    estimate = reference * 10 ** (change_db / 20)
    assert metrics.loudness_change(estimate, reference, RATE) == pytest.approx(change_db, abs=1e-6)
    coloured = signal.lfilter([1, 0.9], [1], estimate)  # the weighting of frequencies counts
    meters = []
    for waveform in (coloured, reference):
        meters.append(levels.Meter(RATE, channels=1))
        meters[-1].push(torch.from_numpy(waveform[None]))
    expected = meters[0].loudness - meters[1].loudness
    # pyloudnorm rounds the weighting filters' frequencies.
    assert metrics.loudness_change(coloured, reference, RATE) == pytest.approx(expected, abs=0.05)


def test_clipped_counts_the_samples_of_flat_tops_at_any_gain():
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 100 * time)
    cut = tone.clip(-0.8, 0.8)
    expected = np.count_nonzero(np.abs(tone) >= 0.8) / RATE
    assert metrics.clipped(cut) == pytest.approx(expected) == pytest.approx(0.41, abs=0.01)
    assert metrics.clipped((0.9 * cut).astype(np.float32)) == pytest.approx(expected)
    assert metrics.clipped(tone) == metrics.clipped(0.5 * cut) == 0  # no flat top; too quiet for one


def test_clipped_knows_both_ends_of_integers_and_no_runs_shorter_than_three():
    waveform = np.zeros(100)
    waveform[10:13], waveform[20:24] = 32767 / 32768, -1
    waveform[30:32], waveform[40] = -1, 32767 / 32768
    assert metrics.clipped(waveform) == pytest.approx(0.07)
    assert metrics.clipped(np.ones(10)) == 1
    assert math.isnan(metrics.clipped(np.zeros(0)))


def test_phone_error_is_nothing_for_the_same_grows_with_noise_and_is_large_for_other_words():
    reference = recording("kathleen_chainsaw")
    errors = [metrics.phone_error(with_noise(reference, snr), reference, 16_000) for snr in (40, 15, -5)]
    assert metrics.phone_error(reference, reference, 16_000) == 0
    assert 0 < errors[0] < 0.3 < errors[1] < errors[2] <= 1.2
    for other in (recording("gaelic_playground"), recording("kathleen_chainsaw", start=4.0)):
        assert metrics.phone_error(other, reference, 16_000) > 0.7


def test_phone_error_does_not_depend_on_what_was_heard_before():
    reference = recording("kathleen_helicopter", seconds=2.0)
    estimate = with_noise(reference, 20)
    first = metrics.phone_error(estimate, reference, 16_000)
    for snr in (-10, -5, 0, 5):  # more than are remembered
        metrics.phone_error(with_noise(recording("gaelic_playground", seconds=2.0), snr), reference, 16_000)
    assert metrics.phone_error(estimate, reference, 16_000) == first > 0


def test_phone_error_counts_the_fewest_edits():
    edits = importlib.import_module("enhance_ray.metrics.listeners")._edits
    assert edits("kitten", "sitting") == edits("sitting", "kitten") == 3
    assert (edits("", "abc"), edits("abc", ""), edits("abc", "abc"), edits("abc", "xabc")) == (3, 3, 0, 1)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other in a network this small
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("seconds", [1.7, 3.3, 4.0])
def test_speaker_embeddings_equal_the_packages_own(seconds, monkeypatch, one_thread):
    # It cuts pauses by webrtcvad when it is asked to, which needs an old setuptools to be imported.
    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
    resemblyzer = importlib.import_module("resemblyzer")
    published = resemblyzer.VoiceEncoder("cpu", verbose=False)
    # One below and one above -30 dBFS, where the volume is raised and left.
    pair = 0.1 * recording("kathleen_chainsaw"), recording("gaelic_playground")
    pair = [waveform[: int(seconds * 16_000)] for waveform in pair]
    first, second = (
        published.embed_utterance(resemblyzer.normalize_volume(waveform, -30, increase_only=True))
        for waveform in pair
    )
    assert metrics.speaker_similarity(*pair, 16_000) == pytest.approx(first @ second, abs=1e-6)  # of float32


def test_a_speaker_is_nearer_to_herself_saying_other_words_than_to_others():
    reference = recording("kathleen_chainsaw")
    same, other = (
        metrics.speaker_similarity(waveform, reference, 16_000)
        for waveform in (recording("kathleen_helicopter"), recording("kerstin_rain_in_a_room"))
    )
    assert metrics.speaker_similarity(reference, reference, 16_000) == pytest.approx(1, abs=1e-6)
    assert other < 0.75 < same < 1
    assert metrics.speaker_similarity(np.zeros_like(reference), reference, 16_000) == 0


def test_asking_for_a_voice_leaves_torch_as_it_was():
    from enhance_ray.metrics import listeners

    listeners._speaker_network.cache_clear()
    before = torch.get_num_threads(), torch.get_rng_state()
    metrics.speaker_similarity(recording("kathleen_chainsaw"), recording("kathleen_chainsaw"), 16_000)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_pesq_and_estoi_are_highest_for_the_reference_and_fall_with_the_noise():
    reference = speech_like(3)
    disturbance = noise(reference.size)
    for metric, best in ((metrics.pesq_wb, 4.644), (metrics.pesq_nb, 4.549), (metrics.estoi, 1.0)):
        values = [metric(reference + level * disturbance, reference, RATE) for level in (0, 0.003, 0.1)]
        assert values[0] == pytest.approx(best, abs=1e-3)
        assert values[0] > values[1] > values[2]


def test_pesq_and_estoi_equal_their_packages_at_the_protocols_own_rates():
    reference = speech_like(2, rate=16_000)
    estimate = reference + 0.02 * noise(reference.size)
    assert metrics.pesq_wb(estimate, reference, 16_000) == pesq.pesq(16_000, reference, estimate, "wb")
    assert metrics.pesq_nb(estimate, reference, 8_000) == pesq.pesq(8_000, reference, estimate, "nb")
    assert metrics.estoi(estimate, reference, 10_000) == pytest.approx(
        pystoi.stoi(reference, estimate, 10_000, extended=True),
        abs=1e-9,  # pystoi adds unseeded noise of 1e-16
    )


@pytest.mark.parametrize("seconds", [0.7, 9.5, 11.25])
def test_dnsmos_equals_the_published_script(seconds):
    waveform = (speech_like(seconds, rate=16_000) + 0.005 * noise(int(seconds * 16_000))).astype(np.float32)
    expected = published_dnsmos.run(waveform, 16_000)
    actual = metrics.dnsmos(waveform, 16_000)
    for scale, value in actual.items():
        assert value == pytest.approx(expected[f"{scale}_mos"], abs=1e-4)  # another number of threads


def test_dnsmos_hears_what_an_integer_file_would_hold():
    waveform = 20 * speech_like(9.1, rate=16_000)
    assert metrics.dnsmos(waveform, 16_000) == metrics.dnsmos(waveform.clip(-1, 1), 16_000)


def test_score_gives_every_metric_of_the_table_in_its_order():
    reference = speech_like(2.4)  # repeated, a single window of DNSMOS
    estimate = reference + 0.01 * noise(reference.size)
    scores = metrics.score(estimate, reference, RATE)
    assert list(scores) == list(metrics.METRICS)
    assert scores["pesq_wb"] == pytest.approx(metrics.pesq_wb(estimate, reference, RATE))
    assert scores["dnsmos_ovrl"] == pytest.approx(metrics.dnsmos(estimate, RATE)["ovrl"])
    for name in (
        "pesq_nb",
        "estoi",
        "lsd_high",
        "mel_distance",
        "mcd",
        "speaker_similarity",
        "loudness_change",
    ):
        assert scores[name] == pytest.approx(getattr(metrics, name)(estimate, reference, RATE)), name


def test_score_computes_only_what_is_asked_for_in_the_tables_order(monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr(importlib, "import_module", never)  # none of these needs a package
    reference = speech_like(1)
    scores = metrics.score(0.5 * reference, reference, RATE, ["clipped", "mcd", "lsd", "mcd"])
    assert list(scores) == ["lsd", "mcd", "clipped"]
    assert metrics.score(reference, reference, RATE, []) == {}


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown metric 'pesq'; known: si_sdr, pesq_wb, .*, clipped$"):
        metrics.score(noise(RATE), noise(RATE), RATE, ["lsd", "pesq"])


def test_what_needs_no_reference_does_not_listen_to_it():
    estimate = speech_like(1.2)
    names = [name for name, metric in metrics.METRICS.items() if not metric.needs_reference]
    assert names == ["dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl", "clipped"]
    unheard = np.full_like(estimate, np.nan)
    assert all(map(math.isfinite, metrics.score(estimate, unheard, RATE, names).values()))


def test_where_a_reference_is_silent_or_short_the_metrics_are_undefined():
    silent = np.zeros(RATE)
    assert math.isnan(metrics.si_sdr(noise(RATE), silent))
    assert math.isnan(metrics.mcd(noise(RATE), silent, RATE))
    for metric in (
        metrics.pesq_wb,
        metrics.pesq_nb,
        metrics.estoi,
        metrics.phone_error,
        metrics.speaker_similarity,
        metrics.loudness_change,
    ):
        assert math.isnan(metric(0.1 * noise(RATE), silent, RATE))
        assert math.isnan(metric(0.1 * noise(4410), 0.1 * noise(4410), RATE))
    assert math.isnan(metrics.speaker_similarity(noise(2 * RATE), np.zeros(2 * RATE), RATE))


def test_a_silent_estimate_has_a_score_or_none_but_stops_nothing():
    names = [name for name, metric in metrics.METRICS.items() if metric.needs_reference]
    scores = metrics.score(np.zeros(2 * RATE), speech_like(2), RATE, names)
    undefined = {name for name, value in scores.items() if math.isnan(value)}
    assert undefined == {"si_sdr", "pesq_wb", "pesq_nb", "loudness_change"}
    assert scores["phone_error"] > 0.8 and scores["speaker_similarity"] == 0


def test_waveforms_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        metrics.si_sdr(np.ones(10), np.ones(11))


def test_an_absent_package_is_named_with_its_remedy(monkeypatch):
    real = importlib.import_module

    def without_pesq(name):
        if name == "pesq":
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without_pesq)
    with pytest.raises(ConfigError, match=r"pesq: pip install 'enhance-ray\[eval\]'"):
        metrics.pesq_wb(noise(RATE), noise(RATE), RATE)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [metrics.mean_interval(rng.normal(3, 1, 40), resamples=400, seed=i) for i in range(300)]
    covered = np.mean([interval.low <= 3 <= interval.high for interval in intervals])
    assert (
        0.90 <= covered <= 0.98
    )  # 0.95 less the bootstrap's known shortfall at 40 values, +- 2 standard errors


def test_the_interval_is_the_same_every_time_and_leaves_undefined_values_out():
    values = [1.0, 2.0, 4.0, math.nan]
    first, second = metrics.mean_interval(values), metrics.mean_interval(values)
    assert first == second
    assert (first.mean, first.count) == (pytest.approx(7 / 3), 3)
    assert 1 <= first.low < first.mean < first.high <= 4
