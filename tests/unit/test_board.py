"""Curves for those who are not TensorBoard."""

import sys
import types

import pytest

from enhance_ray.errors import ConfigError
from enhance_ray.training.board import Board


def fake_wandb(calls):
    module = types.ModuleType("wandb")
    module.init = lambda **settings: calls.append(("init", settings))
    module.log = lambda values, step: calls.append(("log", step, values))
    module.finish = lambda: calls.append(("finish",))
    return module


def fake_mlflow(calls, known):
    module = types.ModuleType("mlflow")
    run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="7"))
    module.search_runs = lambda filter_string, output_format: [run] if known else []
    module.start_run = lambda **settings: calls.append(("start", settings))
    module.log_dict = lambda values, name: calls.append(("settings", values))
    module.log_metrics = lambda values, step: calls.append(("log", step, values))
    module.end_run = lambda: calls.append(("end",))
    return module


def test_weights_and_biases_gets_the_curves_and_takes_a_run_up_again(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(calls))
    with Board(tmp_path, track="wandb", name="mine", settings={"seed": 1}) as board:
        board.scalars(3, "train", {"loss": 0.5})
    started = {"name": "mine", "id": "mine", "resume": "allow", "config": {"seed": 1}}
    assert calls == [("init", started), ("log", 3, {"train/loss": 0.5}), ("finish",)]


@pytest.mark.parametrize("known", [False, True])
def test_mlflow_gets_the_curves_and_takes_a_run_up_again(tmp_path, monkeypatch, known):
    calls = []
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow(calls, known))
    with Board(tmp_path, track="mlflow", name="mine", settings={"seed": 1}) as board:
        board.scalars(3, "train", {"loss": 0.5})
    new = [("start", {"run_name": "mine"}), ("settings", {"seed": 1})]
    begun = [("start", {"run_id": "7"})] if known else new
    assert calls == [*begun, ("log", 3, {"train/loss": 0.5}), ("end",)]


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        Board(tmp_path, track="wandb", name="mine")


def test_other_workers_tell_nobody(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(calls))
    with Board(None, track="wandb", name="mine") as board:
        board.scalars(1, "train", {"loss": 1.0})
    assert not calls
