"""Convolutions in tiles are convolutions, at any length, dilation and batch."""

import copy

import pytest
import torch
from torch.nn import functional as F

from enhance_ray.models import layers, winograd
from enhance_ray.models.autoencoder import Autoencoder, AutoencoderConfig
from enhance_ray.models.flow import Flow
from enhance_ray.models.wavenet import VelocityConfig, VelocityField

CHANNELS, CHANNELS_OUT = 48, 40


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(actual, expected):
    """Relative, over all elements."""
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dilation", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("time", [1, 2, 5, 6, 7, 16, 97, 191, 192, 193, 301])
def test_it_is_the_convolution_at_every_length_and_dilation(time, dilation):
    x, weight = draw(3, time, CHANNELS), draw(CHANNELS_OUT, CHANNELS, 3, seed=1)
    exact = F.conv1d(
        x.transpose(1, 2).double(), weight.double(), padding=dilation, dilation=dilation
    ).transpose(1, 2)
    actual = winograd.convolve(x, winograd.transformed(weight), dilation)
    assert actual.shape == exact.shape
    # Observed: 0.5e-6 to 1.2e-6.
    assert distance(actual, exact) < 2e-6


def test_in_float64_it_is_exact():
    x, weight = draw(2, 50, 7).double(), draw(5, 7, 3, seed=1).double()
    exact = F.conv1d(x.transpose(1, 2), weight, padding=4, dilation=4).transpose(1, 2)
    actual = winograd.convolve(x, winograd.transformed(weight), 4)
    torch.testing.assert_close(actual, exact, rtol=0, atol=1e-12)


def test_a_bias_of_the_input_is_not_in_the_zeros_around_it():
    x, weight, bias = draw(2, 30, 7), draw(5, 7, 3, seed=1), draw(1, 1, 7, seed=2)
    biased = (x + bias).transpose(1, 2).double()
    exact = F.conv1d(biased, weight.double(), padding=2, dilation=2).transpose(1, 2)
    assert distance(winograd.convolve(x, winograd.transformed(weight), 2, bias), exact) < 2e-6


def test_a_frame_hears_the_same_wherever_its_tile_begins():
    x, weights = draw(1, 200, CHANNELS), winograd.transformed(draw(CHANNELS_OUT, CHANNELS, 3, seed=1))
    whole = winograd.convolve(x, weights, 4)
    for first in range(1, 25):
        later = winograd.convolve(x[:, first:], weights, 4)
        # Rounding differs from place to place of a tile: observed, 8e-7.
        assert distance(later[:, 4:], whole[:, first + 4 :]) < 2e-6


@pytest.mark.parametrize("rows", [1, 3])
@torch.inference_mode()
def test_a_frozen_velocity_field_is_the_one_that_was_trained(rows):
    torch.manual_seed(0)
    trained = Flow(VelocityField(8, 24, VelocityConfig(hidden=192, layers=6, time_channels=16)))
    frozen = copy.deepcopy(trained)
    layers.freeze(frozen, torch.float32)
    assert not hasattr(frozen.net.layers[0], "dconv")
    x, mel, t = draw(rows, 8, 75), draw(rows, 24, 75, seed=1), torch.linspace(0.1, 0.9, rows)
    # Observed: 1e-6, of which the trained one's own rounding is half.
    assert distance(frozen(x, t, mel), trained(x, t, mel)) < 3e-6


@torch.inference_mode()
def test_a_frozen_autoencoder_is_the_one_that_was_trained():
    torch.manual_seed(0)
    trained = Autoencoder(24, AutoencoderConfig(latent=8, extra=4, hidden=256, blocks=1)).eval()
    mel = draw(2, 24, 75)
    before = trained.encode(mel), trained.decode(draw(2, 8, 75))
    layers.freeze(trained, torch.float32)
    assert trained.encoder[1][2].tile_weights is not None
    for actual, expected in zip((trained.encode(mel), trained.decode(draw(2, 8, 75))), before, strict=True):
        assert distance(actual, expected) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_wide_convolutions_of_three_taps_in_float32_are_computed_so(dtype):
    sizes = {"wide": (256, 512, 3), "narrow": (64, 64, 3), "one tap": (512, 512, 1), "five": (512, 512, 5)}
    convs = torch.nn.ModuleDict({name: layers.Conv1d(*size) for name, size in sizes.items()})
    layers.freeze(convs, dtype)
    chosen = {name for name, conv in convs.items() if conv.tile_weights is not None}
    assert chosen == ({"wide"} if dtype == torch.float32 else set())
