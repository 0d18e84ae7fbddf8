"""Model folders."""

import numpy as np
import pytest
import torch

from enhance_ray import checkpoint
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.errors import CheckpointError
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig

SMALL = DenoiserConfig(hidden=4, blocks=1, middle_blocks=0, features="compressed", bands=32)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    checkpoint.save(
        tmp_path / "model", ModelConfig(name="small", denoiser=SMALL), Denoiser(SMALL).state_dict()
    )
    return tmp_path / "model"


def test_a_saved_model_computes_the_same_after_loading(folder):
    torch.manual_seed(0)
    original, loaded = Denoiser(SMALL), checkpoint.load(folder)
    waveform = torch.randn(1, 4200)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.denoiser(waveform), original(waveform), rtol=0, atol=0)
    assert loaded.config.name == "small"
    assert not loaded.denoiser.training


def test_others_may_read_a_saved_model(folder):
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in [folder, *folder.iterdir()])


def test_half_precision_halves_the_file_and_is_undone_on_load(folder):
    model = checkpoint.load(folder)
    checkpoint.save(folder.parent / "half", model.config, model.denoiser.state_dict(), half=True)
    full, half = (
        (path / checkpoint.WEIGHTS_NAME).stat().st_size for path in (folder, folder.parent / "half")
    )
    assert half < 0.65 * full  # a header of some kilobytes stays
    again = checkpoint.load(folder.parent / "half").denoiser
    assert {p.dtype for p in again.parameters()} == {torch.float32}


def test_equal_models_have_equal_fingerprints_and_others_do_not(folder):
    model = checkpoint.load(folder)
    weights = model.denoiser.state_dict()
    checkpoint.save(folder.parent / "same", model.config, weights)
    weights["net.head.2.bias"] = weights["net.head.2.bias"] + 1
    checkpoint.save(folder.parent / "other", model.config, weights)
    assert checkpoint.load(folder.parent / "same").fingerprint == model.fingerprint
    assert checkpoint.load(folder.parent / "other").fingerprint != model.fingerprint


@pytest.mark.parametrize(("alone", "kind", "megabytes"), [(True, "denoiser", 12), (False, "enhancer", 42)])
def test_the_default_models_ship_with_the_package_within_their_sizes(alone, kind, megabytes):
    assert checkpoint.load(denoiser_only=alone).config.kind == kind
    folder = checkpoint.default_folder(denoiser_only=alone)
    assert (folder / checkpoint.WEIGHTS_NAME).stat().st_size <= megabytes * 1e6
    assert (folder / checkpoint.CARD_NAME).is_file()


def test_the_default_enhancer_has_the_default_denoiser():
    """So that denoising alone and in the chain sound alike."""
    alone, in_chain = (checkpoint.load(denoiser_only=alone).denoiser.state_dict() for alone in (True, False))
    torch.testing.assert_close(in_chain, alone, rtol=0, atol=0)


def test_the_newest_checkpoint_of_a_training_is_what_its_folder_means(tmp_path):
    model = checkpoint.load(denoiser_only=True)
    for step in (9, 10):
        folder = tmp_path / "run" / "checkpoints" / f"step_{step:08d}"
        checkpoint.save(folder, model.config, model.denoiser.state_dict())
    assert checkpoint.newest(str(tmp_path / "run")) == str(folder)
    assert checkpoint.newest(str(folder)) == str(folder)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        checkpoint.newest(str(tmp_path / "empty"))


def test_a_model_is_read_from_a_uri():
    import fsspec

    folder = checkpoint.default_folder(denoiser_only=True)
    memory = fsspec.filesystem("memory")
    for name in (checkpoint.CONFIG_NAME, checkpoint.WEIGHTS_NAME):
        memory.pipe(f"/models/mine/{name}", (folder / name).read_bytes())
    model = checkpoint.load("memory://models/mine")
    assert model.fingerprint == checkpoint.load(denoiser_only=True).fingerprint
    with pytest.raises(CheckpointError, match="no model folder"):
        checkpoint.load("memory://models/absent")


def test_an_absent_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing-here: there is no such folder"):
        checkpoint.load(tmp_path / "nothing-here")


@pytest.mark.parametrize("name", [checkpoint.CONFIG_NAME, checkpoint.WEIGHTS_NAME])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / checkpoint.WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(folder)


def test_weights_of_another_architecture_are_refused_by_key(folder):
    model = checkpoint.load(folder)
    wider = DenoiserConfig(hidden=8, blocks=1, middle_blocks=1, features="compressed", bands=32)
    checkpoint.save(folder, ModelConfig(denoiser=wider), model.denoiser.state_dict())
    with pytest.raises(CheckpointError, match=r"'net\.middle_blocks\.0\.pre_conv\.weight' is missing"):
        checkpoint.load(folder)


def test_a_failed_save_leaves_the_old_folder_and_nothing_else(folder):
    before = checkpoint.load(folder).fingerprint
    with pytest.raises(AttributeError):
        checkpoint.save(folder, ModelConfig(denoiser=SMALL), {"x": "not a tensor"})
    assert checkpoint.load(folder).fingerprint == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_save_whose_last_step_fails_leaves_the_old_folder(folder, monkeypatch):
    before = checkpoint.load(folder).fingerprint
    model = checkpoint.load(folder)
    original = type(folder).rename
    renamed = []

    def rename(self, target):
        renamed.append(self)
        if len(renamed) == 2:  # the first takes the old folder aside
            raise OSError("the disk is gone")
        return original(self, target)

    monkeypatch.setattr(type(folder), "rename", rename)
    with pytest.raises(OSError, match="the disk is gone"):
        checkpoint.save(folder, model.config, model.denoiser.state_dict(), half=True)
    assert checkpoint.load(folder).fingerprint == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_pictures_that_the_new_card_shows_stay(folder):
    (folder / "curves.png").write_bytes(b"a picture")
    (folder / "old.png").write_bytes(b"another")
    model = checkpoint.load(folder)
    checkpoint.save(folder, model.config, model.denoiser.state_dict(), card="![curves](curves.png)")
    assert (folder / "curves.png").read_bytes() == b"a picture"
    assert not (folder / "old.png").exists()


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS_NAME, checkpoint.STATE_NAME])
def test_a_damaged_file_is_a_checkpoint_error_whatever_its_bytes_say(folder, name):
    model = checkpoint.load(folder)
    weights = model.denoiser.state_dict()
    state = {"examples": 3, "weights": weights, "learners": {}, "others": {}}
    checkpoint.save(folder, model.config, weights, state=state)
    path = folder / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        for place in rng.integers(0, min(len(damaged), 3000), 8) if damaged else ():
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            checkpoint.read_state(folder) if name == checkpoint.STATE_NAME else checkpoint.load(folder)
        except CheckpointError as error:
            assert str(path) in str(error) or str(folder) in str(error)
            refused += 1
    assert refused > 50
