"""Where the band of a recording ends: found where something was cut off, and nowhere else."""

import math

import numpy as np
import pytest
import torch
from scipy import signal

from enhance_ray.dsp.bandwidth import BandMeter
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.framing import Framing
from enhance_ray.settings.options import EnhanceOptions
from enhance_ray.training import degrade

RATE = 44_100


def talk(seconds=6.0, seed=0):
    """Syllables with the slope of speech up to the top, every third of them a sibilant."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    voiced = signal.lfilter([1], [1, -1.6, 0.68], rng.standard_normal(time.size))
    hissed = signal.lfilter([1, -0.9], [1], rng.standard_normal(time.size))
    syllable = np.floor(4 * time) % 3 == 2
    sound = np.where(syllable, 0.3 * hissed / hissed.std(), voiced / voiced.std())
    sound = sound * np.maximum(0, np.sin(2 * np.pi * 4 * time)) + 1e-4 * rng.standard_normal(time.size)
    return (sound / np.abs(sound).max()).astype(np.float32)


def cut(waveform, sample_rate=RATE):
    meter = BandMeter(1, sample_rate)
    meter.push(torch.from_numpy(waveform)[None])
    return float(meter.cuts[0])


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 32_000])
def test_a_recording_of_a_lower_rate_ends_near_half_of_it(rate):
    assert cut(degrade.limit_bandwidth(talk(), RATE, rate)) == pytest.approx(rate / 2, rel=0.06)


def test_a_recording_that_has_everything_does_not_end():
    assert math.isinf(cut(talk()))
    noisy = talk() + 0.1 * np.random.default_rng(1).standard_normal(6 * RATE).astype(np.float32)
    assert math.isinf(cut(noisy))


def test_a_voice_that_is_dark_was_not_cut():
    """A second-order low-pass at 2 kHz, as a cloth over the microphone."""
    b, a = signal.butter(2, 2000, fs=RATE)
    assert math.isinf(cut(signal.lfilter(b, a, talk()).astype(np.float32)))


def test_a_telephone_s_band_is_found_under_hiss():
    telephone = degrade.filter_band(talk(), RATE, low=300, high=3400, taps=400)
    telephone /= np.abs(telephone).max()
    hiss = 3e-3 * np.random.default_rng(1).standard_normal(telephone.size).astype(np.float32)
    assert cut(telephone + hiss) == pytest.approx(3400, abs=400)


def test_clicks_and_lost_packets_hide_no_cut():
    rng = np.random.default_rng(3)
    narrow = degrade.limit_bandwidth(talk(), RATE, 8000)
    lossy = degrade.PacketLoss(loss=(0.05, 0.05), burst=(3, 3))(narrow, RATE, rng)
    lossy[rng.integers(0, lossy.size, 20)] = 0.9
    assert cut(lossy) == pytest.approx(4000, abs=300)


def test_a_rate_says_what_is_missing_where_too_little_sounds():
    assert cut(np.zeros(RATE, np.float32), 8000) == pytest.approx(0.95 * 4000)
    assert math.isinf(cut(np.zeros(RATE, np.float32)))


def test_channels_end_where_each_of_them_does():
    whole, narrow = talk(), degrade.limit_bandwidth(talk(seed=1), RATE, 8000)
    meter = BandMeter(2, RATE)
    meter.push(torch.from_numpy(np.stack([whole, narrow])))
    assert math.isinf(meter.cuts[0])
    assert float(meter.cuts[1]) == pytest.approx(4000, abs=300)


def test_a_recording_s_pieces_know_the_band_however_it_arrives():
    """And a piece in which nobody speaks knows it from before."""
    narrow = degrade.limit_bandwidth(talk(9), RATE, 8000)
    waveform = torch.from_numpy(np.concatenate([narrow, np.zeros(9 * RATE, np.float32)]))[None]
    options = EnhanceOptions(mode="enhance", segment_seconds=4.0, overlap_seconds=0.5, context_seconds=0.2)

    def cuts(sizes):
        analysis = Analysis(Framing(keeps_waves=True), RATE, 1, options, name="it")
        return [float(piece.cuts[0]) for piece in analysis.pieces(waveform.split(sizes, dim=-1))]

    at_once = cuts(waveform.shape[-1])
    assert cuts(10_007) == at_once
    assert at_once == pytest.approx([4000] * len(at_once), abs=300)
