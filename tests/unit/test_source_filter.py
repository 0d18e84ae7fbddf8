"""The source-filter vocoder: it starts as its guide, keeps its level, and rows do not meet."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from small_models import SMALL_DENOISER, SMALL_ENHANCER

from enhance_ray.errors import CheckpointError, ConfigError
from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.models.source_filter import SourceFilterConfig, SourceFilterVocoder
from enhance_ray.settings.options import EnhanceOptions
from enhance_ray.training.draws import flow_draws
from enhance_ray.training.losses import AutoencoderLossConfig, compressed_spectral_loss
from enhance_ray.training.stages import flow_step, vocoder_step

FRAMES, HOP = 40, 420
CONFIG = SourceFilterConfig(bands=64, hidden=16, blocks=1, groups=4)


def guide(rows=1, frequency=200.0):
    time = torch.arange(FRAMES * HOP) / 44_100
    voice = sum(torch.sin(2 * torch.pi * frequency * k * time) / k for k in range(1, 15))
    return (voice / voice.abs().max()).expand(rows, -1)


def inputs(rows=1):
    generator = torch.Generator().manual_seed(0)
    features, mel, noise = (
        torch.randn(rows, channels, FRAMES, generator=generator) for channels in (28, 24, HOP)
    )
    return features, guide(rows), mel, noise


@pytest.fixture
def vocoder():
    torch.manual_seed(0)
    return SourceFilterVocoder(28, 24, CONFIG).eval()


@pytest.fixture
def net():
    torch.manual_seed(0)
    config = EnhancerConfig(
        mels=24,
        autoencoder=SMALL_ENHANCER.autoencoder,
        velocity=SMALL_ENHANCER.velocity,
        source_filter=CONFIG,
        nfe=2,
        prior_temperature=0.25,
    )
    net = EnhancerNet(config, SMALL_DENOISER).eval()
    # As after training: the gains are not what they start as.
    torch.nn.init.normal_(net.vocoder.net[-1].weight, std=0.02)
    return net


@torch.inference_mode()
def test_an_untrained_one_gives_back_its_guide(vocoder):
    features, voice, mel, noise = inputs()
    got = vocoder(features, voice, mel, noise)
    assert got.shape == voice.shape
    inner = slice(2000, -2000)
    error = (got - voice)[:, inner].square().mean() / voice[:, inner].square().mean()
    assert 10 * torch.log10(error) < -20


@torch.inference_mode()
def test_rectifying_brings_harmonics_where_the_guide_has_none(vocoder):
    """At multiples of the guide's pitch, up to any frequency."""
    _, voice, _, noise = inputs()
    of_guide, made, _ = (source[0, :, 10:-10].abs().mean(-1) for source in vocoder.sources(voice, noise))
    high = slice(int(8000 / 44_100 * CONFIG.n_fft), int(12_000 / 44_100 * CONFIG.n_fft))
    assert of_guide[high].max() < 0.01 * of_guide.max()
    spectrum = made[high].numpy()
    harmonic_distance = 200 / 44_100 * CONFIG.n_fft
    power = np.abs(np.fft.rfft(spectrum - spectrum.mean()))
    assert abs(np.argmax(power) * harmonic_distance / len(spectrum) - 1) < 0.15
    assert 0.3 < made[high].square().mean().sqrt() < 3  # the envelope is flat


@torch.inference_mode()
def test_filling_leaves_the_guide_where_it_has_all_and_where_it_rests(vocoder):
    """The guide ends at 3 kHz; the net asks for noise at -13 dB and for half of the guide."""
    filling = SourceFilterVocoder(28, 24, dataclasses.replace(CONFIG, fill_below_db=-10.0)).eval()
    filling.load_state_dict(vocoder.state_dict())
    gains = filling.net[-1].bias.data.view(3, -1)
    gains[0], gains[2] = math.log(0.5), 3.5
    features, voice, mel, noise = inputs()
    voice = voice.clone()
    voice[:, voice.shape[-1] // 2 :] = 0
    whole = SourceFilterVocoder(28, 24, CONFIG).eval()
    whole.load_state_dict(filling.state_dict())

    def parts(waveform):
        """Voiced and silent half, below 2.5 and above 5 kHz each."""
        spectrum = torch.stft(waveform[0], 1024, window=torch.hann_window(1024), return_complex=True).abs()
        middle = spectrum.shape[1] // 2
        low, high = slice(0, int(2500 / 44_100 * 1024)), slice(int(5000 / 44_100 * 1024), None)
        halves = (slice(5, middle - 8), slice(middle + 8, -5))
        return [float(spectrum[band, half].square().mean()) for half in halves for band in (low, high)]

    heard, filled, answer = (
        parts(waveform)
        for waveform in (voice, filling(features, voice, mel, noise), whole(features, voice, mel, noise))
    )
    assert filled[0] == pytest.approx(heard[0], rel=0.1)  # not halved
    assert answer[0] < 0.5 * heard[0]
    assert filled[1] == pytest.approx(answer[1], rel=0.1)  # the noise that is asked for
    assert max(filled[2:]) < 0.01 * min(answer[2:])  # but not in the pause
    torch.testing.assert_close(
        filling.train()(features, voice, mel, noise), whole(features, voice, mel, noise)
    )


@torch.inference_mode()
def test_what_fills_can_be_quieter_than_the_net_would_have_it(vocoder):
    full, half = (
        SourceFilterVocoder(28, 24, dataclasses.replace(CONFIG, fill_below_db=-10.0, fill_gain=gain)).eval()
        for gain in (1.0, 0.5)
    )
    vocoder.net[-1].bias.data.view(3, -1)[2] = 3.5  # noise at -13 dB
    features, voice, mel, noise = inputs()
    for each in (full, half):
        each.load_state_dict(vocoder.state_dict())
    loud, quiet = (each(features, voice, mel, noise) for each in (full, half))
    inner = slice(2000, -2000)
    guide_again = 2 * quiet - loud  # what is left where nothing is added
    torch.testing.assert_close(guide_again[:, inner], voice[:, inner], rtol=0, atol=1e-4)
    assert (loud - quiet)[:, inner].abs().max() > 0.01


@torch.inference_mode()
def test_filling_changes_nothing_below_a_row_s_cut(net):
    """The guide ends at 3 kHz: a cut at 8 kHz leaves what is between as it is, no cut leaves all."""
    net.config = dataclasses.replace(
        net.config, source_filter=dataclasses.replace(CONFIG, fill_below_db=-10.0)
    )
    net.vocoder.config = net.config.source_filter
    net.vocoder.net[-1].bias.data.view(3, -1)[2] = 3.5  # noise at -13 dB
    noisy = guide(3)
    given, options = net.denoised(noisy), EnhanceOptions(prior_temperature=0)
    cuts = torch.tensor([3000.0, 8000.0, math.inf])
    filled = net(noisy, options, denoised=given, cuts=cuts)
    added = torch.stft(filled - given, 1024, window=torch.hann_window(1024), return_complex=True)
    power = added[..., 8:-8].abs().square().mean(-1)
    bins = torch.linspace(0, 22_050, power.shape[1])
    low, middle, high = (
        power[:, (bins > first) & (bins < last)].mean(-1)
        for first, last in ((0, 2600), (3500, 7500), (8500, 22_050))
    )
    assert middle[0] > 100 * low[0]
    assert high[1] > 100 * max(low[1], middle[1])
    inner = slice(None, -2 * HOP)  # the transform repeats the last frame
    torch.testing.assert_close(filled[2, inner], given[2, inner], rtol=0, atol=1e-5)
    # Where no row has a cut there is nothing to make, and nothing is made.
    alone = net(noisy[2:], options, denoised=given[2:], cuts=cuts[2:])
    assert torch.equal(alone, given[2:])


@torch.inference_mode()
def test_rows_do_not_influence_each_other(vocoder):
    torch.nn.init.normal_(vocoder.net[-1].weight, std=0.05)
    batch = inputs(3)
    together = vocoder(*batch)
    for row in range(3):
        alone = vocoder(*(part[row : row + 1] for part in batch))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_chain_keeps_the_level_of_what_came_in(net):
    """The net is told of no level: what comes out has that of the denoised sound."""
    features = torch.randn(1, 28, FRAMES)
    noise = torch.randn(1, HOP, FRAMES)
    loud, quiet = (net.synthesise(features, level * guide(), noise) for level in (1.0, 0.01))
    torch.testing.assert_close(0.01 * loud, quiet, rtol=1e-3, atol=1e-6)


@torch.inference_mode()
def test_what_the_model_recommends_is_what_no_wish_means(net):
    noisy = guide() + 0.1
    silent_wish = net(noisy, EnhanceOptions())
    spoken = net(noisy, EnhanceOptions(nfe=2, prior_temperature=0.25))
    torch.testing.assert_close(silent_wish, spoken, rtol=0, atol=0)
    assert not torch.equal(silent_wish, net(noisy, EnhanceOptions(nfe=8)))


@torch.inference_mode()
def test_frozen_to_bfloat16_it_sounds_the_same(net):
    noisy = guide() + 0.05 * torch.randn(1, FRAMES * HOP, generator=torch.Generator().manual_seed(1))
    exact = net(noisy)
    rounded = net.freeze(torch.bfloat16)(noisy)
    error = (exact - rounded).square().mean() / exact.square().mean()
    assert 10 * torch.log10(error) < -20


def test_the_originals_layout_has_no_place_for_it(net, tmp_path):
    from enhance_ray import checkpoint, resemble
    from enhance_ray.checkpoint import ModelConfig

    settings = ModelConfig(kind="enhancer", denoiser=net.denoiser.config, enhancer=net.config)
    checkpoint.save(tmp_path / "model", settings, net.state_dict())
    with pytest.raises(CheckpointError, match="source-filter"):
        resemble.save(checkpoint.load(tmp_path / "model"), tmp_path / "run")


@pytest.mark.parametrize("settings", [{"bands": 8}, {"hidden": 30}, {"n_fft": 400}, {"fill_gain": 0.0}])
def test_sizes_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SourceFilterConfig(**settings)


def test_stage_3_asks_for_speech_as_loud_as_it_is_in_the_guide(net):
    """A guide without the upper band has another peak than the speech; what both have is to stay as it is."""
    net.vocoder = SourceFilterVocoder(28, 24, CONFIG)  # gives back its guide
    net.denoiser, net.repaired = torch.nn.Identity(), lambda denoised, noisy: denoised
    low = guide()
    high = torch.zeros_like(low)
    time = torch.arange(300) / 44_100
    high[:, 9000:9300] = 2 * torch.hann_window(300) * torch.sin(2 * torch.pi * 12_000 * time)
    loss = AutoencoderLossConfig(mse=0, stft=0, spectrum=1, resolutions=(512,))
    frames = {"vocoder_noise": torch.zeros(1, HOP, FRAMES), "prior": torch.zeros(1, 8, FRAMES)}
    result = vocoder_step(net, 0.1 * low, low + high, temperature=torch.zeros(1), nfe=2, loss=loss, **frames)
    wanted = compressed_spectral_loss(result.estimate, low + high, window_length=512, complex_share=0.1)
    assert result.loss.item() == pytest.approx(wanted.item(), rel=0.02)


def test_stage_2_guides_the_flow_by_what_it_will_be_guided_by(net, monkeypatch):
    heard = []
    monkeypatch.setattr(net.flow, "loss", lambda start, end, mel, **_: heard.append(mel) or mel.mean())
    net.repaired = lambda denoised, noisy: 0.5 * noisy
    draws = flow_draws(0, [0], 8, FRAMES)._replace(strength=torch.ones(1))
    flow_step(net, guide(), guide(), guide(), draws, train_denoiser=False)
    torch.testing.assert_close(heard, [net.normalise(0.5 * normalise_peak(guide()))])


def test_a_flow_may_learn_from_starts_with_little_noise_alone():
    usual, little = (flow_draws(0, range(20), 8, 1, limits).temperature for limits in ((0, 1), (0, 0.2)))
    torch.testing.assert_close(little, 0.2 * usual)


def test_stage_2_asks_for_speech_as_loud_as_it_is_in_what_the_flow_hears(net, monkeypatch):
    """A click that the recording lacks takes the peak of the speech: the speech is asked for at its level."""
    heard, encode = [], net.autoencoder.encode
    monkeypatch.setattr(net.autoencoder, "encode", lambda mel: heard.append(mel) or encode(mel))
    net.repaired = lambda denoised, noisy: normalise_peak(guide())
    clicked = normalise_peak(guide())
    clicked[:, -20:] = 1.8
    for clean in (clicked, guide()):
        heard.clear()
        flow_step(net, guide(), guide(), clean, flow_draws(0, [0], 8, FRAMES), train_denoiser=False)
        wanted = net.normalise(normalise_peak(guide()))
        torch.testing.assert_close(heard[0][..., :-4], wanted[..., :-4], rtol=0.02, atol=0.02)
