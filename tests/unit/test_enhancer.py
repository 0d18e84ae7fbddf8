"""The enhancer's net and the recordings that go through it, with small random weights.

Parity with the original is in tests/parity; here is what segments, batches, noise and options may not change.
"""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL_DENOISER, SMALL_ENHANCER, small_enhancer_net

from enhance_ray import metrics
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioError, ConfigError
from enhance_ray.models.noise import noise_field
from enhance_ray.models.vocoder import Vocoder, VocoderConfig
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
QUICK = EnhanceOptions(mode="enhance", nfe=2, segment_seconds=3.0, overlap_seconds=0.25, context_seconds=0.25)


@pytest.fixture(scope="module")
def engine():
    return Enhancer(*small_enhancer_net(), device="cpu", precision="fp32")


def speech_like(seconds, channels=1, seed=0):
    """Noise with the envelope of syllables."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    envelope = 0.05 + np.abs(np.sin(2 * np.pi * 1.7 * time)) ** 3
    return (0.3 * envelope * rng.standard_normal((channels, time.size))).astype(np.float32).clip(-1, 1)


def test_the_net_answers_whole_frames_in_range(engine):
    noisy = torch.from_numpy(speech_like(1.01))
    with torch.inference_mode():
        restored = engine.net(noisy, QUICK)
    assert restored.shape == (1, noisy.shape[-1] // 420 * 420)
    assert restored.abs().max() <= 1


def test_frozen_and_in_training_s_form_it_computes_the_same():
    _, net = small_enhancer_net()
    noisy = torch.from_numpy(speech_like(0.5))
    with torch.inference_mode():
        before = net(noisy, QUICK)
        after = net.freeze()(noisy, QUICK)
    # Linear maps multiplied, weight norm folded, another order of sums: float noise through 2 evaluations.
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tile", [7, 40, 64])
def test_a_vocoder_in_tiles_is_the_whole_vocoder(tile):
    torch.manual_seed(0)
    vocoder = Vocoder(24, VocoderConfig(channels=4, predictor_hidden=8)).eval()
    features, noise = torch.randn(2, 24, 90), torch.randn(2, 128, 100)
    with torch.inference_mode():
        whole = vocoder(features, noise, tile=1000)
        tiled = vocoder(features, noise, tile=tile)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_the_margin_of_a_tile_is_not_wider_than_the_reach_needs():
    vocoder = Vocoder(24, VocoderConfig(channels=4, predictor_hidden=8))
    assert vocoder.margin == 19  # the measured reach is 17.65 frames (spec 8.4)


def test_noise_depends_on_seed_field_and_absolute_frame_alone():
    near, far = noise_field("prior", 8, [0, 700], 1000, seed=0)
    torch.testing.assert_close(near[:, 700:], far[:, :300], rtol=0, atol=0)
    again = noise_field("prior", 8, [700], 40, seed=0)[0]
    torch.testing.assert_close(far[:, :40], again, rtol=0, atol=0)
    assert not torch.equal(near, noise_field("prior", 8, [0], 1000, seed=1)[0])
    assert not torch.equal(near, noise_field("vocoder", 8, [0], 1000, seed=0)[0])
    assert near.mean().abs() < 0.05
    assert near.std() == pytest.approx(1, abs=0.05)


def test_a_recording_sounds_the_same_in_any_batch(engine):
    waveform = speech_like(11)
    one, _ = engine.enhance(waveform, RATE, QUICK)
    blocks = [waveform[:, i : i + 50_000] for i in range(0, waveform.shape[1], 50_000)]
    many = np.concatenate(list(engine.enhance_stream(blocks, RATE, 1, QUICK, batch_size=4)), axis=-1)
    # Batched products sum in another order; the solver amplifies that a little.
    np.testing.assert_allclose(many, one, atol=1e-4)


def test_both_channels_of_a_stereo_recording_see_the_same_noise(engine):
    waveform = np.repeat(speech_like(4), 2, axis=0)
    restored, _ = engine.enhance(waveform, RATE, QUICK)
    np.testing.assert_allclose(restored[0], restored[1], atol=1e-4)


def test_seeds_differ_and_repeat(engine):
    waveform = speech_like(1)
    first, again, other = (
        engine.enhance(waveform, RATE, EnhanceOptions(nfe=2, prior_temperature=1.0, seed=seed))[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_options_travel_with_the_call_and_threads_never_meet(engine):
    waveform = torch.from_numpy(speech_like(0.5))
    choices = [EnhanceOptions(nfe=nfe, prior_temperature=tau) for nfe in (1, 4) for tau in (0.0, 1.0)]
    with torch.inference_mode():
        expected = [engine.net(waveform, options) for options in choices]
    results = [None] * len(choices)

    def work(i):
        with torch.inference_mode():
            for _ in range(5):
                results[i] = engine.net(waveform, choices[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(choices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.one_of(st.integers(1, 2000), st.integers(1, 9 * RATE)),
    kind=st.sampled_from(["noise", "silence", "square", "offset"]),
    channels=st.integers(1, 2),
)
def test_any_length_and_any_signal_gives_finite_output_of_its_length(engine, samples, kind, channels):
    waveform = {
        "noise": lambda: speech_like(samples / RATE, channels),
        "silence": lambda: np.zeros((channels, samples), np.float32),
        "square": lambda: np.sign(np.sin(np.arange(samples) / 20 + 0.1))[None].repeat(channels, 0),
        "offset": lambda: np.full((channels, samples), 0.5),
    }[kind]().astype(np.float32)
    restored, rate = engine.enhance(waveform, RATE, QUICK)
    assert rate == RATE
    assert restored.shape == waveform.shape
    assert np.isfinite(restored).all()


@pytest.mark.slow
def test_long_recordings_keep_their_length(engine):
    waveform = speech_like(15)
    options = EnhanceOptions(nfe=1, segment_seconds=6.0)
    restored, _ = engine.enhance(waveform, RATE, options)
    assert restored.shape == waveform.shape
    assert np.isfinite(restored).all()


def test_a_sample_that_is_no_number_is_refused(engine):
    waveform = speech_like(5)
    waveform[0, 100_000] = np.nan
    with pytest.raises(AudioError, match=r"NaN or infinite samples at 2\.27 s"):
        engine.enhance(waveform, RATE, QUICK)


def test_silence_stays_below_what_is_heard(engine):
    restored, _ = engine.enhance(np.zeros(RATE, np.float32), RATE, QUICK)
    assert np.abs(restored).max() < 1e-3


def level(waveform):
    """RMS in dB over windows of 100 ms."""
    windows = waveform[: waveform.size // 4410 * 4410].reshape(-1, 4410)
    return 10 * np.log10(np.square(windows).mean(-1) + 1e-12)


@pytest.mark.slow
def test_no_border_of_segments_is_heard_in_a_stationary_signal(engine):
    """Levels before and after each border, against the same recording cut elsewhere."""
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(12 * RATE)).astype(np.float32)
    restored, elsewhere = (
        engine.enhance(waveform, RATE, EnhanceOptions(nfe=1, segment_seconds=seconds))[0]
        for seconds in (6.0, 8.0)
    )
    difference = level(restored) - level(elsewhere)
    for border in (5.0, 9.0, 7.0):  # the middle of a cross-fade, in seconds
        before = difference[round(10 * border) - 10 : round(10 * border) - 5].mean()
        after = difference[round(10 * border) + 5 : round(10 * border) + 10].mean()
        assert abs(after - before) < 0.5  # dB
    # A click is steeper than the signal ever is.
    steepest = np.abs(np.diff(restored)).max() / np.abs(np.diff(elsewhere)).max()
    assert steepest == pytest.approx(1, abs=0.1)


def test_a_denoiser_alone_refuses_to_enhance_before_work_starts():
    denoiser, _ = small_enhancer_net()
    with pytest.raises(ConfigError, match="mode: this model is a denoiser alone"):
        Enhancer(denoiser, device="cpu").enhance(speech_like(1), RATE)


def test_a_solver_that_would_do_nothing_is_refused_before_work_starts(engine):
    with pytest.raises(ConfigError, match="nfe: rk4"):
        engine.enhance_stream([], RATE, 1, EnhanceOptions(solver="rk4", nfe=3)).__next__()


def test_bf16_stays_close_to_fp32(engine):
    waveform = speech_like(3)
    exact, _ = engine.enhance(waveform, RATE, QUICK)
    rounded, _ = Enhancer(*small_enhancer_net(), device="cpu", precision="bf16").enhance(
        waveform, RATE, QUICK
    )
    ratio = np.sum((rounded - exact) ** 2) / np.sum(exact**2)
    assert 10 * np.log10(ratio) < -25
    assert metrics.lsd(rounded[0], exact[0], RATE) < 0.2  # 2 dB


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"nfe": 0}, "nfe"),
        ({"denoise_strength": 1.1}, "denoise_strength"),
        ({"prior_temperature": -0.1}, "prior_temperature"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=named):
        EnhanceOptions(**wrong)


def test_frames_of_denoiser_and_vocoder_must_agree():
    from enhance_ray.models.enhancer import EnhancerNet

    with pytest.raises(ConfigError, match="strides"):
        EnhancerNet(SMALL_ENHANCER.__class__(vocoder=VocoderConfig(strides=(2, 2))), SMALL_DENOISER)
