"""Speech and music told apart by the packaged net: samples/ speaks, a jingle is synthesised here."""

from pathlib import Path

import pytest
import soundfile
import torch

from enhance_ray.errors import CheckpointError
from enhance_ray.models import activity, packaged
from enhance_ray.models.activity import REACH, STEP, ActivityNet, music_alone, smooth

RATE = 44_100
CLEAN = Path(__file__).parents[2] / "samples" / "clean"
EDGE = 3
"""Steps at the ends of a recording, of which the net hears one side only."""


def read(name):
    samples, rate = soundfile.read(CLEAN / f"{name}.flac", dtype="float32")
    assert rate == RATE
    return torch.from_numpy(samples)


def jingle(seconds=4.0, tempo=0.25):
    """An arpeggio of C major over its chord."""
    chord = torch.tensor([523.25, 659.26, 783.99, 1046.5])
    time = torch.arange(int(seconds * RATE)) / RATE
    beat = (time / tempo).long()
    since = time - beat * tempo
    turns = 2 * torch.pi * chord[beat % 4] * since
    pluck = sum(torch.sin(k * turns) / k for k in (1, 2, 3)) * torch.exp(-since / 0.3)
    pad = torch.sin(torch.pi * chord[:3, None] * time).sum(dim=0)
    return 0.1 * pluck + 0.03 * pad


@pytest.fixture(scope="module")
def net():
    return activity.load()


@pytest.fixture(scope="module")
def speech():
    return read("kathleen_helicopter")


@torch.inference_mode()
def judge(net, waveform):
    """Logits (2, step)."""
    return net(waveform[None])[0]


def shares(logits):
    """Of the steps, those in which speech is heard and those in which music is."""
    return (logits[:, EDGE:-EDGE] > 0).float().mean(dim=1)


@pytest.mark.parametrize("name", ["gaelic_playground", "kathleen_chainsaw", "kerstin_rain_in_a_room"])
def test_speech_is_called_speech_and_not_music(net, name):
    logits = judge(net, read(name))
    said, played = shares(logits)
    assert said > 0.8
    assert played < 0.05
    assert not music_alone(logits[None]).any()


@pytest.mark.parametrize("tempo", [0.25, 0.35, 0.5])
def test_a_jingle_is_called_music_and_not_speech(net, tempo):
    logits = judge(net, jingle(tempo=tempo))
    said, played = shares(logits)
    assert said < 0.05
    assert played > 0.8
    assert music_alone(logits[None]).float().mean() > 0.95


def test_speech_over_a_jingle_is_both(net, speech):
    bed = jingle(len(speech) / RATE)[: len(speech)]
    mixture = speech + 10 ** (-10 / 20) * bed * speech.std() / bed.std()
    logits = judge(net, mixture)
    said, played = shares(logits)
    assert said > 0.8
    assert played > 0.8
    assert not music_alone(logits[None]).any()


@pytest.mark.parametrize("length", [1, 100, STEP, 5 * RATE])
@pytest.mark.parametrize("level", [0.0, 1e-9])
def test_silence_is_neither(net, length, level):
    logits = judge(net, level * torch.randn(length, generator=torch.Generator().manual_seed(0)))
    assert (logits < 0).all()
    assert not music_alone(logits[None]).any()


def test_hiss_is_neither(net):
    assert (judge(net, torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))) < 0).all()


@pytest.mark.parametrize("gain", [2**-10, 2**-4, 2**3])  # exact in binary: what differs is the level alone
def test_gain_changes_nothing(net, speech, gain):
    both = torch.cat([speech, jingle()])
    # The constant that keeps silence finite is what is left: -130 dB of full scale, against -60 dB here.
    torch.testing.assert_close(judge(net, gain * both), judge(net, both), rtol=0, atol=2e-2)


def test_a_batch_of_two_equals_two_of_one(net, speech):
    tune = jingle(len(speech) / RATE + 1)[: len(speech)]
    together = net(torch.stack([speech, tune]))
    apart = torch.stack([judge(net, speech), judge(net, tune)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-4)  # another order of summation


def test_a_longer_input_only_adds_steps(net, speech):
    whole = torch.cat([speech, jingle()])
    steps = len(speech) // STEP
    short = judge(net, whole[: steps * STEP])
    assert short.shape == (2, steps)
    kept = steps - REACH
    assert kept > 0
    torch.testing.assert_close(judge(net, whole)[:, :kept], short[:, :kept], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("length", "steps"), [(1, 1), (STEP - 1, 1), (STEP, 1), (STEP + 1, 2), (10 * STEP, 10)]
)
def test_there_is_a_step_for_each_begun_one(length, steps):
    assert ActivityNet().eval()(torch.zeros(1, length)).shape == (1, 2, steps)


def test_a_step_is_about_its_own_samples(net, speech):
    begins = 3.0
    spoken = speech[int((speech.abs() > 0.05).nonzero()[0]) :]
    noise = torch.randn(int(8 * RATE), generator=torch.Generator().manual_seed(0))
    noise = 1e-2 * spoken.std() * noise
    noise[int(begins * RATE) :] += spoken[: len(noise) - int(begins * RATE)]
    said = judge(net, noise)[0] > 0
    first = said.nonzero()[0].item()
    assert abs((first + 0.5) * STEP / RATE - begins) < 2 * STEP / RATE


def test_features_are_symmetric_in_time():
    """A step is centred: playing backwards mirrors the frames."""
    net = ActivityNet()
    waveform = torch.randn(1, 30 * STEP, generator=torch.Generator().manual_seed(0))
    # Periodic windows are off centre by half a sample in 2048.
    difference = net.features(waveform.flip(-1)) - net.features(waveform).flip(-1)
    assert difference.abs().mean() < 5e-3


def test_smoothing_is_the_mean_of_the_limited_logits():
    logits = torch.full((1, 2, 30), 100.0)
    logits[..., 15:] = -2.0
    smoothed = smooth(logits)
    assert smoothed[0, 0, 0] == 6
    assert smoothed[0, 0, 15].item() == pytest.approx((5 * 6 - 6 * 2) / 11)
    assert smoothed[0, 0, -1] == -2


def test_absent_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        activity.load.__wrapped__()
