"""A model folder: what training writes, `Enhancer.load` reads and people pass on.

    config.yaml          format, kind, sizes of the networks
    model.safetensors    the weights; half precision halves the file and is undone on load
    card.md              what it was trained on, how it scores, what it may be used for
    train_state.pt       optimiser, schedule, position in the data: only in a checkpoint that can be resumed

A folder is written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.resources
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import fsspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from enhance_ray.errors import CheckpointError, ConfigError
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig
from enhance_ray.models.enhancer import EnhancerConfig, EnhancerNet
from enhance_ray.settings import trees
from enhance_ray.settings.schema import settings

Net = TypeVar("Net", Denoiser, EnhancerNet)

CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, STATE_NAME = (
    "config.yaml",
    "model.safetensors",
    "card.md",
    "train_state.pt",
)
DEFAULT = "default"
"""The name that stands for the model in this package."""

DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What readers of weights raise for a damaged file: whatever its bytes happen to say."""

_STATE_KEYS = {"examples", "weights", "learners", "others"}
"""Of a training's state, which `training.loop` writes."""


@settings
class ModelConfig:
    """What `config.yaml` of a model folder says."""

    format: Literal[1] = 1
    """Version of the folder's layout."""
    kind: Literal["denoiser", "autoencoder", "enhancer"] = "denoiser"
    """Which networks the weights belong to: the denoiser alone, or the enhancer with its denoiser;
    "autoencoder" is an enhancer after stage 1, whose flow has learned nothing."""
    name: str = ""
    """What the model is called in reports."""
    denoiser: DenoiserConfig = dataclasses.field(default_factory=DenoiserConfig)
    """Sizes of the denoiser."""
    enhancer: EnhancerConfig | None = None
    """Sizes of the rest of an enhancer."""

    def __post_init__(self) -> None:
        if (self.kind == "denoiser") != (self.enhancer is None):
            raise ConfigError("enhancer", "is there for all kinds but denoiser, and only there")


@dataclass(frozen=True, slots=True)
class Model:
    """Networks in memory, in float32, training's form and evaluation mode, and where they come from."""

    denoiser: Denoiser
    config: ModelConfig
    fingerprint: str
    """First 16 hex digits of the SHA-256 over sizes and weights: equal models, equal fingerprints."""
    path: str
    net: EnhancerNet | None = None
    """The whole enhancer, of which ``denoiser`` is a part; None if there is none, or it was not asked for."""


def load(model: str | Path = DEFAULT, *, denoiser_only: bool = False) -> Model:
    """Read a model folder, or the ``"default"`` model of this package.

    Args:
        model: the folder: a path, or an fsspec URI, from which it is copied.
        denoiser_only: of an enhancer, read its denoiser and nothing else.

    Raises:
        CheckpointError: the folder is absent, incomplete or damaged, or its weights do not fit its sizes.
    """
    if "://" in str(model):
        with _copied(str(model), CONFIG_NAME, WEIGHTS_NAME) as folder:
            return _load(folder, str(model), denoiser_only=denoiser_only)
    folder = default_folder(denoiser_only=denoiser_only) if str(model) == DEFAULT else Path(model)
    if not folder.is_dir():
        reason = "there is no such folder"
        if str(model) == DEFAULT:
            # `.rayignore` leaves it out of a job's upload, which has a limit.
            reason = f"{folder} is not in this copy of the package: install it, or name a model by its URI"
        raise CheckpointError(model, reason)
    return _load(folder, str(folder), denoiser_only=denoiser_only)


def is_enhancer(model: str | Path = DEFAULT) -> bool:
    """Whether a model is more than a denoiser: its sizes say it, and its weights are not read.

    Raises:
        CheckpointError: the folder is absent or does not describe a model.
    """
    if "://" in str(model):
        with _copied(str(model), CONFIG_NAME) as folder:
            return read_config(folder).enhancer is not None
    return str(model) == DEFAULT or read_config(Path(model)).enhancer is not None


def _load(folder: Path, name: str, *, denoiser_only: bool) -> Model:
    model_config = read_config(folder)
    path = folder / WEIGHTS_NAME
    whole = model_config.enhancer is not None
    if whole and not denoiser_only:
        net = build(path, model_config, read_weights(path))
        return Model(net.denoiser, model_config, _fingerprint(folder), name, net)
    weights = read_weights(path, prefix="denoiser." if whole else "")
    denoiser = build_denoiser(path, model_config, weights)
    return Model(denoiser, model_config, _fingerprint(folder), name)


@contextlib.contextmanager
def _copied(uri: str, *names: str) -> Iterator[Path]:
    """The files ``names`` of the model folder at ``uri``, on this machine, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="enhance-ray-model-") as folder:
        with reading(uri, "model folder"):
            filesystem, root = fsspec.url_to_fs(uri)
            for name in names:
                filesystem.get_file(f"{root}/{name}", f"{folder}/{name}")
        yield Path(folder)


@contextlib.contextmanager
def reading(source: str, kind: str) -> Iterator[None]:
    """Turn what a storage raises in the block into an error about ``source``, which is to be a ``kind``.

    Raises:
        CheckpointError: a file is missing, or the storage cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(source, f"it is no {kind}: {error} is missing") from error
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(source, f"it cannot be read: {error}") from error


def newest(model: str) -> str:
    """``model`` itself, or if it is the folder of a training run, its newest checkpoint.

    Args:
        model: path or fsspec URI; "default" stays what it is.

    Raises:
        CheckpointError: a run has no checkpoint yet.
    """
    if model == DEFAULT or model.startswith("hf://"):
        return model
    filesystem, root = fsspec.url_to_fs(model)
    if not filesystem.isdir(root) or filesystem.exists(f"{root}/{CONFIG_NAME}"):
        return model
    for below in ("/checkpoints", ""):
        found = sorted(filesystem.glob(f"{root}{below}/step_*/{CONFIG_NAME}"))
        if found:
            return f"{model.rstrip('/')}{below}/{found[-1].split('/')[-2]}"
    if filesystem.exists(f"{root}/checkpoints") or filesystem.exists(
        f"{root}/checkpoint_manager_snapshot.json"
    ):
        raise CheckpointError(model, "this training has no checkpoint yet")
    return model


def build(path: str | Path, model_config: ModelConfig, weights: Mapping[str, Tensor]) -> EnhancerNet:
    """The enhancer of ``model_config`` with these ``weights``, in evaluation mode; ``path`` is for errors.

    Raises:
        CheckpointError: the weights do not fit; the first keys that differ are named.
    """
    with torch.device("meta"):  # no memory and no time for random weights
        net = EnhancerNet(model_config.enhancer, model_config.denoiser)
    return _with_weights(path, net, weights)


def build_denoiser(path: str | Path, model_config: ModelConfig, weights: Mapping[str, Tensor]) -> Denoiser:
    """The same for the denoiser alone.

    Raises:
        CheckpointError: the weights do not fit; the first keys that differ are named.
    """
    with torch.device("meta"):
        net = Denoiser(model_config.denoiser)
    return _with_weights(path, net, weights)


def _with_weights(path: str | Path, net: Net, weights: Mapping[str, Tensor]) -> Net:
    _check_keys(path, expected=net.state_dict(), found=weights)
    net.load_state_dict(weights, assign=True)
    return net.requires_grad_(False).eval()


def default_folder(*, denoiser_only: bool = False) -> Path:
    """The folder of the weights that ship in the package: the enhancer's, or those of its denoiser."""
    name = "denoiser" if denoiser_only else "enhancer"
    return Path(str(importlib.resources.files("enhance_ray"))) / "weights" / name


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.yaml`` of a model folder.

    Raises:
        CheckpointError: it is absent or does not describe a model.
    """
    try:
        return trees.load(ModelConfig, folder / CONFIG_NAME)
    except ConfigError as error:
        raise CheckpointError(folder, str(error)) from error


def read_weights(path: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a safetensors file whose names start with ``prefix``, without it, as float32.

    Raises:
        CheckpointError: it is absent, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
            return {name.removeprefix(prefix): file.get_tensor(name).float() for name in names}
    except FileNotFoundError as error:
        raise CheckpointError(path.parent, f"{path.name} is missing") from error
    except DAMAGED as error:
        raise CheckpointError(path, f"it is damaged or no safetensors file ({error})") from error


def save(
    folder: Path,
    model_config: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    half: bool = False,
    card: str | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder that is either absent or complete; an older one of that name is replaced.

    Args:
        folder: where; its parents are created.
        model_config: sizes of the networks.
        weights: state dict.
        half: store float16, half the size; `load` gives float32 again.
        card: text of ``card.md``; pictures of the older folder that it names stay.
        state: what training needs to go on, saved with `torch.save`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        trees.save(model_config, temporary / CONFIG_NAME)
        dtype = torch.float16 if half else torch.float32
        # Contiguous row-major copies: safetensors refuses views and channels-last memory.
        plain = {key: torch.empty(tensor.shape, dtype=dtype).copy_(tensor) for key, tensor in weights.items()}
        save_file(plain, temporary / WEIGHTS_NAME)
        (temporary / WEIGHTS_NAME).chmod(0o644)  # safetensors lets nobody else read it
        if card is not None:
            (temporary / CARD_NAME).write_text(card, encoding="utf-8")
            for picture in folder.glob("*.png"):
                if picture.name in card:
                    shutil.copy2(picture, temporary)
        if state is not None:
            torch.save(dict(state), temporary / STATE_NAME)
        temporary.chmod(0o755)
        _put_in_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _put_in_place(new: Path, folder: Path) -> None:
    """Give ``new`` the name ``folder``; what had it is removed when that is done, and never before."""
    old = new.with_name(f"{new.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """Read the training state of a checkpoint; only tensors and plain values are accepted.

    Raises:
        CheckpointError: it is absent or damaged.
    """
    path = folder / STATE_NAME
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(folder, f"{STATE_NAME} is missing: it can be used, but not resumed") from error
    except DAMAGED as error:
        raise CheckpointError(path, f"it is damaged ({first_line(error)})") from error
    if not isinstance(state, dict) or not state.keys() >= _STATE_KEYS:
        raise CheckpointError(path, "it is no training state of this version")
    return state


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, which may be a page; its class if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_others(model: str) -> dict[str, dict[str, Tensor]]:
    """Weights of networks that were trained beside ``model`` and are no part of it, by name; perhaps none.

    Args:
        model: as `newest` takes it.

    Raises:
        CheckpointError: the training state is there and damaged.
    """
    model = newest(model)
    if model == DEFAULT or model.startswith("hf://"):
        return {}
    filesystem, root = fsspec.url_to_fs(model)
    if not filesystem.exists(f"{root}/{STATE_NAME}"):
        return {}
    with _copied(model, STATE_NAME) if "://" in model else contextlib.nullcontext(Path(model)) as folder:
        others: dict[str, dict[str, Tensor]] = read_state(folder)["others"]
    return others


def _check_keys(path: str | Path, *, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    problems = [f"'{key}' is missing" for key in expected if key not in found]
    problems += [f"'{key}' is unknown" for key in found if key not in expected]
    problems += [
        f"'{key}' is {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(path, f"the weights do not fit its sizes: {', '.join(problems[:3])}{more}")


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
