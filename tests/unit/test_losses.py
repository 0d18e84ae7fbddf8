"""Losses against closed forms."""

import pytest
import torch

from enhance_ray.errors import ConfigError
from enhance_ray.training.losses import DenoiserLossConfig, compressed_spectral_loss, denoiser_loss
from enhance_ray.training.stages import denoiser_step


@pytest.fixture
def waveform():
    return torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))


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


def test_silence_has_a_finite_gradient(waveform):
    silence = torch.zeros_like(waveform, requires_grad=True)
    loss(silence, waveform, 0.3).backward()
    assert silence.grad.isfinite().all()


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
    "settings", [{"waveform": 0.0}, {"waveform": -1.0}, {"complex_share": 2.0}, {"resolutions": ()}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DenoiserLossConfig(**settings)
