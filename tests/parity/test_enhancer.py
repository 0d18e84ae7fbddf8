"""The enhancer's parts and the whole of it against the original's numbers."""

import dataclasses
import functools

import pytest
import torch
from parity.fixtures import Fixture, forget_weights, load_weights

from enhance_ray.errors import ConfigError
from enhance_ray.models import kernels, layers, ode, vocoder
from enhance_ray.models.autoencoder import Autoencoder, AutoencoderConfig
from enhance_ray.models.denoiser import DenoiserConfig, normalise_peak
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.models.flow import Flow
from enhance_ray.models.layers import Normalizer
from enhance_ray.models.vocoder import AmpBlock, Vocoder, VocoderConfig
from enhance_ray.models.wavenet import VelocityConfig, VelocityField, embed_time
from enhance_ray.settings.options import EnhanceOptions

TINY = EnhancerConfig(
    mels=20,
    autoencoder=AutoencoderConfig(latent=8, extra=4, hidden=32),
    velocity=VelocityConfig(hidden=24, layers=7, time_channels=16),
    vocoder=VocoderConfig(channels=4),
)
TINY_DENOISER = DenoiserConfig(hidden=16, blocks=1, middle_blocks=1)
FROZEN = pytest.mark.parametrize("frozen", [False, True], ids=["training's form", "frozen"])


def ready(module, frozen):
    if frozen:
        layers.freeze(module, torch.float32)
    return module.eval()


def load(module, fixture, prefix, frozen=False):
    load_weights(module, fixture.module_weights(prefix))
    return ready(module, frozen)


def config_of(name):
    return EnhancerConfig() if "full" in name else TINY


@pytest.fixture(scope="module", autouse=True)
def _forget_the_large_nets():
    """Their weights are 5 GB in all, which tests after these have no use for."""
    yield
    full_enhancer.cache_clear()
    forget_weights()


@functools.cache
def full_enhancer(frozen):
    """The net of the original's size, built once in each form: that takes longer than its tests."""
    net = EnhancerNet()
    load_weights(net, Fixture("enhancer/full_a").module_weights(""))
    return net.freeze() if frozen else net.eval()


def enhancer(name, frozen=False, **settings):
    """A whole net with the fixtures' weights."""
    if "full" in name:
        return full_enhancer(frozen)
    net = EnhancerNet(dataclasses.replace(TINY, **settings), TINY_DENOISER)
    load_weights(net, Fixture(name).module_weights(""))
    return net.freeze() if frozen else net.eval()


def test_normalizer_is_the_originals():
    fixture = Fixture("normalizer/three_updates")
    normalizer = Normalizer()
    for i in range(3):
        normalizer.update(fixture.input(f"x{i}"))
        fixture.check(f"mean{i}", normalizer.mean)
        fixture.check(f"var{i}", normalizer.var)
        fixture.check(f"y{i}", normalizer(fixture.input(f"x{i}")))
    for name, output in (("x0", "eval"), ("x1", "no_update")):
        fixture.check(output, normalizer(fixture.input(name)))
    fixture.check("inverse", normalizer.inverse(normalizer(fixture.input("x0"))))


def test_a_normalizer_without_statistics_changes_nothing():
    fixture = Fixture("normalizer/unstarted_eval")
    fixture.check("y", Normalizer()(fixture.input("x")))


@FROZEN
@torch.inference_mode()
def test_autoencoder_is_the_originals(frozen):
    fixture = Fixture("irmae/tiny")
    net = load(Autoencoder(20, TINY.autoencoder), fixture, "autoencoder.", frozen)
    latent = net.encode(fixture.input("x"))
    features = net.decode(latent)
    mel = net.reconstruct(features)
    fixture.check("z", latent)
    fixture.check("decoded", features)
    fixture.check("head", mel)
    fixture.check("loss_mse", torch.nn.functional.mse_loss(mel, fixture.input("x")))


@FROZEN
@torch.inference_mode()
def test_full_autoencoder_is_the_originals(frozen):
    fixture = Fixture("irmae/full")
    net = load(Autoencoder(128, AutoencoderConfig()), fixture, "autoencoder.", frozen)
    fixture.check("z", net.encode(fixture.input("x")))
    fixture.check("decoded", net.decode(fixture.input("z")))


@pytest.mark.parametrize("name", ["time_embedding/d16", "time_embedding/d128"])
def test_time_embedding_is_the_originals(name):
    fixture = Fixture(name)
    fixture.check("e", embed_time(fixture.input("t"), fixture.output("e").shape[1]))


def test_time_grids_are_the_originals_where_they_integrate_something():
    fixture = Fixture("solver_grid")
    for name in fixture.entry["outputs"]:
        expected = fixture.output(name)
        solver, nfe = name.split("_")
        if solver == "divisor":
            grid = ode.time_grid("euler", len(expected) - 1, int(nfe))
        elif len(expected) == 1:
            with pytest.raises(ConfigError, match="nfe"):
                ode.time_grid(solver, int(nfe), 4)
            continue
        else:
            grid = ode.time_grid(solver, int(nfe), 4)
        fixture.check(name, torch.tensor(grid, dtype=torch.float64))


@pytest.mark.parametrize("name", ["euler_5", "midpoint_6", "rk4_8", "midpoint_1"])
def test_solvers_are_the_originals(name):
    fixture = Fixture(f"solver/{name}")
    c = fixture.input("c")
    solver, nfe = name.split("_")
    y = ode.integrate(
        lambda t, x: torch.sin(3 * x) * (1 - t) + c * t,
        fixture.input("psi0"),
        solver=solver,
        nfe=int(nfe),
        divisor=4,
    )
    fixture.check("y", y)


def test_a_solver_without_a_step_is_refused_where_the_original_returned_its_input():
    fixture = Fixture("solver/rk4_3")
    torch.testing.assert_close(fixture.output("y"), fixture.input("psi0"), atol=0, rtol=0)
    with pytest.raises(ConfigError, match="rk4 needs at least 4 evaluations, or 1, got 3"):
        ode.integrate(lambda t, x: x, fixture.input("psi0"), solver="rk4", nfe=3)


def velocity_field(name):
    config = config_of(name)
    return VelocityField(config.autoencoder.latent, config.mels, config.velocity)


def flow(name, fixture, frozen=False):
    return load(Flow(velocity_field(name)), fixture, "flow.", frozen)


@FROZEN
@pytest.mark.parametrize("name", ["wn/tiny", "wn/full"])
@torch.inference_mode()
def test_velocity_field_is_the_originals(name, frozen):
    fixture = Fixture(name)
    field = load(velocity_field(name), fixture, "flow.net.", frozen)
    embedding = fixture.input("g")
    biases = torch.stack(
        [
            torch.nn.functional.linear(embedding, layer.gconv.weight[..., 0], layer.gconv.bias)
            for layer in field.layers
        ]
    )
    fixture.check("v", field(fixture.input("z"), biases, field.condition(fixture.input("l"))))


@torch.inference_mode()
def test_velocity_at_one_time_and_at_one_for_each_row_is_the_originals():
    fixture = Fixture("cfm/velocity_tiny")
    net = flow("tiny", fixture)
    t = fixture.input("t")
    fixture.check("v_vec", net(fixture.input("psi"), t, fixture.input("x")))
    # The one time is 0.37: the fixture does not say so, and no other gives its numbers.
    fixture.check("v_scalar", net(fixture.input("psi"), torch.full((2,), 0.37), fixture.input("x")))


@pytest.mark.parametrize(
    "name",
    [
        *(f"euler_{nfe}" for nfe in (1, 4, 9)),
        *(f"midpoint_{nfe}" for nfe in (2, 8, 16)),
        *(f"rk4_{nfe}" for nfe in (4, 8, 16)),
        "full_midpoint_8",
    ],
)
@FROZEN
@torch.inference_mode()
def test_samples_are_the_originals(name, frozen):
    fixture = Fixture(f"cfm/sample_{name}")
    inputs = fixture if name == "full_midpoint_8" else Fixture("cfm/sample_euler_1")
    net = flow(name, fixture, frozen)
    sample = net.sample(
        inputs.input("psi0"), inputs.input("x"), solver=fixture.hyper["method"], nfe=fixture.hyper["nfe"]
    )
    fixture.check("psi1", sample)


@torch.inference_mode()
def test_a_sample_from_noise_alone_is_the_originals():
    fixture = Fixture("cfm/sample_default_prior")
    sample = flow("tiny", fixture).sample(fixture.noise(0), fixture.input("x"), solver="midpoint", nfe=4)
    fixture.check("psi1", sample)


@torch.inference_mode()
def test_flow_loss_is_the_originals():
    fixture = Fixture("cfm/loss")
    loss = flow("tiny", fixture).loss(
        fixture.input("psi0"),
        fixture.input("y"),
        fixture.input("x"),
        uniform=fixture.noise(0),
        noise=fixture.noise(1),
    )
    fixture.check("l1", loss)


@pytest.mark.parametrize("tau", ["0.0", "0.5", "1.0"])
@torch.inference_mode()
def test_features_from_a_mel_are_the_originals(tau):
    fixture = Fixture(f"lcfm/eval_tau_{tau}")
    inputs = Fixture("lcfm/eval_tau_0.0")
    net = EnhancerNet(TINY, TINY_DENOISER).eval()
    net.load_state_dict(fixture.module_weights(""), strict=False)
    start = net.start(inputs.input("psi0"), fixture.noise(0), float(tau))
    latent = net.flow.sample(start, inputs.input("x"), solver="midpoint", nfe=4)
    fixture.check("h", net.autoencoder.decode(latent / 6))


@pytest.mark.parametrize("ratio", [2, 3])
def test_anti_aliased_resampling_is_the_originals(ratio):
    weights = vocoder.kaiser_low_pass(ratio)
    for direction in ("up", "down"):
        for kernel in ("12", "None") if ratio == 2 else ("None",):
            fixture = Fixture(f"aliasfree/{direction}_r{ratio}_k{kernel}")
            fixture.check("fir", weights[None, None])
            if ratio == 3:
                continue  # of which the model has none
            x = fixture.input("x").transpose(1, 2)
            if direction == "up":
                y = torch.stack(kernels.doubled(x, weights), dim=2).flatten(1, 2)
            else:
                x = torch.cat([x, x[:, -1:]], dim=1)  # which changes an odd length only
                y = kernels.halved(x[:, : x.shape[1] // 2 * 2 : 2], x[:, 1::2], weights)
            fixture.check("y", y.transpose(1, 2))


@FROZEN
@torch.inference_mode()
def test_anti_aliased_block_is_the_originals(frozen):
    fixture = Fixture("amp/block")
    block = AmpBlock(6)
    load_weights(block, fixture.weights())
    ready(block, frozen)
    x = fixture.input("x")
    fixture.check("y", block(x))
    frequency, amplitude = block[0][1].act.scales()
    x = Fixture("amp/snake_beta").input("x").transpose(1, 2)
    Fixture("amp/snake_beta").check("y", kernels.bend(x, frequency, amplitude).transpose(1, 2))
    Fixture("amp/up_act_down").check("y", block[0][1](Fixture("amp/up_act_down").input("x")))


@torch.inference_mode()
def test_location_variable_convolution_is_the_originals():
    fixture = Fixture("lvc/op")
    weights = fixture.input("k").permute(0, 4, 3, 1, 2).flatten(2, 3)
    padded = torch.nn.functional.pad(fixture.input("x"), (1, 1)).transpose(1, 2)
    out = vocoder.location_variable_convolution(padded, weights)
    out = (out + fixture.input("b").transpose(1, 2)[:, :, None]).flatten(1, 2)
    fixture.check("y", out.transpose(1, 2))


@pytest.mark.parametrize("name", ["lvc/s7", "lvc/s4"])
@FROZEN
@torch.inference_mode()
def test_block_of_the_vocoder_is_the_originals(name, frozen):
    fixture = Fixture(name)
    hyper = fixture.hyper
    block = vocoder.Block(
        hyper["in_channels"],
        hyper["cond_channels"],
        hyper["stride"],
        hyper["cond_hop_length"],
        tuple(hyper["dilations"]),
        hyper["kpnet_hidden_channels"],
    )
    load_weights(block, fixture.weights())
    ready(block, frozen)
    predictor = block.kernel_predictor
    x, condition = fixture.input("x"), fixture.input("c")
    frames = condition.shape[-1]
    hidden = predictor(condition)
    kernels = torch.stack(
        [predictor.kernels(hidden, *matrix, 0, frames) for matrix in zip(*predictor.matrices(), strict=True)],
        dim=1,
    )
    fixture.check("kernels", kernels.unflatten(3, (3, 4)).permute(0, 1, 4, 5, 3, 2))
    fixture.check("bias", predictor.biases(hidden).permute(1, 0, 3, 2))
    upsampled = block.upsample(x)
    fixture.check("upsampled", upsampled)
    fixture.check("y", block(x, condition))


@FROZEN
@pytest.mark.parametrize("name", ["univnet/tiny", "univnet/full"])
@torch.inference_mode()
def test_vocoder_is_the_originals(name, frozen):
    fixture = Fixture(name)
    config = config_of(name)
    net = load(Vocoder(config.mels + config.autoencoder.extra, config.vocoder), fixture, "vocoder.", frozen)
    fixture.check("wav", net(fixture.input("x"), fixture.noise(0)))


@FROZEN
@pytest.mark.parametrize("name", ["tiny_a", "tiny_b", "tiny_c", "tiny_d", "tiny_e", "full_a", "full_b"])
@torch.inference_mode()
def test_enhanced_waveform_is_the_originals(name, frozen):
    fixture = Fixture(f"enhancer/{name}")
    inputs = fixture if "full" in name else Fixture("enhancer/tiny_a")
    hyper = fixture.hyper
    options = EnhanceOptions(
        nfe=hyper["nfe"],
        solver=hyper["solver"],
        denoise_strength=hyper["lambd"],
        prior_temperature=hyper["tau"],
    )
    net = enhancer(f"enhancer/{name}", frozen)
    restored = net(inputs.input("x"), options, prior_noise=fixture.noise(0), vocoder_noise=fixture.noise(1))
    fixture.check("wav", restored)


@torch.inference_mode()
def test_enhanced_waveform_from_noise_alone_is_the_originals():
    fixture = Fixture("enhancer/tiny_gaussian_prior")
    net = enhancer(fixture.name, gaussian_prior=True)
    restored = net(
        Fixture("enhancer/tiny_a").input("x"),
        EnhanceOptions(nfe=4, denoise_strength=1.0),
        prior_noise=fixture.noise(0),
        vocoder_noise=fixture.noise(1),
    )
    fixture.check("wav", restored)


@torch.inference_mode()
def test_two_swapped_channels_are_seen():
    fixture = Fixture("irmae/tiny")
    net = load(Autoencoder(20, TINY.autoencoder), fixture, "autoencoder.")
    net.encoder[0].weight.data = net.encoder[0].weight.data[:, [1, 0, *range(2, 20)]]
    with pytest.raises(AssertionError):
        fixture.check("z", net.encode(fixture.input("x")))


@torch.inference_mode()
def test_a_slope_of_a_tenth_in_the_kernel_predictor_is_seen():
    """The slope that is easily got wrong (spec 8.5)."""
    fixture = Fixture("univnet/tiny")
    net = load(Vocoder(24, TINY.vocoder), fixture, "vocoder.")
    for block in net.blocks:
        for module in block.kernel_predictor.modules():
            if isinstance(module, torch.nn.LeakyReLU):
                module.negative_slope = 0.1
    with pytest.raises(AssertionError):
        fixture.check("wav", net(fixture.input("x"), fixture.noise(0)))


@pytest.mark.parametrize("name", ["enhancer/tiny_a", "enhancer/full_a"])
@torch.inference_mode()
def test_every_stage_of_the_chain_is_the_originals(name):
    fixture = Fixture(name)
    hyper = fixture.hyper
    net = enhancer(name, frozen=True)
    noisy = normalise_peak(fixture.input("x"))
    mel = net.normalise(noisy)
    fixture.check("mel", mel)
    denoised = net.denoiser(noisy)
    fixture.check("denoised", denoised)
    fixture.check("mel_denoised", net.normalise(denoised))
    fixture.check("z0", net.autoencoder.encode(mel))
    start = net.start(mel, fixture.noise(0), hyper["tau"])
    fixture.check("psi0", start)
    conditioning = net.conditioning(net.denoised(noisy), mel, hyper["lambd"])
    end = net.flow.sample(start, conditioning, solver=hyper["solver"], nfe=hyper["nfe"])
    fixture.check("psi1", end)
    fixture.check("decoded", net.autoencoder.decode(end / net.config.latent_scale))
