"""Losses against closed forms."""

import functools
import math
import sys
from pathlib import Path

import pytest
import soundfile
import torch

from enhance_ray import metrics
from enhance_ray.dsp.mel import erb_weights
from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.disturbance import disturbance_loss
from enhance_ray.training.dnsmos import DnsmosNet, dnsmos_loss
from enhance_ray.training.losses import (
    DenoiserLossConfig,
    compressed_spectral_loss,
    denoiser_loss,
    gap_loss,
    loudness_loss,
)
from enhance_ray.training.stages import denoiser_step

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def waveform():
    return torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))


@functools.cache
def read_speech():
    """Four seconds at the model's rate."""
    samples, rate = soundfile.read(SAMPLES / "clean" / "kathleen_helicopter.flac", dtype="float32")
    assert rate == MODEL_RATE
    return torch.from_numpy(samples[: 4 * rate])


def narrow(waveform):
    return metrics.resample(waveform.numpy(), MODEL_RATE, 16_000)


def loss(estimate, target, complex_share):
    return compressed_spectral_loss(estimate, target, window_length=512, complex_share=complex_share)


def test_equal_waveforms_cost_nothing(waveform):
    assert loss(waveform, waveform, 0.5) == 0


def test_a_gain_costs_what_compression_makes_of_it(waveform):
    """|S|^0.3 scales by gain^0.3, so loss(gain x, x) is proportional to (gain^0.3 - 1)^2 for both parts."""
    for share in (0.0, 1.0):
        ratio = loss(0.25 * waveform, waveform, share) / loss(2 * waveform, waveform, share)
        assert ratio.item() == pytest.approx(((0.25**0.3 - 1) / (2**0.3 - 1)) ** 2, rel=1e-3)


def test_only_the_complex_part_hears_the_sign(waveform):
    assert loss(-waveform, waveform, 0.0) == 0
    assert loss(-waveform, waveform, 1.0) > 1


def test_phases_count_where_the_guide_has_them(waveform):
    def cost(guide):
        return compressed_spectral_loss(
            -waveform, waveform, window_length=512, complex_share=0.0, guide=guide, guided_share=0.5
        )

    assert cost(torch.zeros_like(waveform)) < 1e-3
    torch.testing.assert_close(cost(100 * waveform), loss(-waveform, waveform, 0.5), rtol=1e-2, atol=0)


def test_gaps_hear_decibels_and_no_phases(waveform):
    """Noise of another seed is as good as the one that was there, up to chance; 20 dB less costs two."""
    nothing, other = torch.zeros_like(waveform), waveform.flip(-1)
    assert gap_loss(other, waveform, nothing) < 0.2
    for gain in (0.1, 10.0):
        cost = gap_loss(gain * waveform, waveform, nothing).item()
        assert cost == pytest.approx(2, rel=0.01)


def test_gaps_are_where_the_guide_is_silent(waveform):
    """Of a guide that has the lower half of the band, the upper half counts."""
    bins = torch.fft.rfft(waveform)
    half = bins.shape[-1] // 2
    low, high = bins.clone(), bins.clone()
    low[:, half:], high[:, :half] = 0, 0
    guide, above = (torch.fft.irfft(part, n=waveform.shape[-1]) for part in (low, high))
    too_quiet = gap_loss(waveform - 0.9 * above, waveform, guide).item()
    assert too_quiet == pytest.approx(1, rel=0.05)  # 20 dB in half of the bins
    assert gap_loss(waveform - 0.9 * guide, waveform, guide) < 0.15 * too_quiet


def test_silence_has_no_gaps_and_its_gradient_is_finite(waveform):
    nothing = torch.zeros_like(waveform, requires_grad=True)
    gap_loss(nothing, torch.zeros_like(waveform), torch.zeros_like(waveform)).backward()
    assert nothing.grad.isfinite().all()
    assert gap_loss(1e-3 * waveform, torch.zeros_like(waveform), torch.zeros_like(waveform)) < 1e-3


@pytest.mark.parametrize(("gain", "factor"), [(0.5, 2.5), (2.0, 1.0)])
def test_what_was_taken_away_costs_more_than_what_was_left(waveform, gain, factor):
    even = loss(gain * waveform, waveform, 0.0)
    uneven = compressed_spectral_loss(
        gain * waveform, waveform, window_length=512, complex_share=0.0, over_suppression=2.5
    )
    assert (uneven / even).item() == pytest.approx(factor, rel=1e-4)


def test_bins_weigh_what_they_take_up_of_the_ears_scale():
    """The ERB-rate scale, 21.4 log10(1 + 0.00437 f), is the integral of the weights."""
    weights = erb_weights(22_051, 44_100)  # bins of 1 Hz
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    share = weights[:1000].sum() / weights.sum()
    expected = torch.log(torch.tensor(1 + 4.37)) / torch.log(torch.tensor(1 + 4.37 * 22.05))
    assert share.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_tone_weighs_by_the_share_of_the_ears_scale_that_was_asked_for():
    """Half even and half by ear: a tone's cost changes by 1/2 + weight/2."""
    samples = torch.arange(44_100)
    fade = torch.hann_window(44_100)  # its ends would click, which is every frequency
    weights = erb_weights(257)
    for bin_ in (8, 128):  # whole turns in a window: without compression the tone lies in three bins
        tone = (fade * torch.sin(2 * torch.pi * bin_ / 512 * samples))[None]

        def cost(share, tone=tone):
            return compressed_spectral_loss(
                0.5 * tone, tone, window_length=512, complex_share=0.3, power=1.0, erb_share=share
            )

        expected = 0.5 + 0.5 * weights[bin_].item()
        assert (cost(0.5) / cost(0.0)).item() == pytest.approx(expected, rel=0.02)


def test_loudness_is_a_power_of_energy_and_deaf_to_phases(waveform):
    """Energy to the power of 0.23: a gain g makes of it g^0.46."""
    ratio = loudness_loss(0.5 * waveform, waveform) / loudness_loss(2 * waveform, waveform)
    assert ratio.item() == pytest.approx((1 - 0.5**0.46) / (2**0.46 - 1), rel=1e-3)
    assert loudness_loss(-waveform, waveform) == 0
    total, parts = denoiser_loss(0.5 * waveform, waveform, DenoiserLossConfig(waveform=0.0, loudness=3.0))
    torch.testing.assert_close(total, 3 * loudness_loss(0.5 * waveform, waveform))
    assert parts.keys() == {"loudness"}


def test_silence_has_a_finite_gradient(waveform):
    silence = torch.zeros_like(waveform, requires_grad=True)
    (
        loss(silence, waveform, 0.3) + loudness_loss(silence, waveform) + dnsmos_loss(silence, waveform)
    ).backward()
    assert silence.grad.isfinite().all()


def test_nothing_is_disturbed_where_nothing_was_to_be_heard(waveform):
    heard = waveform.clone().requires_grad_()
    taken = disturbance_loss(heard, torch.zeros_like(waveform))
    taken.backward()
    assert taken == 0 and heard.grad.isfinite().all()


@pytest.mark.parametrize("damage", ["noise", "holes"])
def test_a_disturbance_is_what_wideband_pesq_takes_off(damage):
    """Its answer, mapped as P.862.2 says, beside that of the reference implementation."""
    pesq = pytest.importorskip("pesq")
    speech = narrow(read_speech())
    ours, theirs = [], []
    for amount in (0.003, 0.01, 0.03, 0.1):
        generator = torch.Generator().manual_seed(1)
        heard = read_speech()
        if damage == "noise":
            heard = heard + amount * torch.randn(heard.shape, generator=generator)
        else:
            blocks = torch.rand(heard.numel() // 441 + 1, generator=generator) < amount
            heard = heard * ~blocks.repeat_interleave(441)[: heard.numel()]
        taken = disturbance_loss(heard[None], read_speech()[None]).item()
        ours.append(0.999 + 4 / (1 + math.exp(-1.3669 * (4.5 - taken) + 3.8224)))
        theirs.append(pesq.pesq(16_000, speech, narrow(heard), "wb"))
    assert sorted(ours, reverse=True) == ours
    assert ours == pytest.approx(theirs, abs=0.8)


def test_the_network_of_dnsmos_rates_as_the_metric_does():
    speech = narrow(read_speech())
    window = round(metrics.DNSMOS_SECONDS * 16_000)
    for level in (0, 0.01, 0.1):
        noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(1)).numpy()
        heard = (speech + level * noise).clip(-1, 1)
        whole = torch.from_numpy(heard).repeat(4)[None, :window]  # the metric doubles what is shorter
        ours = DnsmosNet()(whole)[0].tolist()
        assert ours == pytest.approx(list(metrics.dnsmos(whole[0].numpy(), 16_000).values()), abs=1e-3)


def test_dnsmos_minds_noise_and_leaves_alone_what_is_right():
    speech = read_speech()[None]
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(1))
    costs = [dnsmos_loss(speech + level * noise, speech).item() for level in (0, 0.001, 0.01, 0.1)]
    assert costs[0] == 0 and costs == sorted(costs) and costs[-1] > 1


def test_dnsmos_leads_away_from_noise():
    """A step against its gradient takes from the gain of noise, and not from that of speech."""
    speech = read_speech()[None]
    noise = 0.03 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(1))
    gains = torch.ones(2, requires_grad=True)
    dnsmos_loss(gains[0] * speech + gains[1] * noise, speech).backward()
    assert gains.grad[1] > 0 > gains.grad[0]


def test_the_loss_of_dnsmos_names_the_package_and_the_extra_that_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"loss: need the package onnx: .*enhance-ray\[train\]"):
        DnsmosNet()


def test_parts_are_weighted_and_named(waveform):
    config = DenoiserLossConfig(waveform=2.0, spectrum=3.0, resolutions=(512,), complex_share=0.3)
    total, parts = denoiser_loss(0.5 * waveform, waveform, config)
    torch.testing.assert_close(parts["l1"], 2 * 0.5 * waveform.abs().mean())
    torch.testing.assert_close(parts["spectrum"], 3 * loss(0.5 * waveform, waveform, 0.3))
    torch.testing.assert_close(total, parts["l1"] + parts["spectrum"])


def test_keeping_the_level_makes_the_input_itself_the_perfect_answer_without_noise(waveform):
    """A denoiser answers at the level of the peak-normalised input."""

    class PeakNormalise(torch.nn.Module):
        def forward(self, waveform):
            return waveform / waveform.abs().amax(-1, keepdim=True)

    quiet_speech = 0.01 * waveform
    noisy = quiet_speech.clone()
    noisy[:, 0] = 1.0  # a click decides the peak, and with it the level at which the net answers
    kept = denoiser_step(PeakNormalise(), noisy, quiet_speech, DenoiserLossConfig(keep_level=True))
    original = denoiser_step(PeakNormalise(), noisy, quiet_speech, DenoiserLossConfig())
    assert kept.loss < 1e-3 < original.loss


@pytest.mark.parametrize(
    "settings",
    [
        {"waveform": 0.0},
        {"waveform": -1.0},
        {"complex_share": 2.0},
        {"erb_share": -0.5},
        {"over_suppression": 0.0},
        {"resolutions": ()},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DenoiserLossConfig(**settings)
