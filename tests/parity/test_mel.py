"""The mel front end against the original's."""

import pytest
import torch
from parity.fixtures import Fixture

from enhance_ray.dsp.mel import MelSpectrogram

CASES = ["mel/default", "mel/len_not_multiple", "mel/tiny", "mel/no_preemphasis", "mel/silence"]


def build(fixture: Fixture) -> MelSpectrogram:
    hyper = fixture.hyper
    mel = MelSpectrogram(
        sample_rate=hyper["wav_rate"],
        n_fft=hyper["n_fft"],
        window_length=hyper["win_size"],
        hop=hyper["hop_size"],
        mels=hyper["num_mels"],
        magnitude_floor=hyper["stft_magnitude_min"],
        preemphasis=hyper["preemphasis"],
    )
    weights = fixture.weights() if fixture.entry["weights"] else {}
    if weights:  # not in the selection of tests/golden, where the module's own have to do
        mel.window.copy_(weights["melspec.spectrogram.window"])
        mel.filter_bank.copy_(weights["melspec.mel_scale.fb"])
    return mel


@pytest.mark.parametrize("name", CASES)
def test_mel_spectrogram_is_the_originals(name):
    fixture = Fixture(name)
    fixture.check("mel", build(fixture)(fixture.input("x"), drop_last=False))


def test_a_wrong_preemphasis_is_seen():
    fixture = Fixture("mel/default")
    mel = build(fixture)
    mel.preemphasis = 0.95
    with pytest.raises(AssertionError):
        fixture.check("mel", mel(fixture.input("x"), drop_last=False))


def test_the_last_frame_is_dropped_unless_asked_for():
    fixture = Fixture("mel/len_not_multiple")
    mel, waveform = build(fixture), fixture.input("x")
    every, most = mel(waveform, drop_last=False), mel(waveform)
    assert most.shape[-1] == waveform.shape[-1] // mel.hop
    torch.testing.assert_close(most, every[..., :-1], rtol=0, atol=0)
