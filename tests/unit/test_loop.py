"""The training loop: schedule, resumption to the same numbers, divergence."""

import dataclasses
import json
import math

import pytest
import torch
from small_models import write_small_corpus

from enhance_ray import checkpoint
from enhance_ray.errors import ConfigError, TrainingDivergedError
from enhance_ray.settings import trees
from enhance_ray.training import loop
from enhance_ray.training.context import METRICS_NAME, LocalContext
from enhance_ray.training.examples import load_banks
from enhance_ray.training.loop import OptimizerConfig, TrainConfig


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A net and a corpus as small as they get."""
    root = tmp_path_factory.mktemp("corpus")
    write_small_corpus(root)
    tree = {
        "batch_size": 2,
        "model": {"hidden": 4, "blocks": 1, "middle_blocks": 0, "features": "compressed", "bands": 32},
        "corpus": {"root": str(root), "cache": str(root / "cache"), "held_out_every": 3},
        "examples": {"crop_seconds": 0.3},
        "loss": {"spectrum": 1.0, "resolutions": [512], "keep_level": True},
        "optimizer": {"max_lr": 0.01, "warmup_steps": 2, "max_steps": 12, "ema_decay": 0.9},
        "log_every": 1,
        "validate_every": 6,
        "checkpoint_every": 4,
        "validation_examples": 2,
        "validation_seconds": 1.0,
        "workers": 0,
    }
    return trees.from_tree(TrainConfig, tree)


def train(settings, folder):
    return loop.run(settings, LocalContext(folder, device=torch.device("cpu")))


def trainer_in(folder, settings):
    return loop.Trainer(
        settings,
        LocalContext(folder, device=torch.device("cpu")),
        load_banks(settings.corpus, "train"),
    )


def noise_batch(generator=None):
    noisy, target = (torch.randn(2, 8820, generator=generator) for _ in range(2))
    return {"index": torch.arange(2), "noisy": noisy, "target": target}


def losses(folder):
    lines = map(json.loads, (folder / METRICS_NAME).read_text().splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.mark.parametrize(("capability", "bf16"), [("amx_bf16", True), ("avx2", False)])
def test_automatic_precision_is_what_the_processor_computes_in(
    settings, tmp_path, monkeypatch, capability, bf16
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    trainer = trainer_in(tmp_path, dataclasses.replace(settings, precision="auto"))
    with trainer.autocast():
        assert torch.is_autocast_enabled("cpu") is bf16


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def test_a_killed_training_goes_on_to_the_same_numbers(settings, tmp_path, monkeypatch):
    scores = train(settings, tmp_path / "whole")

    step = loop.Trainer.step

    def step_until_killed(trainer, batch):
        if trainer.steps_done == 7:
            raise Killed
        return step(trainer, batch)

    monkeypatch.setattr(loop.Trainer, "step", step_until_killed)
    with pytest.raises(Killed):
        train(settings, tmp_path / "killed")
    assert sorted(losses(tmp_path / "killed")) == list(range(1, 8))
    monkeypatch.setattr(loop.Trainer, "step", step)

    # Steps 5 to 7 came after the last checkpoint and are done again.
    resumed_scores = train(settings, tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert resumed_scores == pytest.approx(scores)  # ESTOI dithers
    final = [
        checkpoint.load(tmp_path / run / "checkpoints" / "step_00000012").denoiser.state_dict()
        for run in ("whole", "killed")
    ]
    torch.testing.assert_close(final[0], final[1], rtol=0, atol=0)


def test_only_the_newest_checkpoints_are_kept_and_each_is_a_model(settings, tmp_path):
    context = LocalContext(tmp_path, device=torch.device("cpu"), keep=2)
    loop.run(settings, context)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step_00000008",
        "step_00000012",
    ]
    assert checkpoint.load(context.resume_from()).config.denoiser == settings.model
    assert not (tmp_path / "saving").exists()


def test_a_finished_run_has_nothing_left_to_do(settings, tmp_path):
    train(settings, tmp_path)
    before = losses(tmp_path)
    assert train(settings, tmp_path) == {}
    assert losses(tmp_path) == before


def test_a_run_folder_of_another_model_is_refused(settings, tmp_path):
    train(settings, tmp_path)
    tree = trees.to_tree(settings)
    tree["model"]["hidden"] = 8
    with pytest.raises(ConfigError, match="another model"):
        train(trees.from_tree(TrainConfig, tree), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(settings, tmp_path, monkeypatch):
    step = loop.Trainer.step

    def broken_step(trainer, batch):
        factor = math.nan if trainer.steps_done == 5 else 1
        return step(trainer, {**batch, "noisy": factor * batch["noisy"]})

    monkeypatch.setattr(loop.Trainer, "step", broken_step)
    with pytest.raises(TrainingDivergedError, match="step 6"):
        train(settings, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]


def test_learning_rate_is_the_originals():
    """Spec 6.7: up by 9e-5 in 1000 steps, down to 1e-5 at the millionth."""
    schedule = OptimizerConfig()
    assert schedule.lr(0) == pytest.approx(1e-5)
    assert schedule.lr(500) == pytest.approx(1e-5 + 9e-5 / 2)
    assert schedule.lr(1000) == pytest.approx(1e-4)
    assert schedule.lr(500_500) == pytest.approx(1e-5 + 9e-5 * (1e6 - 500_500) / (1e6 - 1000))
    assert schedule.lr(1_000_000) == pytest.approx(1e-5)


def test_what_is_saved_is_the_moving_average(settings, tmp_path):
    trainer = trainer_in(tmp_path, settings)
    expected = {key: value.clone() for key, value in trainer.net.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for done in range(5):
        trainer.step(noise_batch(generator))
        decay = min(0.9, (1 + done) / (10 + done))
        current = trainer.net.state_dict()
        expected = {key: decay * expected[key] + (1 - decay) * current[key] for key in expected}
    trainer.save(tmp_path / "model")
    torch.testing.assert_close(checkpoint.load(tmp_path / "model").denoiser.state_dict(), expected)


def test_fine_tuning_starts_with_the_weights_and_sizes_of_a_model(settings, tmp_path):
    train(settings, tmp_path / "first")
    model = tmp_path / "first" / "checkpoints" / "step_00000012"
    other_sizes = dataclasses.replace(settings.model, hidden=8)
    tuned = dataclasses.replace(settings, init_from=str(tmp_path / "first"), seed=1, model=other_sizes)
    trainer = trainer_in(tmp_path / "second", tuned)
    torch.testing.assert_close(
        trainer.net.state_dict(), checkpoint.load(model).denoiser.state_dict(), rtol=0, atol=0
    )
    before = trainer.net.net.input_proj.weight.detach().clone()
    trainer.step(noise_batch())
    assert not torch.equal(trainer.net.net.input_proj.weight, before)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_lr": 1.0}, "min_lr"),
        ({"warmup_steps": 10, "max_steps": 10}, "warmup_steps"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        OptimizerConfig(**settings)


@pytest.mark.parametrize("path", ["configs/train_denoiser.yaml", "configs/compact/train_denoiser.yaml"])
def test_the_configurations_in_the_repository_are_valid(path, pytestconfig):
    trees.load(TrainConfig, pytestconfig.rootpath / path)


def test_the_originals_configuration_says_nothing_but_defaults(pytestconfig):
    """Where it differs from the defaults of the code, one of the two is wrong."""
    loaded = trees.to_tree(trees.load(TrainConfig, pytestconfig.rootpath / "configs/train_denoiser.yaml"))
    defaults = trees.to_tree(TrainConfig())
    assert {key for key in loaded if loaded[key] != defaults[key]} <= {"workers"}
