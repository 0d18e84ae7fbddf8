"""Compiled functions give what they give as they stand, and a process without a compiler goes on."""

import contextlib
import copy
import subprocess
import sys

import jaxtyping
import pytest
import torch
from small_models import small_enhancer_net

from enhance_ray.models import kernels
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions


@pytest.mark.drill  # half a minute of compiling
@torch.inference_mode()
def test_a_compiled_net_gives_the_same_sound_at_every_length(request):
    request.addfinalizer(lambda: jaxtyping.config.update("jaxtyping_disable", False))
    jaxtyping.config.update("jaxtyping_disable", True)  # its checks cannot be compiled
    plain = small_enhancer_net()[1].freeze()
    fast = copy.deepcopy(plain).compile_kernels()
    for samples in (2 * MODEL_RATE, MODEL_RATE + 12_345, 3 * MODEL_RATE):
        noisy = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
        expected = plain(noisy, EnhanceOptions(nfe=4))
        torch.testing.assert_close(fast(noisy, EnhanceOptions(nfe=4)), expected, atol=2e-5, rtol=0)


def test_gates_that_write_over_their_input_are_the_gates():
    generator = torch.Generator().manual_seed(0)
    hidden, condition = (8 * torch.randn(2, 30, 14, generator=generator) for _ in range(2))
    gated = kernels.gate(hidden, condition)
    # A sigmoid's rounding, twice: 1.2e-7.
    torch.testing.assert_close(kernels.gate_in_place(hidden, condition), gated, rtol=0, atol=3e-7)
    x, out = torch.randn(2, 30, 7, generator=generator), 8 * torch.randn(2, 6, 5, 14, generator=generator)
    bias = torch.randn(2, 6, 14, generator=generator)
    modulated = kernels.modulate(x, out, bias)
    torch.testing.assert_close(kernels.modulate_in_place(x, out, bias), modulated, rtol=0, atol=6e-7)


def test_the_activation_is_the_same_with_and_without_gradients():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 7, generator=generator)
    frequency, amplitude = torch.rand(2, 7, generator=generator)
    up, down = torch.rand(2, 12, generator=generator)
    trained = kernels.snake(x, frequency, amplitude, up, down)
    with torch.no_grad():
        run = kernels.snake(x, frequency, amplitude, up, down)
    torch.testing.assert_close(run, trained, rtol=1e-5, atol=1e-5)


def test_where_nothing_compiles_the_function_is_used_as_it_is(monkeypatch, caplog):
    def fails(function):
        def call(*_):
            raise RuntimeError("no C++ compiler\nbelow it, much that nobody reads")

        return call

    def doubled(x):
        return 2 * x

    monkeypatch.setattr(torch, "compile", fails)
    fast = kernels.compiled(doubled)
    for _ in range(2):
        assert fast(torch.ones(3)).tolist() == [2, 2, 2]
    assert caplog.messages == ["doubled is not compiled: no C++ compiler"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
@pytest.mark.parametrize(("setting", "keeps"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_large_blocks_stay_with_the_process_unless_its_environment_says_otherwise(setting, keeps):
    program = (
        "import resource, torch; from enhance_ray import memory; print(memory.keep_large_blocks());"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt;"
        "[torch.ones(10_000_000) for _ in range(50)];"
        "before = faults(); torch.ones(10_000_000); print(faults() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=setting, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    assert kept == str(keeps)
    assert (int(faults) < 1000) == keeps  # of about 10,000 pages


@torch.inference_mode()
def test_a_frozen_net_goes_to_another_device_whole(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none on meta
    net = small_enhancer_net()[1].freeze().to("meta")  # the one other device that every machine has
    latent = torch.randn(1, 8, 50, device="meta")
    latent = net.flow.sample(latent, torch.randn(1, 24, 50, device="meta"), solver="midpoint", nfe=4)
    features = net.autoencoder.decode(latent)
    noise = torch.randn(1, net.config.noise_channels, 50 + net.config.noise_padding, device="meta")
    waveform = net.vocoder(features, noise)
    assert waveform.device.type == "meta"
    assert waveform.shape == (1, 50 * net.hop)
