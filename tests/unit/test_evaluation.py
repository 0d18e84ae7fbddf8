"""Evaluations: what the conditions are, and that nothing but (seed, index) decides an example."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from enhance_ray import evaluation
from enhance_ray.errors import ConfigError
from enhance_ray.evaluation import EvaluateConfig
from enhance_ray.options import MODEL_RATE
from enhance_ray.pipeline import Enhancer
from enhance_ray.training.examples import CorpusConfig, load_banks

SAMPLES = Path(__file__).parents[2] / "samples" / "corpus"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    corpus = CorpusConfig(
        root=str(SAMPLES),
        speech=("speech.csv",),
        noise=("noise.csv",),
        rooms=(),
        cache=tmp_path_factory.mktemp("cache"),
    )
    return EvaluateConfig(corpus=corpus, count=2, seconds=3.0, modes=("denoise",))


@pytest.fixture(scope="module")
def banks(config):
    return load_banks(config.corpus, "valid")


def share_above(waveform, frequency):
    power = np.square(np.abs(np.fft.rfft(waveform)))
    return power[int(frequency * len(waveform) / MODEL_RATE) :].sum() / power.sum()


def test_narrow_is_the_same_speech_without_what_lies_above_4_khz(config, banks):
    for condition in ("narrow", "narrow_noisy"):
        example = evaluation.make(banks, config, condition, 0)
        assert share_above(example.degraded, 4000) < 1e-6
        assert share_above(example.reference, 4000) > 1e-4
    same = [evaluation.make(banks, config, condition, 0).reference for condition in ("noisy", "narrow")]
    np.testing.assert_array_equal(*same)


def test_an_example_depends_on_seed_and_index_alone(config, banks):
    first = evaluation.make(banks, config, "noisy", 1)
    evaluation.make(banks, config, "noisy", 0)
    np.testing.assert_array_equal(first.degraded, evaluation.make(banks, config, "noisy", 1).degraded)
    other = evaluation.make(banks, dataclasses.replace(config, seed=1), "noisy", 1)
    assert not np.array_equal(first.degraded, other.degraded)


def test_a_model_that_changes_nothing_scores_as_the_input_does(config, banks):
    """It answers at the level of a peak of 1, as denoisers do; the pipeline puts the level back."""
    enhancer = Enhancer(nn.Identity(), device="cpu")
    rows = list(evaluation.score(enhancer, banks, config, 0))
    assert [(row["condition"], row["system"]) for row in rows] == [
        (condition, system) for condition in config.conditions for system in ("input", "denoise")
    ]
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        for name in evaluation.SCORES:
            assert after[name] == pytest.approx(before[name], rel=0.02, abs=0.02), name


def test_a_table_has_a_line_for_each_condition_and_system():
    row = dict.fromkeys(evaluation.SCORES, 1.0)
    rows = [
        {"condition": "noisy", "index": i, "system": s, **row} for i in range(3) for s in ("input", "denoise")
    ]
    lines = evaluation.table(rows).splitlines()
    assert len(lines) == 4 and lines[3].startswith("| noisy | denoise | 1.00 ± 0.00")
    assert evaluation.means(rows)["noisy"]["input"]["lsd_high"] == 1.0


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="count"):
        EvaluateConfig(count=0)
    with pytest.raises(ConfigError, match="modes"):
        EvaluateConfig(modes=())
