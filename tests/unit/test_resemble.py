"""Run folders of the original: what is read, what is refused, and what comes back out."""

import os
import pickle
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
import yaml
from parity.fixtures import Fixture
from small_models import SMALL_ENHANCER

from enhance_ray import checkpoint, resemble
from enhance_ray.checkpoint import Model, ModelConfig
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import CheckpointError
from enhance_ray.models.denoiser import DenoiserConfig
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.settings.options import EnhanceOptions

WEIGHTS = "ds/G/default/mp_rank_00_model_states.pt"
# What the original can be: its denoiser has no bands, its norms have 32 groups, its strides are fixed.
DENOISER = DenoiserConfig(hidden=16, blocks=1, middle_blocks=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = EnhancerNet(SMALL_ENHANCER, DENOISER).eval()
    net.normalizer.update(torch.rand(100))
    net.latent_statistics.update(torch.randn(100))
    # What survives float16, as everything in the published file has.
    net.load_state_dict({key: tensor.half().float() for key, tensor in net.state_dict().items()})
    config = ModelConfig(kind="enhancer", name="small", denoiser=DENOISER, enhancer=SMALL_ENHANCER)
    return Model(net.denoiser, config, "0", "memory", net)


@pytest.fixture
def run(model, tmp_path):
    resemble.save(model, tmp_path / "run")
    return tmp_path / "run"


def sound(engine):
    rng = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 9000, generator=rng)
    with torch.inference_mode():
        return engine.net(noisy, EnhanceOptions(nfe=2))


def rewrite(run, change):
    content = torch.load(run / WEIGHTS, weights_only=True)
    change(content["module"])
    torch.save(content, run / WEIGHTS)


def test_a_run_folder_holds_what_it_was_made_of(model, run):
    loaded = resemble.load(run)
    expected = model.net.state_dict()
    found = loaded.net.state_dict()
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    assert loaded.config.enhancer == model.config.enhancer
    assert loaded.config.denoiser == model.config.denoiser


def test_out_and_in_again_it_sounds_the_same(run, tmp_path):
    first = resemble.load(run)
    checkpoint.save(tmp_path / "model", first.config, first.net.state_dict(), half=True)
    resemble.save(checkpoint.load(tmp_path / "model"), tmp_path / "again")
    sounds = [
        sound(Enhancer.load(path, device="cpu", precision="fp32"))
        for path in (run, tmp_path / "model", tmp_path / "again")
    ]
    assert torch.equal(sounds[0], sounds[1])
    assert torch.equal(sounds[0], sounds[2])


def test_the_file_has_the_originals_names_and_type(run):
    content = torch.load(run / WEIGHTS, weights_only=True)["module"]
    assert {tensor.dtype for tensor in content.values()} == {torch.float16}
    for key in (
        "dummy",
        "denoiser.mel_fn.melspec.mel_scale.fb",
        "lcfm.ae.encoder.2.weight",
        "lcfm.ae.estimator.running_var_unsafe",
        "lcfm.cfm.net.layers.3.gconv.bias",
        "vocoder.blocks.3.kernel_predictor.kernel_conv.parametrizations.weight.original1",
        "mel_fn.melspec.spectrogram.window",
    ):
        assert key in content


def test_the_older_spelling_of_weight_norm_is_read(run):
    expected = resemble.load(run).net.state_dict()

    def older(module):
        for key in list(module):
            new = key.replace("parametrizations.weight.original0", "weight_g")
            module[new.replace("parametrizations.weight.original1", "weight_v")] = module.pop(key)

    rewrite(run, older)
    assert any(key.endswith("weight_g") for key in torch.load(run / WEIGHTS, weights_only=True)["module"])
    found = resemble.load(run).net.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_path_tags_are_read_as_text_and_other_tags_refused(run):
    text = (run / "hparams.yaml").read_text()
    tagged = text.replace("fg_dir: data/fg", "fg_dir: !!python/object/apply:pathlib.PosixPath\n- data\n- fg")
    assert tagged != text
    (run / "hparams.yaml").write_text(tagged)
    assert resemble.read_hyper_parameters(run).fg_dir == "data/fg"
    (run / "hparams.yaml").write_text(text + "\nnj: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(CheckpointError, match=r"hparams\.yaml: it is not the original's YAML"):
        resemble.load(run)


def test_a_run_is_read_from_any_filesystem(run):
    memory = fsspec.filesystem("memory")
    memory.put(str(run), "/runs/stage2", recursive=True)
    try:
        loaded = resemble.load("memory://runs/stage2")
    finally:
        memory.rm("/runs", recursive=True)
    assert loaded.fingerprint == resemble.load(run).fingerprint


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def damage_pickle(run):
    torch.save({"module": {"a": Evil()}}, run / WEIGHTS)


def damage_truncated(run):
    (run / WEIGHTS).write_bytes((run / WEIGHTS).read_bytes()[:5000])


def damage_text(run):
    (run / WEIGHTS).write_bytes(pickle.dumps("no model"))


def damage_no_module(run):
    torch.save({"other": {}}, run / WEIGHTS)


def damage_missing_key(run):
    rewrite(run, lambda module: module.pop("lcfm.cfm.net.end.weight"))


def damage_unknown_key(run):
    rewrite(run, lambda module: module.update(surprise=torch.zeros(1)))


def damage_shape(run):
    rewrite(run, lambda module: module.update({"lcfm.cfm.net.end.bias": torch.zeros(3)}))


def damage_weights(run):
    (run / WEIGHTS).unlink()


def damage_latest(run):
    (run / "ds/G/latest").write_text("../../elsewhere")


def damage_hparams(run):
    (run / "hparams.yaml").unlink()


def damage_unknown_setting(run):
    with (run / "hparams.yaml").open("a") as file:
        file.write("\nnum_mel: 128\n")


def damage_stage_1(run):
    tree = yaml.safe_load((run / "hparams.yaml").read_text())
    (run / "hparams.yaml").write_text(yaml.safe_dump({**tree, "lcfm_training_mode": "ae"}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_pickle, "carries code besides tensors"),
        (damage_truncated, "damaged or truncated"),
        (damage_text, "no tensors under 'module'|damaged or truncated|carries code"),
        (damage_no_module, "no tensors under 'module'"),
        (damage_missing_key, r"'flow\.net\.end\.weight' is missing"),
        (damage_unknown_key, "'surprise' is unknown"),
        (damage_shape, r"'flow\.net\.end\.bias' is \(3,\), expected \(8,\)"),
        (damage_weights, "mp_rank_00_model_states.pt is missing"),
        (damage_latest, "names no folder"),
        (damage_hparams, "hparams.yaml is missing"),
        (damage_unknown_setting, "unknown key 'num_mel'; did you mean 'num_mels'"),
        (damage_stage_1, "stage 1 run"),
    ],
)
def test_a_run_that_cannot_be_used_is_refused_with_what_is_wrong(run, damage, said):
    damage(run)
    with pytest.raises(CheckpointError, match=said):
        resemble.load(run)


def test_a_mistyped_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such folder"):
        Enhancer.load(tmp_path / "nothing")


def test_without_a_network_the_hub_is_refused_with_what_to_do(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be downloaded") as refused:
        resemble.load(resemble.PUBLISHED)
    assert "run `hf download ResembleAI/resemble-enhance" in str(refused.value)


def test_a_denoiser_alone_is_no_run_folder(tmp_path):
    with pytest.raises(CheckpointError, match="a denoiser alone"):
        resemble.save(checkpoint.load(denoiser_only=True), tmp_path / "run")


def test_of_an_enhancer_the_denoiser_alone_can_be_loaded(model, tmp_path):
    checkpoint.save(tmp_path / "model", model.config, model.net.state_dict())
    resemble.save(model, tmp_path / "run")
    expected = model.net.denoiser.state_dict()
    for loaded in (
        checkpoint.load(tmp_path / "model", denoiser_only=True),
        resemble.load(tmp_path / "run", denoiser_only=True),
    ):
        assert loaded.net is None
        found = loaded.denoiser.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def tiny_run() -> Path:
    """A container sample of the published layout; its vocoder's blocks are cut short."""
    folder = Path(os.environ.get("ENHANCE_RAY_PARITY", "")) / "run_dir_tiny"
    if not folder.is_dir():
        pytest.skip("the sample lies beside the full set of the original's numbers (ENHANCE_RAY_PARITY)")
    return folder


def test_the_container_sample_is_read_tensor_for_tensor():
    tensors = resemble.read_tensors(tiny_run())
    expected = Fixture("enhancer/tiny_a").weights()
    compared = 0
    for key, tensor in tensors.items():
        if key in expected:
            torch.testing.assert_close(tensor, expected[key].half().float(), rtol=0, atol=0)
            compared += 1
    assert len(tensors) == 311
    assert compared >= 300
    assert resemble.read_hyper_parameters(tiny_run()).num_mels == 20


def test_the_container_sample_is_refused_as_a_model():
    with pytest.raises(CheckpointError, match=r"'vocoder\.blocks\.\d.* is missing"):
        resemble.load(tiny_run())


@pytest.mark.slow
def test_a_run_of_the_originals_size_goes_in_and_out(tmp_path):
    torch.manual_seed(0)
    net = EnhancerNet().half().float()  # what the format holds
    config = ModelConfig(kind="enhancer", denoiser=net.denoiser.config, enhancer=net.config)
    resemble.save(Model(net.denoiser, config, "0", "memory", net), tmp_path / "run")
    del net
    content = torch.load(tmp_path / "run" / WEIGHTS, weights_only=True, mmap=True)["module"]
    assert len(content) == 909  # spec 7.4
    assert sum(tensor.numel() for tensor in content.values()) == 356_414_076  # spec 7.2
    resemble.save(resemble.load(tmp_path / "run"), tmp_path / "again")
    again = torch.load(tmp_path / "again" / WEIGHTS, weights_only=True, mmap=True)["module"]
    # Statistics of a normaliser that has not learned any are no numbers.
    torch.testing.assert_close(again, content, rtol=0, atol=0, equal_nan=True)
    del content, again
    shutil.rmtree(tmp_path / "again")
    restored = sound(Enhancer.load(tmp_path / "run", device="cpu", precision="fp32"))
    shutil.rmtree(tmp_path / "run")
    assert torch.isfinite(restored).all()
    assert restored.std() > 0.01
