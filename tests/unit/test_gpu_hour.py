"""The hour on a GPU: parts that may be stopped, and settings that a training accepts."""

import importlib
import sys
from pathlib import Path

import pytest

from enhance_ray.settings import trees
from enhance_ray.training.settings import TrainConfig


@pytest.fixture
def gpu_hour(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("gpu_hour")


def python(gpu_hour, name, code):
    return gpu_hour.Part(name=name, command=(sys.executable, "-c", code))


def test_a_part_that_is_stopped_is_taken_up_again_and_one_that_is_done_is_not(gpu_hour, tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    first = python(gpu_hour, "first", count)
    slow = python(gpu_hour, "slow", "import time; time.sleep(60)")
    quick = python(gpu_hour, "slow", count)
    assert gpu_hour.work_on([first, slow], tmp_path, 3.0) == gpu_hour.MORE
    assert gpu_hour.work_on([first, quick], tmp_path, 60.0) == 0
    assert gpu_hour.work_on([first, quick], tmp_path, 60.0) == 0
    assert (tmp_path / "count").read_text() == "xx"


def test_a_part_that_fails_ends_the_call_and_keeps_its_log(gpu_hour, tmp_path, capsys):
    parts = [python(gpu_hour, "bad", "raise SystemExit('no room')"), python(gpu_hour, "never", "")]
    assert gpu_hour.work_on(parts, tmp_path, 60.0) == 1
    assert (tmp_path / "bad.log").read_text().strip() == "no room"
    assert "bad.log" in capsys.readouterr().out and not (tmp_path / "never.log").exists()


@pytest.mark.parametrize("toy", [False, True])
def test_every_training_of_the_plan_has_settings_that_are_accepted(gpu_hour, tmp_path, toy):
    trained = {}
    for part in gpu_hour.plan(tmp_path, "corpus", "cuda", toy=toy):
        if "train" in part.command:
            words = list(part.command)
            overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            trained[part.name] = trees.load(TrainConfig, words[words.index("train") + 1], overrides)
    assert [settings.stage for settings in trained.values()] == ["denoiser", "flow", "distil"]
    assert trained["enhancer"].denoiser_from == str(tmp_path / "denoiser")
    assert trained["distil"].init_from == str(tmp_path / "enhancer")
