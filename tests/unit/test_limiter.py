"""A limiter keeps every true peak below its limit, and what is far from one as it was."""

import numpy as np
import pytest
import torch

from enhance_ray.dsp.limiter import ATTACK, RELEASE, STEP, Ceiling, Limiter, TruePeaks
from enhance_ray.engine import levels

RATE = 44_100


def true_peaks(waveform, block=10_007):
    peaks = TruePeaks(len(waveform))
    for part in torch.as_tensor(waveform).split(block, dim=-1):
        peaks.push(part)
    return peaks.finish()


def oversampled_peak(waveform, factor=16):
    """Another way: zeros behind the spectrum, of a recording that fades out at its ends."""
    spectrum = np.fft.rfft(waveform, axis=-1)
    length = factor * waveform.shape[-1]
    padded = np.zeros((*spectrum.shape[:-1], length // 2 + 1), complex)
    padded[..., : spectrum.shape[-1]] = spectrum
    return np.abs(np.fft.irfft(padded, length, axis=-1)).max() * factor


def speech_like(seconds, channels=1, seed=0):
    """Bursts of coloured noise with high peaks."""
    rng = np.random.default_rng(seed)
    noise = rng.laplace(size=(channels, int(seconds * RATE)))
    noise = np.apply_along_axis(lambda row: np.convolve(row, [0.25, 0.5, 0.25], "same"), 1, noise)
    time = np.arange(noise.shape[1]) / RATE
    envelope = np.clip(np.sin(2 * np.pi * 1.3 * time), 0.02, None) * np.minimum(1, 8 * (seconds - time))
    return (0.05 * noise * envelope).astype(np.float32)


@pytest.mark.parametrize("phase", np.linspace(0, np.pi / 2, 7))
@pytest.mark.parametrize("hertz", [1000, RATE / 4, 15_000])
def test_the_peak_between_the_samples_is_seen(hertz, phase):
    wave = np.sin(2 * np.pi * hertz * np.arange(4410) / RATE + phase)[None].astype(np.float32)

    found = true_peaks(wave)

    assert len(found) == -(-4410 // STEP)
    # A peak may lie 1/8 of a sample beside the four points: 1 - cos(pi / 8 * f / Nyquist) is missed.
    missed = 1 - np.cos(np.pi / 8 * hertz / (RATE / 2))
    assert found[20:80].max() == pytest.approx(1, abs=missed + 0.005)


def test_the_blocks_of_a_stream_do_not_matter():
    waveform = speech_like(1, channels=2)

    np.testing.assert_array_equal(true_peaks(waveform, 333), true_peaks(waveform, 100_000))


@pytest.mark.parametrize("gain", [3.0, 9.0, 15.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_no_true_peak_passes_the_limit(gain, channels):
    waveform = speech_like(5, channels)
    peaks = true_peaks(waveform)
    limiter = Limiter(peaks, gain, -1.0)

    limited = waveform * limiter.gains(0, waveform.shape[1])

    needed = max(0.0, gain + 20 * np.log10(peaks.max()) + 1.0)
    assert limiter.reduction == pytest.approx(needed, abs=1e-4)
    assert 20 * np.log10(oversampled_peak(limited)) < -0.9


def test_gains_move_slowly_and_rest_where_nothing_is_near():
    waveform = np.full((1, 4 * RATE), 0.01, np.float32)
    waveform[0, 2 * RATE] = 1.0
    limiter = Limiter(true_peaks(waveform), 6.0, -1.0)

    gains = np.concatenate([limiter.gains(start, start + 5000) for start in range(0, 4 * RATE, 5000)])
    decibels = 20 * np.log10(gains)

    assert np.abs(np.diff(decibels)).max() < 1.2 * ATTACK / STEP
    assert decibels[2 * RATE] < 6.0 - 7.0 + 0.01
    np.testing.assert_array_equal(gains[: 2 * RATE - 10 * STEP], gains[0])
    np.testing.assert_array_equal(gains[-RATE:], gains[0])


def test_what_needs_no_limiter_keeps_its_wave_exactly():
    limiter = Limiter(true_peaks(speech_like(2)), 0.0, -1.0)

    assert limiter.reduction == 0
    np.testing.assert_array_equal(limiter.gains(0, 1000), 1)


@pytest.mark.parametrize(("target", "limit"), [(-16, -1.0), (-20, -3.0), (-23, -6.0), (-30, -1.0)])
@pytest.mark.parametrize("click", [0.0, 0.99])
def test_a_loudness_is_reached_and_the_limit_kept(target, limit, click):
    waveform = torch.from_numpy(speech_like(8, channels=2))
    waveform[:, 3 * RATE] += click
    spool = levels.LoudnessSpool(target, limit)
    for block in waveform.split(30_000, dim=-1):
        spool.add(block)

    output = torch.cat(list(spool.drain()), dim=-1)

    meter = levels.Meter(RATE, 2)
    meter.push(output)
    assert output.shape == waveform.shape
    assert meter.loudness == pytest.approx(target, abs=0.1)
    assert 20 * np.log10(oversampled_peak(output.numpy())) < limit + 0.1
    assert spool.reduction > 1 or (target, click) != (-16, 0.99)
    assert spool.warning is None


def below_ceiling(waveform, block):
    ceiling = Ceiling(len(waveform))
    parts = [ceiling.push(part) for part in torch.as_tensor(waveform).split(block, dim=-1)]
    return torch.cat([*parts, ceiling.finish()], dim=-1).numpy(), ceiling.reduction


@pytest.mark.parametrize("block", [37, 4410, 1_000_000])
def test_a_stream_stays_within_full_scale_whatever_its_blocks(block):
    waveform = 12 * speech_like(3, channels=2)
    highest = 20 * np.log10(np.abs(waveform).max())
    assert 6 < highest < 30

    limited, reduction = below_ceiling(waveform, block)

    assert limited.shape == waveform.shape
    assert np.abs(limited).max() <= 1 + 1e-6
    assert reduction == pytest.approx(highest, abs=1e-3)
    np.testing.assert_array_equal(limited, below_ceiling(waveform, 44_100)[0])
    # The gain moves at the limiter's pace, and both channels have the same.
    gains = 20 * np.log10((limited / np.where(waveform == 0, 1, waveform)).clip(1e-9))
    audible = np.abs(waveform).min(0) > 1e-4
    np.testing.assert_allclose(gains[0, audible], gains[1, audible], atol=1e-3)
    steps = np.array([gains[0, i : i + STEP][audible[i : i + STEP]].mean() for i in range(0, 3 * RATE, STEP)])
    steps = steps[np.isfinite(steps)]
    assert np.diff(steps).min() > -2 * ATTACK
    assert np.diff(steps).max() < 4 * RELEASE + 0.05


def test_what_fits_keeps_every_bit_and_so_does_what_is_far_from_a_peak():
    waveform = 2 * speech_like(3)
    waveform *= 0.99 / np.abs(waveform).max()
    limited, reduction = below_ceiling(waveform, 1000)
    np.testing.assert_array_equal(limited, waveform)
    assert reduction == 0

    waveform[0, RATE] = 2.0
    limited, reduction = below_ceiling(waveform, 1000)
    assert reduction == pytest.approx(6.02, abs=0.01)
    np.testing.assert_array_equal(limited[:, : RATE - 10 * STEP], waveform[:, : RATE - 10 * STEP])
    np.testing.assert_array_equal(limited[:, RATE + 110 * STEP :], waveform[:, RATE + 110 * STEP :])
