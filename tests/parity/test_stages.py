"""Losses, gradients and critics of the enhancer's training against the original's numbers."""

import pytest
import torch
from parity.fixtures import Fixture, load_weights
from parity.test_enhancer import TINY, TINY_DENOISER

from enhance_ray import resemble
from enhance_ray.models.discriminators import Discriminator
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.training.losses import discriminator_loss, generator_loss, stft_loss
from enhance_ray.training.stages import FlowDraws, autoencoder_step, flow_step


def training_net(fixture):
    net = EnhancerNet(TINY, TINY_DENOISER)
    load_weights(net, fixture.module_weights(""))
    return net.train()


def check_gradients(fixture, parameters):
    """Norms of all gradients, by the original's names; -1 marks what has none there."""
    ours = resemble.to_ours({key: torch.tensor(i) for i, key in enumerate(fixture.entry["grad_norms_order"])})
    norms = torch.full((len(ours),), -1.0)
    for name, index in ours.items():
        gradient = parameters[name].grad
        if gradient is not None:
            norms[index] = gradient.norm()
    rtol = fixture.entry["outputs"]["grad_norms"]["rtol"]
    expected = fixture.output("grad_norms")
    trained = expected >= 0
    torch.testing.assert_close(
        norms[trained], expected[trained], atol=fixture.tolerance("grad_norms"), rtol=rtol
    )
    # What the original does not train gets no gradient here either.
    assert not norms[~trained].gt(0).any()


def check_buffers(fixture, net):
    for theirs, buffer in (
        ("normalizer.running_mean_unsafe", net.normalizer.mean),
        ("normalizer.running_var_unsafe", net.normalizer.var),
        ("lcfm.ae.estimator.running_mean_unsafe", net.latent_statistics.mean),
        ("lcfm.ae.estimator.running_var_unsafe", net.latent_statistics.var),
    ):
        fixture.check(f"after.{theirs}", buffer)


def test_a_step_of_stage_1_is_the_originals():
    fixture = Fixture("training/enhancer_ae")
    net = training_net(fixture)
    net.denoiser.requires_grad_(False)
    net.flow.requires_grad_(False)
    result = autoencoder_step(net, fixture.input("y"), fixture.noise(2))
    result.loss.backward()
    fixture.check("loss.lcfm/ae/mse", result.metrics["mse"])
    fixture.check("loss.vocoder/sc", result.metrics["sc"])
    fixture.check("loss.vocoder/mag", result.metrics["mag"])
    fixture.check("fake", result.estimate.detach())
    check_gradients(fixture, dict(net.named_parameters()))
    check_buffers(fixture, net)


def test_a_step_of_stage_2_is_the_originals():
    fixture = Fixture("training/enhancer_cfm")
    net = training_net(fixture)
    net.autoencoder.requires_grad_(False)
    draws = FlowDraws(
        fixture.noise(0), fixture.noise(1).flatten(), fixture.noise(2), fixture.noise(3), fixture.noise(4)
    )
    result = flow_step(net, fixture.input("x"), fixture.input("z"), fixture.input("y"), draws)
    result.loss.backward()
    fixture.check("loss.lcfm/cfm/l1", result.metrics["flow_l1"])
    fixture.check("loss.denoiser/l1", result.metrics["denoiser_l1"])
    check_gradients(fixture, dict(net.named_parameters()))
    check_buffers(fixture, net)


def test_stft_loss_is_the_originals():
    fixture = Fixture("loss/mrstft")
    losses = stft_loss(fixture.input("x"), fixture.input("y"))
    fixture.check("sc", losses["sc"])
    fixture.check("mag", losses["mag"])


def test_discriminators_and_their_losses_are_the_originals():
    fixture = Fixture("discriminator/full")
    discriminator = Discriminator()
    discriminator.load_state_dict(fixture.weights())
    fake, real = fixture.input("fake"), fixture.input("real")
    real = real[:, : fake.shape[-1]]  # the original cuts both to the shorter
    with torch.no_grad():
        for kind, scores in discriminator(fake[:1]).items():
            for i, score in enumerate(scores):
                fixture.check(f"{kind}{i}_fake", score)
        _, parts = generator_loss(discriminator(fake))
    for name, value in parts.items():
        fixture.check(f"wgan.{name}", value)
    loss, parts = discriminator_loss(discriminator(fake), discriminator(real))
    loss.backward()
    for name, value in parts.items():
        fixture.check(f"hinge.{name}", value)
    check_gradients(fixture, dict(discriminator.named_parameters()))


def test_a_slope_of_a_tenth_is_seen(monkeypatch):
    fixture = Fixture("discriminator/full")
    discriminator = Discriminator()
    discriminator.load_state_dict(fixture.weights())
    monkeypatch.setattr("enhance_ray.models.discriminators.LEAKY_SLOPE", 0.1)
    with torch.no_grad(), pytest.raises(AssertionError):
        fixture.check("mpd0_fake", discriminator(fixture.input("fake")[:1])["mpd"][0])
