"""The small judge of speech: it ranks as DNSMOS does, whatever the level, and never answers with nan."""

from pathlib import Path

import numpy as np
import pytest
import torch

from enhance_ray import checkpoint, metrics
from enhance_ray.audio import decode
from enhance_ray.errors import CheckpointError
from enhance_ray.models import opinion, packaged
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.mos.clips import SECONDS, at_level, rate
from enhance_ray.training.mos.collection import Rated
from enhance_ray.training.mos.evaluation import evaluate

SAMPLES = Path(__file__).parents[2] / "samples"
NAMES = ("kathleen_helicopter", "kerstin_rain_in_a_room", "gaelic_playground", "kathleen_chainsaw")
DRY = [0, 2, 3]
"""Those without a room, which DNSMOS takes for noise."""
SIG, BAK, OVRL = range(3)


def read(side):
    """(recording, time): the first seconds of the samples."""
    rows = []
    for name in NAMES:
        (path,) = (SAMPLES / side).glob(f"{name}.*")
        with decode(str(path)) as decoder:
            waveform = np.concatenate([block.mean(axis=0) for block in decoder])
            waveform = metrics.resample(waveform, decoder.info.sample_rate, MODEL_RATE)
        rows.append(waveform[: int(SECONDS * MODEL_RATE)])
    return torch.from_numpy(np.stack(rows).astype(np.float32))


@pytest.fixture(scope="module")
def noisy():
    return read("noisy")


@pytest.fixture(scope="module")
def clean():
    return read("clean")


@pytest.fixture(scope="module")
def net():
    return opinion.load()


def test_clean_speech_is_rated_above_the_same_speech_in_noise(net, noisy, clean):
    gain = net(clean[DRY]) - net(noisy[DRY])
    assert (gain[:, BAK] > 1).all()
    assert (gain[:, OVRL] > 0.5).all()


def test_a_denoiser_is_seen_to_help(net, noisy):
    sound = noisy[:1, : 3 * MODEL_RATE]
    gain = net(checkpoint.load(denoiser_only=True).denoiser(sound)) - net(sound)
    assert gain[0, BAK] > 1
    assert gain[0, OVRL] > 0.3


def test_more_noise_is_worse(net, noisy, clean):
    noise = noisy[DRY] - clean[DRY]
    ratings = torch.stack([net(clean[DRY] + share * noise) for share in (0, 0.2, 1)])
    assert (ratings.diff(dim=0)[..., [BAK, OVRL]] < 0).all()


# The net's errors on held-out clips are in its card: an RMSE of about 0.3. These voices it knows.
def test_it_agrees_with_dnsmos(net, noisy, clean):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("speechmos")
    sounds = torch.cat([noisy[:2], clean[:2]])
    expected = np.stack([rate(at_level(sound.numpy())) for sound in sounds])
    error = np.abs(net(sounds).numpy() - expected)
    assert error.mean() < 0.3
    assert error.max() < 0.8


@pytest.mark.parametrize("gain", [1e-4, 30.0])
def test_a_gain_changes_nothing(net, noisy, gain):
    torch.testing.assert_close(net(gain * noisy), net(noisy), atol=1e-4, rtol=0)


def test_a_batch_of_two_equals_two_of_one(net, noisy):
    alone = torch.cat([net(noisy[:1]), net(noisy[1:2])])
    torch.testing.assert_close(net(noisy[:2]), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seconds", [1, 8.5])
def test_any_length_from_a_second_on_has_a_rating(net, noisy, seconds):
    sound = noisy.repeat(1, 2)[:, : int(seconds * MODEL_RATE)]
    ratings = net(sound)
    assert ratings.shape == (len(NAMES), 3)
    assert ((ratings > 1) & (ratings < 5)).all()


def test_silence_has_the_rating_that_dnsmos_gives_it(net):
    sounds = torch.zeros(2, opinion.SHORTEST)
    sounds[1, 1000] = 1e-9  # all but silence
    ratings = net(sounds)
    assert ratings[0].tolist() == pytest.approx(opinion.SILENCE)
    assert ratings.isfinite().all()


def test_weights_that_do_not_fit_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged.importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        opinion.load.__wrapped__()


def test_agreement_is_told_of_as_many_clips_as_there_are(net, clean, noisy):
    """Of one clip of a kind there is no correlation, of none no error either."""
    features = net.features(torch.cat([noisy[:2], clean[:1]])).half()
    kinds, groups = np.array(["input", "input", "denoised"]), np.array([0, 1, 1])
    ratings = torch.tensor([[1.0, 2.0, 1.5], [2.0, 2.5, 2.0], [4.0, 4.0, 3.5]])
    table = evaluate(net, Rated(features, ratings, kinds, groups))
    cells = {tuple(row.split(" | ")[:3]): row.split(" | ")[3:] for row in table.splitlines()}
    assert "-" not in cells["| input", "2", "SIG"]
    assert cells["| denoised", "1", "SIG"][:2] == ["-", "-"] and cells["| denoised", "1", "SIG"][2] != "-"
    assert cells["| enhanced", "0", "SIG"][:3] == ["-", "-", "-"]
