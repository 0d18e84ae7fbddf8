"""Run folders of the original, Resemble Enhance, to our models and back. Spec 7.

    hparams.yaml                               settings, paths under YAML tags that name Python classes
    ds/G/latest                                the name of the folder beside it: default
    ds/G/default/mp_rank_00_model_states.pt    the weights, under "module": float16 in the published file

The only file that knows foreign names. What `hparams.yaml` does not say of the sizes, the tensors' shapes do.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

import fsspec
import torch
import yaml
from torch import Tensor

from enhance_ray import checkpoint
from enhance_ray.checkpoint import Model, ModelConfig
from enhance_ray.errors import CheckpointError, ConfigError
from enhance_ray.models.autoencoder import AutoencoderConfig
from enhance_ray.models.denoiser import DenoiserConfig
from enhance_ray.models.enhancer import EnhancerConfig
from enhance_ray.models.vocoder import VocoderConfig
from enhance_ray.models.wavenet import VelocityConfig
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.schema import settings

logger = logging.getLogger(__name__)

PUBLISHED = "hf://ResembleAI/resemble-enhance"
"""The official model, on the Hugging Face Hub."""
PUBLISHED_SHA256 = "f9d035f318de3e6d919bc70cf7ad7d32b4fe92ec5cbe0b30029a27f5db07d9d6"
"""Of its weights: whatever revision they come from, they are these."""

_HPARAMS, _LATEST = "hparams.yaml", "ds/G/latest"
_HUB_FOLDER = "enhancer_stage2"


@settings
class HyperParameters:
    """`hparams.yaml`: its keys and defaults (spec 1.3)."""

    fg_dir: str = "data/fg"
    bg_dir: str = "data/bg"
    rir_dir: str = "data/rir"
    load_fg_only: bool = False
    praat_augment_prob: float = 0.0
    wav_rate: int = 44_100
    n_fft: int = 2048
    win_size: int = 2048
    hop_size: int = 420
    num_mels: int = 128
    stft_magnitude_min: float = 1e-4
    preemphasis: float = 0.97
    mix_alpha_range: tuple[float, float] = (0.2, 0.8)
    nj: int = 64
    training_seconds: float = 1.0
    batch_size_per_gpu: int = 16
    min_lr: float = 1e-5
    max_lr: float = 1e-4
    warmup_steps: int = 1000
    max_steps: int = 1_000_000
    gradient_clipping: float = 1.0
    cfm_solver_method: Literal["midpoint", "rk4", "euler"] = "midpoint"
    cfm_solver_nfe: int = 64
    cfm_time_mapping_divisor: int = 4
    univnet_nc: int = 96
    lcfm_latent_dim: int = 64
    lcfm_training_mode: Literal["ae", "cfm"] = "ae"
    lcfm_z_scale: float = 5.0
    vocoder_extra_dim: int = 32
    gan_training_start_step: int | None = 5000
    enhancer_stage1_run_dir: str | None = None
    denoiser_run_dir: str | None = None
    force_gaussian_prior: bool = False


def is_run(source: str | Path) -> bool:
    """Whether ``source`` is a run folder of the original: it is asked for, not read."""
    text = str(source)
    if text.startswith("hf://"):
        return True
    if "://" in text:
        try:
            filesystem, root = fsspec.url_to_fs(text)
            return not filesystem.exists(f"{root}/{checkpoint.CONFIG_NAME}")
        except (OSError, ValueError, ImportError) as error:
            raise CheckpointError(source, f"it cannot be read: {error}") from error
    return (Path(text) / _HPARAMS).is_file() or (Path(text) / _LATEST).is_file()


def load_model(model: str | Path, *, denoiser_only: bool = False) -> Model:
    """A model of either layout: `load` for run folders, `checkpoint.load` for model folders and "default".

    Of a training's folder it is the newest checkpoint.

    Raises:
        CheckpointError: the model cannot be used.
    """
    model = checkpoint.newest(str(model))
    read = load if is_run(model) else checkpoint.load
    return read(model, denoiser_only=denoiser_only)


def is_enhancer(model: str | Path) -> bool:
    """Whether a model of either layout is more than a denoiser; its weights are not read.

    Raises:
        CheckpointError: there is no model.
    """
    model = checkpoint.newest(str(model))
    return is_run(model) or checkpoint.is_enhancer(model)


def load(source: str | Path, *, denoiser_only: bool = False) -> Model:
    """The model in a run folder of the original: a local path, an fsspec URI, or hf://owner/repository[@revision].

    Weights are float32, in training's form.

    Args:
        source: where the folder is.
        denoiser_only: keep the denoiser and nothing else.

    Raises:
        CheckpointError: a file is missing, damaged, carries code, or holds no model of this kind; the first
            keys that differ are named.
    """
    with _local(str(source)) as folder:
        hyper = read_hyper_parameters(folder)
        if hyper.lcfm_training_mode == "ae":
            raise CheckpointError(
                source,
                "it is a stage 1 run: an autoencoder and a vocoder, which cannot restore; use a stage 2 run",
            )
        tensors = read_tensors(folder, prefix="denoiser.net." if denoiser_only else "")
        fingerprint = _fingerprint(folder)
    weights = to_ours(tensors)
    model_config = sizes(weights, hyper)
    if denoiser_only:
        weights = {key.removeprefix("denoiser."): tensor for key, tensor in weights.items()}
        denoiser = checkpoint.build_denoiser(source, model_config, weights)
        return Model(denoiser, model_config, fingerprint, str(source))
    net = checkpoint.build(source, model_config, weights)
    return Model(net.denoiser, model_config, fingerprint, str(source), net)


def read_hyper_parameters(folder: Path) -> HyperParameters:
    """`hparams.yaml` of a run folder.

    Raises:
        CheckpointError: it is missing, or has an unknown key or a wrong value.
    """
    path = folder / _HPARAMS
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_PathTags)
    except OSError as error:
        raise CheckpointError(folder, f"{_HPARAMS} is missing: it is no run folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"it is not the original's YAML: {error}") from error
    try:
        hyper = trees.from_tree(HyperParameters, tree if isinstance(tree, dict) else {}, where=_HPARAMS)
    except ConfigError as error:
        raise CheckpointError(folder, str(error)) from error
    if hyper.wav_rate != MODEL_RATE or hyper.win_size != hyper.n_fft:
        raise CheckpointError(
            path,
            f"expected wav_rate {MODEL_RATE} and win_size = n_fft, got {hyper.wav_rate} and {hyper.win_size}",
        )
    return hyper


def read_tensors(folder: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a run folder by the original's names, in float32; nothing in the file is executed.

    Both spellings of weight norm become the newer one. Only names that start with ``prefix`` are read.

    Raises:
        CheckpointError: the file is missing, damaged, or carries more than tensors and plain values.
    """
    path = _weights_path(folder)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(folder, f"{path.relative_to(folder)} is missing") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(path, "it carries code besides tensors, and is not opened") from error
    except checkpoint.DAMAGED as error:
        raise CheckpointError(path, f"it is damaged or truncated ({checkpoint.first_line(error)})") from error
    module = content.get("module") if isinstance(content, dict) else None
    if not isinstance(module, dict) or not all(isinstance(tensor, Tensor) for tensor in module.values()):
        raise CheckpointError(path, "it has no tensors under 'module'")
    return {_newer_spelling(key): tensor.float() for key, tensor in module.items() if key.startswith(prefix)}


def to_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the original's ``tensors``; those that are not needed are left out."""
    table = _table(_first_linear_map(tensors))
    renamed = {}
    for key, tensor in tensors.items():
        if key.startswith(_DROPPED):
            continue
        for theirs, ours in table:
            if key.startswith(theirs):
                renamed[ours + key.removeprefix(theirs)] = tensor
                break
        else:
            renamed[key] = tensor  # unknown: it will be named as such
    return renamed


def to_theirs(weights: Mapping[str, Tensor], magnitude_floor: float) -> dict[str, Tensor]:
    """The original's names for the ``weights`` of a whole model, with what it keeps besides."""
    blocks = _count(weights, "autoencoder.encoder.") - 1
    table = _table(blocks + 1)
    tensors = {}
    for key, tensor in weights.items():
        theirs, ours = next((theirs, ours) for theirs, ours in table if key.startswith(ours))
        tensors[theirs + key.removeprefix(ours)] = tensor
    tensors["dummy"] = torch.zeros(1)
    tensors["mel_fn.stft_magnitude_min"] = torch.tensor([magnitude_floor])
    for key in [key for key in tensors if key.startswith("mel_fn.")]:
        tensors[f"denoiser.{key}"] = tensors[key].clone()
    return tensors


def save(model: Model, folder: Path, *, half: bool = True) -> None:
    """Write ``model`` as a run folder that the original reads.

    Args:
        model: a whole model, in training's form.
        folder: must not exist.
        half: store float16, as the published file does.

    Raises:
        CheckpointError: the folder exists, or the model has a size that the original cannot have.
    """
    if model.net is None or model.config.enhancer is None:
        raise CheckpointError(model.path, "it is a denoiser alone; a run folder holds a whole model")
    if folder.exists():
        raise CheckpointError(folder, "it exists")
    enhancer = model.config.enhancer
    if enhancer.source_filter is not None:
        raise CheckpointError(
            model.path, "its vocoder is a source-filter one, which the original does not have"
        )
    hyper = HyperParameters(
        n_fft=enhancer.n_fft,
        win_size=enhancer.n_fft,
        hop_size=model.net.hop,
        num_mels=enhancer.mels,
        stft_magnitude_min=enhancer.magnitude_floor,
        preemphasis=enhancer.preemphasis,
        praat_augment_prob=0.2,
        training_seconds=3.0,
        batch_size_per_gpu=32,
        cfm_time_mapping_divisor=enhancer.time_divisor,
        univnet_nc=enhancer.vocoder.channels,
        lcfm_latent_dim=enhancer.autoencoder.latent,
        lcfm_training_mode="cfm",
        lcfm_z_scale=enhancer.latent_scale,
        vocoder_extra_dim=enhancer.autoencoder.extra,
        gan_training_start_step=None,
        force_gaussian_prior=enhancer.gaussian_prior,
    )
    tensors = to_theirs(model.net.state_dict(), enhancer.magnitude_floor)
    dtype = torch.float16 if half else torch.float32
    path = folder / "ds/G/default/mp_rank_00_model_states.pt"
    path.parent.mkdir(parents=True)
    torch.save({"module": {key: tensor.to(dtype).contiguous() for key, tensor in tensors.items()}}, path)
    (folder / _LATEST).write_text("default", encoding="utf-8")
    trees.save(hyper, folder / _HPARAMS)


def sizes(weights: Mapping[str, Tensor], hyper: HyperParameters) -> ModelConfig:
    """The configuration that ``weights`` by our names fit; what is missing counts as the original's."""

    def shape(key: str, axis: int, default: int) -> int:
        for name in (f"{key}.parametrizations.weight.original1", f"{key}.weight"):
            if name in weights and weights[name].ndim > axis:
                return weights[name].shape[axis]
        return default

    blocks = range(_count(weights, "vocoder.blocks."))
    strides = tuple(shape(f"vocoder.blocks.{i}.convt_pre.1", 2, 0) // 2 for i in blocks)
    if math.prod(strides) != hyper.hop_size:  # incomplete: what is missing will be named
        strides = VocoderConfig().strides
    return ModelConfig(
        kind="enhancer",
        name="resemble-enhance",
        denoiser=DenoiserConfig(
            n_fft=4 * hyper.hop_size,
            hop=hyper.hop_size,
            hidden=shape("denoiser.net.input_proj", 0, 16),
            blocks=_count(weights, "denoiser.net.encoder_blocks.") or 4,
            middle_blocks=_count(weights, "denoiser.net.middle_blocks."),
        ),
        enhancer=EnhancerConfig(
            mels=hyper.num_mels,
            n_fft=hyper.n_fft,
            magnitude_floor=hyper.stft_magnitude_min,
            preemphasis=hyper.preemphasis,
            autoencoder=AutoencoderConfig(
                latent=hyper.lcfm_latent_dim,
                extra=hyper.vocoder_extra_dim,
                hidden=shape("autoencoder.encoder.0", 0, 1024),
                blocks=max(0, _count(weights, "autoencoder.encoder.") - 1) or 4,
                linear_maps=_count(weights, "autoencoder.to_latent.") or 4,
            ),
            velocity=VelocityConfig(
                hidden=shape("flow.net.start", 0, 512),
                layers=_count(weights, "flow.net.layers.") or 30,
                kernel=shape("flow.net.layers.0.dconv", 2, 3),
                time_channels=shape("flow.net.layers.0.gconv", 1, 128),
            ),
            vocoder=VocoderConfig(
                channels=hyper.univnet_nc,
                noise=shape("vocoder.conv_pre", 1, 128),
                strides=strides,
                predictor_hidden=shape("vocoder.blocks.0.kernel_predictor.input_conv.0", 0, 64),
            ),
            latent_scale=hyper.lcfm_z_scale,
            time_divisor=hyper.cfm_time_mapping_divisor,
            gaussian_prior=hyper.force_gaussian_prior,
        ),
    )


_DROPPED = ("dummy", "denoiser.mel_fn.", "mel_fn.stft_magnitude_min", "denoiser.dummy")
"""Keys of the original that nothing reads."""


def _table(first_linear_map: int) -> list[tuple[str, str]]:
    """(their prefix, ours), the first row that fits counts; their linear maps stand in the encoder."""
    linear_maps = [
        (f"lcfm.ae.encoder.{first_linear_map + i}.", f"autoencoder.to_latent.{i}.") for i in range(16)
    ]
    return [
        ("mel_fn.melspec.spectrogram.window", "mel.window"),
        ("mel_fn.melspec.mel_scale.fb", "mel.filter_bank"),
        ("normalizer.running_mean_unsafe", "normalizer.mean"),
        ("normalizer.running_var_unsafe", "normalizer.var"),
        ("lcfm.ae.estimator.running_mean_unsafe", "latent_statistics.mean"),
        ("lcfm.ae.estimator.running_var_unsafe", "latent_statistics.var"),
        *linear_maps,
        ("lcfm.ae.", "autoencoder."),
        ("lcfm.cfm.", "flow."),
        ("denoiser.", "denoiser."),
        ("vocoder.", "vocoder."),
    ]


def _first_linear_map(tensors: Mapping[str, Tensor]) -> int:
    """Place of the first layer of their encoder that has weights and no bias."""
    for i in range(_count(tensors, "lcfm.ae.encoder.")):
        key = f"lcfm.ae.encoder.{i}"
        if f"{key}.weight" in tensors and f"{key}.bias" not in tensors:
            return i
    return 5


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts stand under ``prefix``: one more than the largest number."""
    numbers = [int(key.removeprefix(prefix).split(".")[0]) for key in tensors if key.startswith(prefix)]
    return max(numbers, default=-1) + 1


def _newer_spelling(key: str) -> str:
    key = re.sub(r"\.weight_g$", ".parametrizations.weight.original0", key)
    return re.sub(r"\.weight_v$", ".parametrizations.weight.original1", key)


def _weights_path(folder: Path) -> Path:
    try:
        tag = (folder / _LATEST).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CheckpointError(folder, f"{_LATEST} is missing: it is no run folder") from error
    if not re.fullmatch(r"\w[\w.-]*", tag):
        raise CheckpointError(folder, f"{_LATEST} names no folder: {tag[:40]!r}")
    return folder / "ds" / "G" / tag / "mp_rank_00_model_states.pt"


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256((folder / _HPARAMS).read_bytes())
    digest.update(_sha256(_weights_path(folder)).encode())
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _PathTags(yaml.SafeLoader):
    """YAML in which the original's tags for paths are read as text; every other Python tag is refused."""


def _path_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    if not isinstance(node, yaml.SequenceNode):
        raise yaml.YAMLError(f"expected the parts of a path, got {node.tag}")
    return str(PurePosixPath(*map(str, loader.construct_sequence(node))))


for _name in ("PosixPath", "WindowsPath", "Path", "PurePosixPath"):
    _PathTags.add_constructor(f"tag:yaml.org,2002:python/object/apply:pathlib.{_name}", _path_text)


@contextlib.contextmanager
def _local(source: str) -> Iterator[Path]:
    """A folder of this machine with the run's files, for the time of the block."""
    if source.startswith("hf://"):
        yield _from_hub(source)
    elif "://" in source:
        with tempfile.TemporaryDirectory(prefix="enhance-ray-run-") as folder:
            yield _copy(source, Path(folder))
    else:
        if not Path(source).is_dir():
            raise CheckpointError(source, "there is no such folder")
        yield Path(source)


def _copy(source: str, folder: Path) -> Path:
    with checkpoint.reading(source, "run folder"):
        filesystem, root = fsspec.url_to_fs(source)
        filesystem.get_file(f"{root}/{_HPARAMS}", str(folder / _HPARAMS))
        (folder / _LATEST).parent.mkdir(parents=True)
        filesystem.get_file(f"{root}/{_LATEST}", str(folder / _LATEST))
        weights = _weights_path(folder)
        weights.parent.mkdir()
        filesystem.get_file(f"{root}/{weights.relative_to(folder)}", str(weights))
    return folder


def _from_hub(source: str) -> Path:
    """Download a run folder from the Hugging Face Hub, or find it in that library's cache."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise CheckpointError(
            source, "reading hf:// needs huggingface_hub: pip install 'enhance-ray[hub]'"
        ) from error
    repository, _, revision = source.removeprefix("hf://").partition("@")
    files = [_HPARAMS, _LATEST, "ds/G/default/mp_rank_00_model_states.pt"]
    try:
        paths = [
            Path(
                huggingface_hub.hf_hub_download(
                    repository, f"{_HUB_FOLDER}/{name}", revision=revision or None
                )
            )
            for name in files
        ]
    except (OSError, ValueError, HfHubHTTPError, huggingface_hub.errors.HFValidationError) as error:
        raise CheckpointError(
            source,
            f"it cannot be downloaded ({type(error).__name__}); on a machine that can, run `hf download "
            f"{repository} --include '{_HUB_FOLDER}/*' --local-dir DIR` and use DIR/{_HUB_FOLDER} here",
        ) from error
    weights = paths[-1]
    found = _sha256(weights)
    logger.info("%s: SHA-256 of the weights is %s", source, found)
    if source == PUBLISHED and found != PUBLISHED_SHA256:
        raise CheckpointError(source, f"its weights are not the published ones: SHA-256 {found}")
    return weights.parents[3]
