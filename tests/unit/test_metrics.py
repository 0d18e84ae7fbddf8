"""Metrics against closed forms, and against the packages that published them."""

import importlib.util
import math

import numpy as np
import pesq
import pystoi
import pytest
from speechmos import dnsmos as published_dnsmos

from enhance_ray import metrics
from enhance_ray.errors import ConfigError

RATE = 44_100


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


def test_lsd_takes_silence_for_what_sixteen_bits_make_of_it():
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, RATE) / 2**15
    assert metrics.lsd(dither, np.zeros(RATE), RATE) < 1


def test_mel_distance_of_a_gain_is_that_gain_in_decibels_and_phases_do_not_count():
    reference = 0.1 * noise(RATE)
    assert metrics.mel_distance(reference * 10, reference, RATE) == pytest.approx(20.0, abs=1e-6)
    assert metrics.mel_distance(-reference, reference, RATE) == pytest.approx(0.0, abs=1e-9)


def test_pesq_and_estoi_are_highest_for_the_reference_and_fall_with_the_noise():
    reference = speech_like(3)
    disturbance = noise(reference.size)
    for metric, best in ((metrics.pesq_wb, 4.644), (metrics.estoi, 1.0)):
        values = [metric(reference + level * disturbance, reference, RATE) for level in (0, 0.003, 0.1)]
        assert values[0] == pytest.approx(best, abs=1e-3)
        assert values[0] > values[1] > values[2]


def test_pesq_and_estoi_equal_their_packages_at_the_protocols_own_rates():
    reference = speech_like(2, rate=16_000)
    estimate = reference + 0.02 * noise(reference.size)
    assert metrics.pesq_wb(estimate, reference, 16_000) == pesq.pesq(16_000, reference, estimate, "wb")
    assert metrics.estoi(estimate, reference, 10_000) == pytest.approx(
        pystoi.stoi(reference, estimate, 10_000, extended=True),
        abs=1e-9,  # pystoi adds unseeded noise of 1e-16
    )


@pytest.mark.parametrize("seconds", [0.5, 9.5, 11.25])
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
    reference = speech_like(2)
    estimate = reference + 0.01 * noise(reference.size)
    scores = metrics.score(estimate, reference, RATE)
    assert list(scores) == list(metrics.METRICS)
    assert scores["pesq_wb"] == pytest.approx(metrics.pesq_wb(estimate, reference, RATE))
    assert scores["dnsmos_ovrl"] == pytest.approx(metrics.dnsmos(estimate, RATE)["ovrl"])


def test_where_a_reference_is_silent_or_short_the_metrics_are_undefined():
    silent = np.zeros(RATE)
    assert math.isnan(metrics.si_sdr(noise(RATE), silent))
    for metric in (metrics.pesq_wb, metrics.estoi):
        assert math.isnan(metric(0.1 * noise(RATE), silent, RATE))
        assert math.isnan(metric(0.1 * noise(4410), 0.1 * noise(4410), RATE))


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
