"""The denoiser beyond parity: bands, features, edges."""

import dataclasses
import math

import pytest
import torch

from enhance_ray.dsp.stft import stft
from enhance_ray.errors import ConfigError
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig, band_matrices

SMALL = DenoiserConfig(hidden=4, blocks=2, middle_blocks=1, features="compressed", bands=48)


@pytest.mark.parametrize(("bins", "bands"), [(841, 96), (841, 840), (513, 64), (33, 4)])
def test_merging_and_spreading_keep_a_constant_constant(bins, bands):
    merge, spread = band_matrices(bins, bands)
    torch.testing.assert_close(merge @ torch.ones(bins), torch.ones(bands))
    torch.testing.assert_close(spread @ torch.ones(bands), torch.ones(bins))


def test_low_bands_are_single_bins_and_higher_ones_grow():
    merge, _ = band_matrices(841, 96)
    assert torch.equal(merge[:47, :47], torch.eye(47))
    widths = (merge[48:] > 0).sum(1)
    assert widths[-2] > 20 * widths[0]
    assert (merge[:, 840] > 0).any()


@pytest.mark.parametrize("config", [SMALL, DenoiserConfig(hidden=4, blocks=2, middle_blocks=0)])
@pytest.mark.parametrize("extra", [0, 1, 419, 420, 5000])
def test_output_has_the_inputs_length_from_the_shortest_on(config, extra):
    denoiser = Denoiser(config).eval()
    with torch.inference_mode():
        waveform = torch.randn(2, denoiser.shortest + extra)
        out = denoiser(waveform)
    assert out.shape == waveform.shape
    assert out.isfinite().all()


def test_a_net_that_opens_the_mask_passes_the_input_through():
    """All bins kept, none turned: what is left is STFT, bands and inverse STFT."""
    denoiser = Denoiser(SMALL).eval()
    torch.nn.init.zeros_(denoiser.net.head[2].weight)
    denoiser.net.head[2].bias.data = torch.tensor([40.0, 40.0, 0.0])
    waveform = torch.randn(1, 420 * 20)
    with torch.inference_mode():
        out = denoiser(waveform)
    # The last frame is a repetition (spec 2.4), so the end is not reconstructed.
    expected = waveform / waveform.abs().max()
    torch.testing.assert_close(out[:, :-1680], expected[:, :-1680], atol=1e-5, rtol=0)


def test_the_level_of_the_input_does_not_matter():
    denoiser = Denoiser(SMALL).eval()
    waveform = torch.randn(1, 8400)
    with torch.inference_mode():
        torch.testing.assert_close(denoiser(1e-3 * waveform), denoiser(waveform), atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [SMALL, DenoiserConfig(hidden=4, blocks=2, middle_blocks=0)])
def test_a_decay_into_denormal_numbers_stays_finite(config):
    """What a recursive filter leaves in digital silence: bins of 1e-44 have no finite reciprocal."""
    decay = torch.logspace(0, -45, 42_000)[None] * torch.randn(1, 42_000)
    with torch.inference_mode():
        assert Denoiser(config)(decay).isfinite().all()


def test_rows_of_a_batch_do_not_influence_each_other():
    torch.manual_seed(0)
    denoiser = Denoiser(SMALL).eval()
    rows = torch.randn(3, 8400)
    with torch.inference_mode():
        together = denoiser(rows)
        alone = torch.cat([denoiser(row[None]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)  # float noise of other kernels


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": 0},
        {"bands": 2},
        {"bands": 900},
        {"n_fft": 700},
        {"hop": 0},
        {"recurrent": -1},
        {"attenuation_limit_db": 0},
    ],
)
def test_sizes_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DenoiserConfig(**settings)


def test_a_new_recurrent_block_changes_nothing_until_it_learns_and_then_hears_past_and_future():
    plain = Denoiser(SMALL).eval()
    grown = Denoiser(dataclasses.replace(SMALL, recurrent=8)).eval()
    grown.load_state_dict({**grown.state_dict(), **plain.state_dict()})
    waveform = torch.randn(2, 44_100)
    with torch.inference_mode():
        torch.testing.assert_close(grown(waveform), plain(waveform), rtol=0, atol=0)
        torch.nn.init.normal_(grown.net.recurrent.out.weight)
        assert not torch.allclose(grown(waveform), plain(waveform), atol=1e-3)
        maps = torch.randn(1, 16, 3, 200)
        block = grown.net.recurrent
        other = torch.cat([maps[..., 100:], maps[..., :100]], dim=-1)  # the same norms, another order
        here, there = block(maps) - maps, block(other) - other
        alike = block(maps[:, :, :1].expand_as(maps))
    torch.testing.assert_close(alike[:, :, 0], alike[:, :, 2])
    assert here.shape == maps.shape
    assert (here[..., 100] - there[..., 0]).abs().max() > 1e-2  # another past
    assert (here[..., 99] - there[..., 199]).abs().max() > 1e-2  # another future


def test_the_compact_net_with_a_recurrent_block_has_less_than_three_million_weights():
    compact = DenoiserConfig(hidden=8, middle_blocks=1, features="compressed", bands=96, recurrent=192)
    assert 1.9e6 < sum(weight.numel() for weight in Denoiser(compact).parameters()) < 3e6


def open_by(mask: float, config: DenoiserConfig) -> Denoiser:
    """A net that gives every bin the same mask."""
    denoiser = Denoiser(config).eval()
    torch.nn.init.zeros_(denoiser.net.head[2].weight)
    denoiser.net.head[2].bias.data = torch.tensor([math.log(mask / (1 - mask)), 40.0, 0.0])
    return denoiser


@pytest.mark.parametrize(
    ("mask", "kept"),
    [(0.5, 0.5), (0.9, 0.9), (0.98, 0.98 + 0.1 * 0.02)],  # speech over noise: 0, 19 and 34 dB
)
def test_faint_noise_alone_is_taken_down_by_the_limit_and_no_further(mask, kept):
    limited = open_by(mask, dataclasses.replace(SMALL, attenuation_limit_db=20.0))
    free = open_by(mask, SMALL)
    waveform = torch.randn(1, 44_100)
    with torch.inference_mode():
        torch.testing.assert_close(limited(waveform), free(waveform) * kept / mask, rtol=0, atol=1e-5)
        torch.testing.assert_close(limited.train()(waveform), free(waveform), rtol=0, atol=1e-5)


def test_faintness_follows_the_noise_and_hears_neither_padding_nor_the_neighbour():
    denoiser = Denoiser(dataclasses.replace(SMALL, attenuation_limit_db=10.0))
    speech = torch.randn(2, 841, 2000, dtype=torch.complex64)
    noise = torch.randn(2, 841, 2000, dtype=torch.complex64)
    noise[:, :, :1000] *= 0.01
    noise[1] = 0
    faint = denoiser.faintness([speech + noise], [speech])
    assert faint[0, :800].min() == 1
    assert faint[0, 1200:].max() == 0
    assert faint[1].min() == 1
    parts = (speech + noise).split(512, dim=-1)
    torch.testing.assert_close(denoiser.faintness(parts, speech.split(512, dim=-1)), faint)
    padded = torch.nn.functional.pad(torch.stack([speech[0] + noise[0], speech[0]]), (0, 700))
    torch.testing.assert_close(
        denoiser.faintness([padded[:1]], [padded[1:]])[:, :2000], faint[:1], rtol=0, atol=1e-5
    )
    nothing = torch.zeros_like(speech)
    assert denoiser.faintness([nothing], [nothing]).max() == 0  # silence has no speech over it


def test_a_net_that_adds_fills_a_gap_which_a_mask_leaves_empty():
    torch.manual_seed(0)
    masks = Denoiser(SMALL).eval()
    adds = Denoiser(dataclasses.replace(SMALL, residual=True)).eval()
    weights = {key: value for key, value in masks.state_dict().items() if ".head.2." not in key}
    adds.load_state_dict({**adds.state_dict(), **weights})
    adds.net.head[2].weight.data[:3] = masks.net.head[2].weight.data
    adds.net.head[2].bias.data[:3] = masks.net.head[2].bias.data
    waveform = torch.randn(1, 44_100)
    waveform[:, 20_000:22_500] = 0  # 57 ms
    with torch.inference_mode():
        before = masks(waveform)
        # It begins with little.
        error = (adds(waveform) - before).square().mean() / before.square().mean()
        assert 10 * torch.log10(error) < -20
        adds.net.head[2].bias.data[7] = 3.0
        filled = adds(waveform)
    gap = slice(21_200, 21_300)
    assert filled[:, gap].abs().max() > 10 * before[:, gap].abs().max()
    assert torch.equal(adds(torch.zeros(1, 8400)), torch.zeros(1, 8400))


def test_a_second_look_brings_back_what_a_denoiser_took():
    torch.manual_seed(0)
    twice = Denoiser(dataclasses.replace(SMALL, residual=True, sees_mixture=True)).eval()
    mixture = torch.randn(1, 20_000)
    denoised = 0.3 * mixture
    denoised[:, 8_000:12_000] = 0  # a word that was taken for noise
    word = slice(9_000, 11_000)
    with torch.inference_mode():
        twice.net.head[2].weight.data[9:] = 0
        twice.net.head[2].bias.data[9:] = 0
        without = twice(denoised, mixture)
        twice.net.head[2].bias.data[9] = 1.0  # all of the mixture is added
        answer = twice(denoised, mixture)
        # At the level of the denoised recording's peak.
        added = mixture[:, word] / denoised.abs().max()
        torch.testing.assert_close(answer[:, word] - without[:, word], added * 0.970143, rtol=0, atol=1e-3)
        # No level of what came in tells apart, and rows do not meet.
        torch.testing.assert_close(twice(0.1 * denoised, 0.1 * mixture), answer, rtol=0, atol=1e-3)
        rows = twice(torch.cat([mixture, denoised]), torch.cat([mixture, mixture]))
        torch.testing.assert_close(rows[1:], answer, rtol=0, atol=1e-4)
        assert torch.equal(twice(mixture), twice(mixture, mixture))
        # Where no speech was found, what is left stays as faint as it was.
        faint = 1e-4 * denoised
        level = faint.abs().max() / mixture.abs().max()
        assert (twice(faint, mixture).abs().max() * level) < 0.01
    with pytest.raises(ConfigError, match="sees_mixture: needs residual"):
        dataclasses.replace(SMALL, sees_mixture=True)


def test_neighbours_of_a_steady_tone_are_the_tone_itself():
    """Up to a third of a bin beside the middle of one, where their phases begin to differ."""
    denoiser = Denoiser(SMALL)
    n_fft, hop = SMALL.n_fft, SMALL.hop
    for offset, least in ((0.0, 0.999), (0.3, 0.7)):
        time = torch.arange(20_000) * (2 * torch.pi * (20 + offset) / n_fft)
        spectrum = stft(torch.sin(time)[None], n_fft=n_fft, hop=hop)
        around = denoiser.neighbours(spectrum, ((1, 1.0), (2, 0.5)))
        place = (0, 20, slice(10, -10))
        likeness = (around[place] * spectrum[place].conj()).mean() / spectrum[place].abs().square().mean()
        assert likeness.real > least
        assert likeness.imag.abs() < 0.05


def test_features_in_use_are_those_of_training_from_silence_to_full_scale():
    denoiser = Denoiser(dataclasses.replace(SMALL, bands=None))
    magnitudes = 10.0 ** torch.arange(-17, 3)
    spectrum = torch.polar(
        magnitudes.expand(1, 841, -1), torch.linspace(-3, 3, 841)[:, None].expand(1, -1, 20)
    )
    spectrum = torch.cat([torch.zeros(1, 841, 3, dtype=torch.complex64), spectrum], dim=-1)
    trained = denoiser._features(spectrum)
    with torch.inference_mode():
        used = denoiser._features(spectrum)
    torch.testing.assert_close(used[..., 3:], trained[..., 3:], rtol=1e-5, atol=1e-6)
    assert not used[..., :3].any()
