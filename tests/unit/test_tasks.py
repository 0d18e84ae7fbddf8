"""Stages 1 and 2 in the training loop: what learns, what does not, and what each takes from the other."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from small_models import write_small_corpus

from enhance_ray import checkpoint
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import CheckpointError, ConfigError
from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions
from enhance_ray.training import loop
from enhance_ray.training.context import METRICS_NAME, LocalContext
from enhance_ray.training.draws import flow_draws
from enhance_ray.training.examples import load_banks, make_clean
from enhance_ray.training.loop import TrainConfig
from enhance_ray.training.stages import distil_step

UNIVNET = {"vocoder": {"channels": 8, "predictor_hidden": 8}}
SOURCE_FILTER = {"source_filter": {"bands": 48, "hidden": 16, "blocks": 1, "groups": 4}}
CRITICS = {"periods": [2, 3], "period_channels": [4, 8], "resolution_channels": 4}


def settings(root, **changes):
    vocoder = changes.pop("sound", UNIVNET)
    tree = {
        "batch_size": 2,
        "model": {"hidden": 4, "blocks": 1, "middle_blocks": 0, "features": "compressed", "bands": 32},
        "enhancer": {
            "mels": 24,
            "autoencoder": {"latent": 8, "extra": 4, "hidden": 32, "blocks": 1},
            "velocity": {"hidden": 16, "layers": 4, "time_channels": 16},
            **vocoder,
        },
        "corpus": {"root": str(root), "cache": str(root / "cache"), "held_out_every": 3},
        "examples": {"crop_seconds": 0.3},
        "autoencoder": {"gan_start": 3, "discriminator": CRITICS},
        "optimizer": {"max_lr": 0.003, "warmup_steps": 2, "max_steps": 6, "ema_decay": 0.9},
        "log_every": 1,
        "validate_every": 6,
        "checkpoint_every": 4,
        "validation_examples": 2,
        "validation_seconds": 1.0,
        "workers": 0,
        **changes,
    }
    return trees.from_tree(TrainConfig, tree)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    write_small_corpus(root)
    return root


def train(settings, folder):
    loop.run(settings, LocalContext(folder, device=torch.device("cpu")))
    return folder / "checkpoints" / "step_00000006"


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]


def curve(folder, name):
    return {line["step"]: line[f"train/{name}"] for line in lines(folder) if f"train/{name}" in line}


@pytest.fixture(scope="module")
def stage_1(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage_1")
    return folder, train(settings(root, stage="autoencoder"), folder)


@pytest.fixture(scope="module")
def stage_2(root, stage_1, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage_2")
    flow = {"autoencoder_from": str(stage_1[0]), "validation_nfe": 2}
    return folder, train(settings(root, stage="flow", flow=flow), folder)


def test_critics_take_part_from_their_step_on(stage_1):
    folder, _ = stage_1
    assert sorted(curve(folder, "mse")) == [1, 2, 3, 4, 5, 6]
    for name in ("generator_mpd", "critics_mpd_fake", "critics_mrd_real"):
        assert sorted(curve(folder, name)) == [4, 5, 6]


def test_a_killed_stage_1_goes_on_to_the_same_numbers_critics_included(root, stage_1, tmp_path):
    train(settings(root, stage="autoencoder"), tmp_path)
    (tmp_path / "checkpoints" / "step_00000006" / checkpoint.STATE_NAME).unlink()
    for path in sorted((tmp_path / "checkpoints" / "step_00000006").iterdir()):
        path.unlink()
    (tmp_path / "checkpoints" / "step_00000006").rmdir()
    resumed = train(settings(root, stage="autoencoder"), tmp_path)
    weights = [checkpoint.load(path).net.state_dict() for path in (stage_1[1], resumed)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    critics = [checkpoint.read_state(path)["others"]["critics"] for path in (stage_1[1], resumed)]
    torch.testing.assert_close(critics[0], critics[1], rtol=0, atol=0)


def test_a_stage_1_model_is_refused_where_a_recording_is_to_be_restored(stage_1):
    with pytest.raises(CheckpointError, match="stage 1"):
        Enhancer.load(stage_1[1], device="cpu")


def test_stage_2_leaves_all_but_flow_and_denoiser_as_stage_1_made_it(stage_1, stage_2):
    before, after = (checkpoint.load(path).net.state_dict() for path in (stage_1[1], stage_2[1]))
    changed = {key.partition(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"flow", "denoiser"}


def test_stage_2_keeps_the_denoiser_where_asked(root, stage_1, tmp_path):
    flow = {"autoencoder_from": str(stage_1[1]), "train_denoiser": False, "validation_nfe": 2}
    done = train(settings(root, stage="flow", flow=flow), tmp_path)
    before, after = (checkpoint.load(path).net.state_dict() for path in (stage_1[1], done))
    assert {key.partition(".")[0] for key in after if not torch.equal(before[key], after[key])} == {"flow"}
    assert "train/denoiser_l1" not in lines(tmp_path)[0]


def test_distillation_teaches_the_flow_alone_and_says_how_many_evaluations_it_is_for(root, stage_2, tmp_path):
    distil = {"nfe": 1, "teacher_nfe": 4}
    done = train(settings(root, stage="distil", init_from=str(stage_2[1]), distil=distil), tmp_path)
    before, after = (checkpoint.load(path) for path in (stage_2[1], done))
    weights, learnt = before.net.state_dict(), after.net.state_dict()
    assert {key.partition(".")[0] for key in learnt if not torch.equal(weights[key], learnt[key])} == {"flow"}
    assert after.config.enhancer.nfe == 1


def test_distillation_aims_at_where_the_teacher_leads(stage_2):
    net = checkpoint.load(stage_2[1]).net
    frames = 2 * MODEL_RATE // net.hop
    draws = flow_draws(0, [0, 1], 8, frames)
    noisy = torch.randn(2, 2 * MODEL_RATE, generator=torch.Generator().manual_seed(0))[:, : frames * net.hop]
    aims = []

    def loss(start, end, *_, **__):
        aims.append((start, end))
        return torch.zeros(())

    teacher = copy.deepcopy(net.flow)
    net.flow.loss = loss
    distil_step(net, teacher, noisy, draws, nfe=8, solver="ab2")
    [(start, end)] = aims
    noisy = normalise_peak(noisy)
    guide = net.normalise(net.denoiser(noisy))
    expected = teacher.sample(start, guide, solver="ab2", nfe=8)
    torch.testing.assert_close(end, expected)
    assert not torch.allclose(start, end)


def test_the_latents_scale_is_measured_so_that_clean_speech_has_a_spread_of_1(root, stage_2):
    model = checkpoint.load(stage_2[1])
    banks = load_banks(settings(root).corpus, "train")
    crops = [make_clean(banks, settings(root).examples, np.random.default_rng(i)) for i in range(40)]
    clean = torch.from_numpy(np.stack([crop for crop in crops if crop.any()]))
    with torch.no_grad():
        latent = model.net.autoencoder.encode(model.net.normalise(normalise_peak(clean)))
    assert float(latent.std()) * model.config.enhancer.latent_scale == pytest.approx(1, rel=0.15)


def test_the_result_of_both_stages_restores_a_recording(stage_2):
    enhancer = Enhancer.load(stage_2[1], device="cpu")
    restored, _ = enhancer.enhance(
        np.float32(0.1) * np.ones(30_000, np.float32), MODEL_RATE, EnhanceOptions(mode="enhance", nfe=2)
    )
    assert restored.shape == (30_000,) and np.isfinite(restored).all()


def test_fine_tuning_takes_sizes_weights_and_critics_of_a_model(root, stage_1, tmp_path):
    tuned = settings(root, stage="autoencoder", init_from=str(stage_1[1]), model={}, enhancer={}, seed=5)
    context = LocalContext(tmp_path, device=torch.device("cpu"))
    trainer = loop.Trainer(tuned, context, load_banks(tuned.corpus, "train"))
    expected = checkpoint.load(stage_1[1]).net.state_dict()
    torch.testing.assert_close(trainer.net.state_dict(), expected, rtol=0, atol=0)
    critics = checkpoint.read_state(stage_1[1])["others"]["critics"]
    torch.testing.assert_close(trainer.task.critics.state_dict(), critics, rtol=0, atol=0)


def test_a_stage_2_without_anything_to_build_on_is_refused(root):
    with pytest.raises(ConfigError, match="autoencoder_from"):
        settings(root, stage="flow")


def test_a_denoiser_is_no_stage_1(root, stage_1, tmp_path):
    train(settings(root), tmp_path / "denoiser")
    flow = {"autoencoder_from": str(tmp_path / "denoiser")}
    with pytest.raises(ConfigError, match="denoiser alone"):
        train(settings(root, stage="flow", flow=flow), tmp_path / "flow")


def test_a_source_filter_vocoder_learns_from_degraded_speech_in_both_stages(root, tmp_path):
    first = train(settings(root, stage="autoencoder", sound=SOURCE_FILTER), tmp_path / "first")
    assert all(map(math.isfinite, curve(tmp_path / "first", "loss").values()))
    flow = {"autoencoder_from": str(tmp_path / "first"), "validation_nfe": 2}
    second = train(settings(root, stage="flow", flow=flow, sound=SOURCE_FILTER), tmp_path / "second")
    assert checkpoint.load(first).config.kind == "autoencoder"
    quiet = np.float32(0.01) * np.random.default_rng(0).standard_normal(30_000).astype(np.float32)
    options = EnhanceOptions(mode="enhance", nfe=2)
    restored, _ = Enhancer.load(second, device="cpu").enhance(quiet, MODEL_RATE, options)
    assert restored.shape == quiet.shape and np.isfinite(restored).all()


def test_stage_3_teaches_the_vocoder_and_nothing_else(root, tmp_path):
    first = train(settings(root, stage="autoencoder", sound=SOURCE_FILTER), tmp_path / "first")
    flow = {"autoencoder_from": str(first), "validation_nfe": 2}
    second = train(settings(root, stage="flow", flow=flow, sound=SOURCE_FILTER), tmp_path / "second")
    third = train(
        settings(root, stage="vocoder", init_from=str(second), vocoder={"nfe": 2}), tmp_path / "third"
    )
    before, after = (checkpoint.load(path).net.state_dict() for path in (second, third))
    changed = {key.partition(".")[0] for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"vocoder"}
    assert checkpoint.load(third).config.kind == "enhancer"


def test_a_repair_net_begins_as_its_denoiser_learns_alone_and_takes_part(root, stage_2, tmp_path, caplog):
    tuned = settings(root, stage="repair", init_from=str(stage_2[1]))
    tuned = dataclasses.replace(tuned, model=dataclasses.replace(tuned.model, residual=True))
    first = checkpoint.load(stage_2[1])
    context = LocalContext(tmp_path / "unused", device=torch.device("cpu"))
    begun = loop.Trainer(tuned, context, load_banks(tuned.corpus, "train")).task.net.eval()
    noisy = 0.1 * torch.randn(1, 20_000)
    denoised = first.denoiser(noisy)
    level = denoised.abs().max()
    masked = level * first.denoiser(denoised)
    error = (begun.repaired(denoised, noisy) - masked).square().mean() / masked.square().mean()
    assert 10 * torch.log10(error) < -15

    third = checkpoint.load(train(tuned, tmp_path / "third"))

    before, after = first.net.state_dict(), third.net.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not changed
    assert {key.partition(".")[0] for key in after.keys() - before.keys()} == {"repair"}
    begun_with = begun.repair.net.head[2].weight[3:]
    assert not torch.equal(after["repair.net.head.2.weight"][3:], begun_with)  # what is added is learned, too
    with torch.inference_mode():
        options = EnhanceOptions(nfe=2)
        assert not torch.equal(third.net(noisy, options), first.net(noisy, options))
        whole = dataclasses.replace(options, denoise_strength=0)
        assert torch.equal(third.net(noisy, whole), first.net(noisy, whole))
    again = checkpoint.load(train(dataclasses.replace(tuned, init_from=str(third.path)), tmp_path / "again"))
    assert again.config == third.config
    assert "a new one begins" not in caplog.text

    # Shown what the denoiser was shown as well, it goes on from where it stands.
    looks = dataclasses.replace(tuned.model, sees_mixture=True)
    tuned = dataclasses.replace(tuned, model=looks, init_from=str(third.path))
    begun = loop.Trainer(tuned, context, load_banks(tuned.corpus, "train")).task.net.eval()
    before = third.net.repaired(denoised, noisy)
    error = (begun.repaired(denoised, noisy) - before).square().mean() / before.square().mean()
    assert 10 * torch.log10(error) < -15
    assert "a new one begins" in caplog.text
    fourth = checkpoint.load(train(tuned, tmp_path / "fourth"))
    assert fourth.net.repair.net.input_proj.weight[:, 3:].abs().max() > 0
    assert not torch.equal(fourth.net.repaired(denoised, noisy), fourth.net.repaired(denoised, denoised))
