"""A wider denoiser begins where a trained one stands."""

import sys

import pytest
import torch

from enhance_ray import checkpoint
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.errors import ConfigError
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig
from enhance_ray.training import widen as command
from enhance_ray.training.widen import widen

# Norms at 16 channels and more have groups of 16, which a net of twice the width has twice.
WHOLE_GROUPS = DenoiserConfig(
    hidden=16, blocks=2, middle_blocks=2, recurrent=8, features="compressed", bands=48
)


def trained(config):
    torch.manual_seed(0)
    net = Denoiser(config).eval()
    if net.net.recurrent is not None:
        torch.nn.init.normal_(net.net.recurrent.out.weight, std=0.1)
    return net


def test_a_net_of_twice_the_width_answers_as_the_one_that_it_came_from():
    net, waveform = trained(WHOLE_GROUPS), torch.randn(2, 20_000)
    wide = widen(net, 32)
    assert wide.config.hidden == 32 and not wide.training
    with torch.inference_mode():
        torch.testing.assert_close(wide(waveform), net(waveform), rtol=1e-4, atol=1e-5)


def test_copies_of_a_channel_learn_to_be_two():
    wide = widen(trained(WHOLE_GROUPS), 32).train()
    first = wide.net.input_proj.weight
    assert torch.equal(first[:16], first[16:])
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    wide(torch.randn(2, 20_000)).square().mean().backward()
    optimizer.step()
    assert not torch.allclose(first[:16], first[16:], rtol=1e-6, atol=0)


def test_any_width_up_to_twice_is_near_and_middle_blocks_may_be_left_out():
    net = trained(DenoiserConfig(hidden=8, blocks=2, middle_blocks=1, features="compressed", bands=48))
    with torch.inference_mode():
        waveform = torch.randn(1, 20_000)
        answer, near = net(waveform), widen(net, 12)(waveform)
        small = widen(net, 12, middle_blocks=0)
    assert (answer - near).square().mean() < 0.1 * answer.square().mean()
    assert len(small.net.middle_blocks) == 0
    assert sum(w.numel() for w in small.parameters()) < sum(w.numel() for w in widen(net, 12).parameters())


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"hidden": 7}, "hidden"), ({"hidden": 17}, "hidden"), ({"middle_blocks": 2}, "middle")],
)
def test_what_cannot_be_grown_is_refused(settings, named):
    net = trained(DenoiserConfig(hidden=8, blocks=2, middle_blocks=1, features="compressed", bands=48))
    with pytest.raises(ConfigError, match=named):
        widen(net, **{"hidden": 12, **settings})


def test_the_command_writes_a_model_that_loads(tmp_path, monkeypatch):
    net = trained(WHOLE_GROUPS)
    checkpoint.save(tmp_path / "narrow", ModelConfig(denoiser=net.config), net.state_dict())
    words = [
        str(tmp_path / "wide"),
        "--model",
        str(tmp_path / "narrow"),
        "--hidden",
        "24",
        "--middle-blocks",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["widen", *words])
    command.main()
    loaded = checkpoint.load(tmp_path / "wide").denoiser
    assert (loaded.config.hidden, loaded.config.middle_blocks) == (24, 1)
