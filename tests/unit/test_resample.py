import math

import numpy as np
import pytest
import torch
from golden import torchaudio_numbers

from enhance_ray.dsp import resample
from enhance_ray.dsp.resample import StreamingResampler

USUAL_RATES = torchaudio_numbers.RATES


def noise(channels, samples):
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(samples))


def tone(rate, frequency, seconds=0.5):
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * frequency * time).float()[None]


def stream(waveform, rate, sizes):
    resampler = StreamingResampler(rate, 44_100, channels=len(waveform))
    outputs = [resampler.push(block) for block in waveform.split(sizes, dim=-1)]
    return torch.cat([*outputs, resampler.finish()], dim=-1)


@pytest.mark.parametrize("rate", USUAL_RATES)
def test_it_equals_torchaudio_with_the_reference_settings(rate):
    waveform = torch.from_numpy(torchaudio_numbers.noise(2, rate // 2 + 7))
    with np.load(torchaudio_numbers.NUMBERS) as numbers:
        expected = torch.from_numpy(numbers[f"resample/{rate}"])
    # The same weights, summed in another order; a float64 filter would be off by up to 3e-5.
    torch.testing.assert_close(resample.resample(waveform, rate, 44_100), expected, rtol=0, atol=1.5e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000, 44_056])
@pytest.mark.parametrize("size", [1, 441, 4_801])
def test_a_stream_has_the_same_bits_wherever_it_is_cut(rate, size):
    waveform = noise(2, 3_001 if size == 1 else rate + 13)
    assert torch.equal(stream(waveform, rate, size), resample.resample(waveform, rate, 44_100))


def test_a_stream_has_the_same_bits_for_blocks_of_any_mixture_of_sizes():
    waveform = noise(1, 50_000)
    sizes = [0, 1, 20_000, 7, 0, 29_991, 1]
    assert torch.equal(stream(waveform, 16_000, sizes), resample.resample(waveform, 16_000, 44_100))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_056, 48_000, 192_000])
@pytest.mark.parametrize("samples", [0, 1, 2, 159, 160, 161, 7_919])
def test_the_length_is_rounded_up_to_a_whole_sample(rate, samples):
    assert resample.resample(noise(1, samples), rate, 44_100).shape == (1, -(-samples * 44_100 // rate))


@pytest.mark.parametrize("rate", [*USUAL_RATES, 4_000, 11_127, 44_056, 47_999])
def test_a_tone_stays_the_tone_at_any_rate(rate):
    resampled = resample.resample(tone(rate, 997), rate, 44_100)
    inner = slice(4_000, 18_000)  # away from the ends, where the tone is cut off
    # Float32 weights (see `resample._weights`) leave 3e-5; the rest is far below.
    torch.testing.assert_close(resampled[:, inner], tone(44_100, 997)[:, inner], rtol=0, atol=4e-5)


def test_what_the_output_rate_cannot_hold_is_removed():
    above_nyquist = tone(96_000, 24_000)
    assert resample.resample(above_nyquist, 96_000, 44_100)[:, 4_000:-4_000].abs().max() < 1e-4


def test_an_unchanged_rate_returns_the_samples_untouched():
    waveform = noise(2, 1_000)
    assert torch.equal(resample.resample(waveform, 44_100, 44_100), waveform)
    assert torch.equal(stream(waveform, 44_100, 99), waveform)


def test_a_stream_holds_back_less_than_half_a_second():
    resampler = StreamingResampler(48_000, 44_100)
    received = returned = 0
    for _ in range(50):
        received += 4_800
        returned += resampler.push(noise(1, 4_800)).shape[-1]
        assert received / 48_000 - returned / 44_100 < 0.5
