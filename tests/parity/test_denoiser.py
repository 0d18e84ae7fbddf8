"""U-Net, denoiser and the denoiser's training step against the original's."""

import pytest
import torch
from parity.fixtures import Fixture

from enhance_ray.dsp.stft import stft
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig, normalise_peak
from enhance_ray.models.unet import UNet
from enhance_ray.training.losses import DenoiserLossConfig
from enhance_ray.training.stages import denoiser_step

TINY = DenoiserConfig(hidden=16, blocks=1, middle_blocks=1)


def build_unet(fixture: Fixture) -> UNet:
    hyper = fixture.hyper
    unet = UNet(
        hyper.get("input_dim", 3),
        hyper.get("output_dim", 3),
        hidden=hyper["hidden_dim"],
        blocks=hyper["num_blocks"],
        middle_blocks=hyper["num_middle_blocks"],
    )
    unet.load_state_dict(fixture.weights())
    return unet


def build_denoiser(fixture: Fixture, config: DenoiserConfig) -> Denoiser:
    denoiser = Denoiser(config)
    # A standalone denoiser of the original also stores a mel front end, which it never uses here.
    denoiser.load_state_dict({k: v for k, v in fixture.weights().items() if k.startswith("net.")})
    return denoiser


@pytest.mark.parametrize("name", ["unet/tiny", "unet/two_levels", "unet/full"])
@torch.inference_mode()
def test_unet_is_the_originals(name):
    fixture = Fixture(name)
    fixture.check("y", build_unet(fixture)(fixture.input("x")))


@torch.inference_mode()
def test_two_swapped_channels_are_seen():
    fixture = Fixture("unet/full")
    unet = build_unet(fixture)
    unet.input_proj.weight.data = unet.input_proj.weight.data[:, [1, 0, 2]]
    with pytest.raises(AssertionError):
        fixture.check("y", unet(fixture.input("x")))


@pytest.mark.parametrize(
    ("name", "config"),
    [("denoiser/tiny", TINY), ("denoiser/tiny_silence", TINY), ("denoiser/full", DenoiserConfig())],
)
@torch.inference_mode()
def test_denoised_waveform_is_the_originals(name, config):
    fixture = Fixture(name)
    fixture.check("wav", build_denoiser(fixture, config)(fixture.input("x")))


@torch.inference_mode()
def test_masked_and_rotated_spectrum_is_the_originals():
    """Compared as a complex spectrum: a phase alone is ill-defined where the magnitude is float noise."""
    fixture = Fixture("denoiser/tiny_stages")
    waveform = normalise_peak(Fixture("denoiser/tiny").input("x"))
    spectrum = stft(waveform, n_fft=1680, hop=420)
    frames = slice(3, 9)
    torch.testing.assert_close(
        spectrum[:1, :, frames].abs(), fixture.output("mag"), atol=fixture.tolerance("mag"), rtol=0
    )
    filtered = build_denoiser(fixture, TINY).filter_spectrum(spectrum)[:1, :, frames]
    expected = torch.polar(
        fixture.output("sep_mag"), torch.atan2(fixture.output("sep_sin"), fixture.output("sep_cos"))
    )
    # (cos, sin) of the original is not quite of unit length (spec 3.1 step 5), polar() makes it so:
    # hence the length is put back.
    expected = expected * torch.hypot(fixture.output("sep_sin"), fixture.output("sep_cos"))
    # A phase that is off by its tolerance moves a bin by its magnitude's share of it.
    phase_tolerance = fixture.entry["outputs"]["sep_sin"]["atol_same_math"]
    allowed = fixture.tolerance("sep_mag") + expected.abs() * phase_tolerance
    assert ((filtered - expected).abs() <= allowed).all()


def test_loss_and_gradients_of_a_training_step_are_the_originals():
    fixture = Fixture("training/denoiser")
    denoiser = build_denoiser(fixture, TINY)
    noisy, clean = fixture.input("x"), fixture.input("y")
    result = denoiser_step(denoiser, noisy, clean, DenoiserLossConfig())
    result.loss.backward()

    fixture.check("loss.losses/l1", result.loss.detach())
    with torch.inference_mode():
        fixture.check("pred", denoiser(noisy))
    parameters = dict(denoiser.named_parameters())
    norms = [parameters[key].grad.norm() for key in fixture.entry["grad_norms_order"]]
    rtol = fixture.entry["outputs"]["grad_norms"]["rtol"]
    torch.testing.assert_close(
        torch.stack(norms), fixture.output("grad_norms"), atol=fixture.tolerance("grad_norms"), rtol=rtol
    )
