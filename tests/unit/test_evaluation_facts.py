"""Facts about a degraded recording: closed forms, and the order of rooms."""

import math

import numpy as np
import pytest
import soundfile
from scipy import signal

from enhance_ray.evaluation import facts
from enhance_ray.training.degrade import limit_bandwidth

RATE = 44_100


@pytest.fixture(scope="module")
def speech(pytestconfig):
    """4 s that reach beyond 20 kHz."""
    path = pytestconfig.rootpath / "samples" / "clean" / "kathleen_chainsaw.flac"
    return soundfile.read(path, dtype="float32")[0][: 4 * RATE]


def noise_like(waveform, snr_db, seed=0):
    """White noise that is ``snr_db`` below ``waveform``, and orthogonal to it."""
    noise = np.random.default_rng(seed).standard_normal(waveform.size)
    noise -= (noise @ waveform) / (waveform @ waveform) * waveform
    return noise * np.sqrt((waveform @ waveform) / (noise @ noise)) * 10 ** (-snr_db / 20)


def room(seconds, seed=0):
    """A direct path and as much energy in a tail that falls by 60 dB in ``seconds``; and its C50 in dB."""
    time = np.arange(int(1.2 * seconds * RATE)) / RATE
    tail = np.random.default_rng(seed).standard_normal(time.size) * 10 ** (-3 * time / seconds)
    response = tail / np.sqrt(tail @ tail)
    response[0] = 1
    energy = np.square(response)
    early = int(0.05 * RATE)
    return response, 10 * np.log10(energy[:early].sum() / energy[early:].sum())


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("gain", [1.0, -0.1])
def test_snr_is_that_of_the_mixture_at_any_gain(speech, snr_db, gain):
    degraded = gain * (speech + noise_like(speech, snr_db))
    assert facts.snr_db(degraded, speech, RATE) == pytest.approx(snr_db, abs=1e-3)


def test_snr_of_a_copy_and_of_noise_alone_are_the_limits(speech):
    assert facts.snr_db(0.5 * speech, speech, RATE) == 60
    assert facts.snr_db(noise_like(speech, 0), speech, RATE) == -20


def test_bandwidth_is_where_speech_was_cut_off(speech):
    assert facts.bandwidth_hz(speech, speech, RATE) > 20_000
    assert facts.bandwidth_hz(0.01 * speech, speech, RATE) > 20_000
    for rate in (8000, 16_000):
        narrow = limit_bandwidth(speech, RATE, rate)
        # A band is 129 Hz wide.
        assert facts.bandwidth_hz(narrow, speech, RATE) == pytest.approx(rate / 2, abs=135)
        assert facts.bandwidth_hz(narrow, narrow, RATE) == pytest.approx(rate / 2, abs=135)


def test_bandwidth_counts_noise_and_no_whistle(speech):
    narrow = limit_bandwidth(speech, RATE, 8000)
    assert facts.bandwidth_hz(narrow + noise_like(speech, 20), speech, RATE) == RATE / 2
    whistle = 0.01 * np.sin(2 * np.pi * 15_000 * np.arange(speech.size) / RATE)
    assert facts.bandwidth_hz(narrow + whistle, speech, RATE) == pytest.approx(4000, abs=135)


def test_clarity_is_the_room_s_c50(speech):
    """White tails: what lies above the 4 kHz of the estimate decays as what lies below."""
    assert facts.clarity_db(speech, speech, RATE) > 35
    found = []
    for seconds in (0.2, 0.4, 0.8, 1.6):
        response, c50 = room(seconds)
        found.append(facts.clarity_db(signal.fftconvolve(speech, response)[: speech.size], speech, RATE))
        assert found[-1] == pytest.approx(c50, abs=0.6)
    assert found == sorted(found, reverse=True)


def test_clarity_tells_rooms_apart_in_noise_and_after_a_delay(speech):
    found = []
    for seconds in (0.2, 0.5, 1.2):
        wet = signal.fftconvolve(speech, room(seconds)[0])[: speech.size]
        found.append(facts.clarity_db(np.roll(wet, 200) + noise_like(wet, 10), speech, RATE))
    assert found == sorted(found, reverse=True)
    assert found[0] > found[1] + 1 > found[2] + 2


def test_noise_lowers_clarity(speech):
    found = [facts.clarity_db(speech + noise_like(speech, snr), speech, RATE) for snr in (30, 10, -5)]
    assert found == sorted(found, reverse=True)


def test_nothing_is_said_of_silence_or_of_almost_nothing(speech):
    silence = np.zeros_like(speech)
    for degraded, clean in ((silence, speech), (speech, silence), (speech[:100], speech[:100])):
        measured = facts.measure(degraded, clean, RATE)
        assert math.isnan(measured["clarity_db"]) and math.isnan(measured["bandwidth_hz"])
    assert math.isnan(facts.snr_db(silence, speech, RATE)) and math.isnan(facts.snr_db(speech, silence, RATE))
