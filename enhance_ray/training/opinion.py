"""Trains `models.opinion`: sounds of all kinds, what DNSMOS says of them, and a net that learns it.

    python -m enhance_ray.training.opinion --corpus data --out enhance_ray/weights/opinion

    speech, noise, rooms -> input ─┬─> rated by DNSMOS at one level -> cache -> `train` -> `evaluate`
    what the packaged model makes ─┤
    what else could be made of it ─┘

A group is an input and what was made of it: denoised, enhanced, and spoiled in ways in which denoisers spoil
sound. It is a function of (seed, part, index) and one file of the cache: the command may be stopped and run
again. DNSMOS is most of the work, 0.3 s of a core for a clip.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float16, Float32
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from enhance_ray import checkpoint, metrics
from enhance_ray.memory import keep_large_blocks
from enhance_ray.models import packaged
from enhance_ray.models.opinion import OpinionNet
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.degrade import (
    BandFilter,
    Clipping,
    Codec,
    Distorter,
    Equalizer,
    Hum,
    LevelChanges,
    NarrowBand,
    Overdrive,
    PacketLoss,
    RecordingChain,
    Reverb,
    active_power,
)
from enhance_ray.training.degrade import GaussianNoise as Hiss
from enhance_ray.training.examples import (
    Banks,
    CorpusConfig,
    ExampleConfig,
    load_banks,
    make_clean,
    make_example,
)
from enhance_ray.training.parallel import in_order
from enhance_ray.training.splits import Split

Waveform = Float32[np.ndarray, " time"]
Ratings = Float32[np.ndarray, "clip scale=3"]

SECONDS = 6.0
"""Length of a clip."""
LEVEL_DBFS = -26.0
"""RMS of the active part of a clip when DNSMOS rates it: a usual level of active speech (ITU-T P.56). It
matters: one noisy clip had a BAK of 2.7 with a peak of -30 dBFS, and of 1.3 with a peak of 0 dBFS."""
SCALES = ("sig", "bak", "ovrl")
FILE_SECONDS = 18.0
"""Length of the sounds on which means over files are compared: three clips."""

Part = Literal["train", "valid", "files"]
SPLITS: Mapping[Part, Split] = {"train": "train", "valid": "valid", "files": "valid"}
"""What groups are for, and the half of the corpus that they are made of."""
LOG_EVERY = 200

RECIPE = ExampleConfig(
    crop_seconds=SECONDS,
    silence_probability=0.04,
    distort_probability=0.4,
    distorter=Distorter(
        room_probability=0.1,
        reverb=Reverb(probability=0.1),
        noise=Hiss(probability=0.1, share=(0.9, 1.0)),
        overdrive=Overdrive(probability=0.1),
        equalizer=Equalizer(probability=0.4, gain_db=(-12, 12)),
        band_filter=BandFilter(probability=0.1),
    ),
    snr_db=(-10.0, 40.0),
    join_clips=True,
    speed=0.08,
    room_probability=0.4,
    babble_probability=0.06,
    max_noises=2,
    recording=RecordingChain(
        level=LevelChanges(probability=0.05),
        hum=Hum(probability=0.07),
        clipping=Clipping(probability=0.12),
        narrow_band=NarrowBand(probability=0.2),
        codec=Codec(probability=0.15),
        packet_loss=PacketLoss(probability=0.05),
    ),
)
"""The inputs, other than clean ones."""
CLEAN_PROBABILITY = 0.1
PAUSE_PROBABILITY = 0.1
"""How often a part of the input is turned down, or off."""
DENOISED_PROBABILITY, ENHANCED_PROBABILITY, SPOILED_PROBABILITY = 0.7, 0.2, 0.6
"""How often a group for training has each; a group for validation has all of them."""


class Clip(NamedTuple):
    """A sound at 44.1 kHz and how it came about."""

    kind: str
    waveform: Waveform


# --------------------------------------------------------------------------------- clips


def make_group(banks: Banks, model: checkpoint.Model, part: Part, seed: int, index: int) -> list[Clip]:
    """The clips of group ``index``, at `LEVEL_DBFS`; the first is the input.

    Args:
        banks: of the part's split.
        model: the enhancer whose answers are among the clips; one without a net gives denoised sound alone.
        part: what the group is for.
        seed: of the collection.
        index: of the group in its part.
    """
    rng = np.random.default_rng([seed, list(SPLITS).index(part), index])
    recipe = RECIPE if part != "files" else dataclasses.replace(RECIPE, crop_seconds=FILE_SECONDS)
    whole = part != "train"
    noisy = _draw_input(banks, recipe, rng)
    clips = [Clip("input", noisy)]
    wanted = [whole or rng.random() < p for p in (DENOISED_PROBABILITY, ENHANCED_PROBABILITY)]
    spoiled = rng.random() < SPOILED_PROBABILITY or whole
    if any((*wanted, spoiled)):
        batch = torch.from_numpy(noisy)[None]
        batch = batch / batch.abs().amax().clamp_min(1e-7)
        with torch.inference_mode():
            denoised = model.denoiser(batch)
            answers = {"denoised": denoised}
            if wanted[1] and model.net is not None:
                answers["enhanced"] = model.net(batch, denoised=denoised)
        made = {kind: np.resize(answer[0].numpy(), noisy.size) for kind, answer in answers.items()}
        clips += [Clip(kind, made[kind]) for kind in made if kind != "denoised" or wanted[0]]
        if spoiled:
            base = made[str(rng.choice(list(made)))]
            clips.append(_spoil(batch[0].numpy(), base, rng))
    return [Clip(clip.kind, at_level(clip.waveform)) for clip in clips]


def at_level(waveform: Waveform) -> Waveform:
    """``waveform`` with `LEVEL_DBFS` in its active frames, or with a peak of 1 where that is lower."""
    power = active_power(waveform, MODEL_RATE)
    if power == 0:
        return waveform
    gain = min(10 ** (LEVEL_DBFS / 20) / power**0.5, 1 / float(np.abs(waveform).max()))
    return np.float32(gain) * waveform


def rate(waveform: Waveform) -> Float32[np.ndarray, "scale=3"]:
    """DNSMOS SIG, BAK and OVRL of a clip or a file, as it is.

    A clip is repeated to the length of one window: `metrics.dnsmos` by itself would repeat it to twice its
    length and give the mean of windows that hold the same sound, at three times the cost.
    """
    wide = metrics.resample(waveform, MODEL_RATE, metrics.WIDEBAND_RATE)
    window = int(metrics.DNSMOS_SECONDS * metrics.WIDEBAND_RATE)
    opinion = metrics.dnsmos(wide if wide.size > window else np.resize(wide, window), metrics.WIDEBAND_RATE)
    return np.array([opinion[scale] for scale in SCALES], np.float32)


def _draw_input(banks: Banks, recipe: ExampleConfig, rng: np.random.Generator) -> Waveform:
    if rng.random() < CLEAN_PROBABILITY:
        waveform = make_clean(banks, dataclasses.replace(recipe, silence_probability=0), rng)
    else:
        waveform = make_example(banks, recipe, rng).noisy
    if rng.random() < PAUSE_PROBABILITY:
        gain = 0.0 if rng.random() < 0.3 else 10 ** (rng.uniform(-80, -20) / 20)
        length = int(rng.uniform(0.15, 0.6) * waveform.size)
        start = int(rng.integers(waveform.size - length))
        waveform = waveform.copy()
        waveform[start : start + length] *= np.float32(gain)
    return waveform


def _spoil(noisy: Waveform, cleaned: Waveform, rng: np.random.Generator) -> Clip:
    """What other denoisers and settings might make of ``noisy``, by the help of our answer ``cleaned``."""
    choice = rng.random()
    if choice < 0.4:
        share = np.float32(rng.uniform(0.3, 0.97))
        return Clip("blend", share * cleaned + (1 - share) * noisy)
    if choice < 0.6:
        return Clip("oversuppressed", _change_mask(noisy, cleaned, lambda mask: mask ** rng.uniform(1.5, 4)))
    if choice < 0.75:
        floor = 10 ** (rng.uniform(-40, -10) / 20)
        threshold = rng.uniform(0.2, 0.8)
        return Clip("gated", _change_mask(noisy, cleaned, lambda mask: np.where(mask < threshold, floor, 1)))
    return Clip(
        "subtracted", _subtract_spectrum(noisy, rng.uniform(0.8, 3), 10 ** (rng.uniform(-50, -20) / 20))
    )


def _change_mask(
    noisy: Waveform, cleaned: Waveform, change: Callable[[NDArray[np.floating]], NDArray[np.floating]]
) -> Waveform:
    """``noisy`` under another mask than the one, in [0, 1], that makes ``cleaned`` of it."""
    before, after = _spectrum(noisy), _spectrum(cleaned)
    mask = np.minimum(np.abs(after) / np.maximum(np.abs(before), 1e-7), 1)
    return _sound(before * change(mask), noisy.size)


def _subtract_spectrum(noisy: Waveform, excess: float, floor: float) -> Waveform:
    """Spectral subtraction (Boll 1979, doi:10.1109/TASSP.1979.1163209), which leaves musical noise."""
    spectrum = _spectrum(noisy)
    magnitude = np.abs(spectrum)
    noise = np.quantile(magnitude, 0.3, axis=1, keepdims=True)
    return _sound(spectrum * np.maximum(1 - excess * noise / np.maximum(magnitude, 1e-7), floor), noisy.size)


def _spectrum(waveform: Waveform) -> NDArray[np.complexfloating]:
    spectrum: NDArray[np.complexfloating] = scipy.signal.stft(waveform, nperseg=1024)[2]
    return spectrum


def _sound(spectrum: NDArray[np.complexfloating], length: int) -> Waveform:
    waveform = scipy.signal.istft(spectrum, nperseg=1024)[1][:length]
    return np.asarray(waveform, np.float32)


# ------------------------------------------------------------------------------- the cache


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Where clips come from and where they are kept."""

    corpus: CorpusConfig
    cache: Path
    seed: int = 0

    def path(self, part: Part, index: int) -> Path:
        """Of a group: ``clips`` (clip, time) in 16 bits, ``ratings`` (clip, scale), ``kinds`` (clip,)."""
        return self.cache / f"seed_{self.seed}" / f"{part}_{index:05d}.npz"


def collect(collection: Collection, counts: Mapping[Part, int], workers: int = 1) -> None:
    """Make and rate the first ``counts`` groups of each part that the cache does not hold yet.

    Raises:
        ConfigError: the corpus cannot be read, or a package of the `eval` extra is absent.
    """
    for part, count in counts.items():
        missing = [index for index in range(count) if not collection.path(part, index).exists()]
        if not missing:
            continue
        load_banks(collection.corpus, SPLITS[part])  # decoded once, not by every worker
        collected = in_order(functools.partial(_collect, collection, part), missing, workers)
        with contextlib.closing(collected):
            for done, _ in enumerate(collected, start=1):
                if done % 50 == 0:
                    print(f"{part}: {done} of {len(missing)} groups", flush=True)  # noqa: T201


def _collect(collection: Collection, part: Part, index: int) -> None:
    banks, model = _materials(collection.corpus, SPLITS[part])
    clips = make_group(banks, model, part, collection.seed, index)
    samples = np.stack([np.rint(32767 * clip.waveform.clip(-1, 1)).astype(np.int16) for clip in clips])
    ratings = np.stack([rate(row.astype(np.float32) / 32767) for row in samples])
    path = collection.path(part, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, clips=samples, ratings=ratings, kinds=np.array([clip.kind for clip in clips]))
    temporary.replace(path)


@functools.cache
def _materials(corpus: CorpusConfig, split: Split) -> tuple[Banks, checkpoint.Model]:
    keep_large_blocks()
    model = checkpoint.load()
    if model.net is not None:
        model.net.freeze()
    return load_banks(corpus, split), model


# -------------------------------------------------------------------------------- training


class Rated(NamedTuple):
    """Clips as the net sees them, and what DNSMOS says."""

    features: Float16[Tensor, "clip 2 band frame"]
    ratings: Float32[Tensor, "clip scale=3"]
    kinds: NDArray[np.str_]
    groups: NDArray[np.int64]
    """The group of each clip, ascending; its first clip is the input of the others."""


def read(collection: Collection, part: Part, count: int) -> Rated:
    """The first ``count`` groups of the cache; the windows of a file one after the other, its rating once."""
    net = OpinionNet()
    features, ratings, kinds, groups = [], [], [], []
    for index in range(count):
        with np.load(collection.path(part, index)) as group:
            clips = torch.from_numpy(group["clips"] / np.float32(32767))
            features.append(net.features(clips.reshape(-1, int(SECONDS * MODEL_RATE))).half())
            ratings.append(torch.from_numpy(group["ratings"]))
            kinds.append(group["kinds"])
            groups += [index] * len(clips)
    return Rated(torch.cat(features), torch.cat(ratings), np.concatenate(kinds), np.array(groups))


def train(rated: Rated, *, steps: int, seed: int, batch: int = 16, max_lr: float = 3e-3) -> OpinionNet:
    """A net that agrees with the ``rated`` clips: Huber loss, AdamW, one cycle of the learning rate.

    A clip is turned in time, as its repetition in DNSMOS is, cut to 60 to 100 % of its length, and varied.
    """
    torch.manual_seed(seed)
    net = OpinionNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=max_lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps=steps, pct_start=0.1)
    clips, frames = rated.features.shape[0], rated.features.shape[-1]
    total = 0.0
    for step in range(1, steps + 1):
        chosen = torch.randint(clips, (batch,))
        length = int(torch.randint(int(0.6 * frames), frames + 1, ()))
        starts = torch.randint(frames, (batch,))
        turned = [rated.features[i].roll(-int(s), dims=-1) for i, s in zip(chosen, starts, strict=True)]
        crops = _vary(torch.stack(turned)[..., :length].float())
        loss = F.smooth_l1_loss(net.judge(crops), rated.ratings[chosen], beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % LOG_EVERY == 0:
            print(f"step {step}: loss {total / LOG_EVERY:.4f}", flush=True)  # noqa: T201
            total = 0.0
    return net.eval()


def _vary(crops: Float32[Tensor, "batch 2 band frame"]) -> Float32[Tensor, "batch 2 band frame"]:
    """Other voices and microphones: a smooth equalizer of about 2 dB, noise of the features, bands that hide.

    The opinion would hardly change by them, and the net does not learn its few speakers by heart.
    """
    batch, _, bands, _ = crops.shape
    place = torch.arange(bands) / bands
    waves = torch.cos(torch.pi * torch.arange(1, 6)[:, None] * place)
    equalizer = 0.03 * torch.randn(batch, len(waves)) @ waves
    varied = crops + 0.03 * torch.randn_like(crops)
    varied[:, 0] += equalizer[..., None]
    # Six bands of half of the crops take the mean of all.
    first = torch.randint(2 * bands, (batch, 1))
    hidden = (torch.arange(bands) >= first) & (torch.arange(bands) < first + 6)
    return torch.where(hidden[:, None, :, None], varied.mean(dim=(2, 3), keepdim=True), varied)


# ------------------------------------------------------------------------------ evaluation


def evaluate(net: OpinionNet, rated: Rated) -> str:
    """Markdown: how far ``net`` agrees with DNSMOS, by kind of clip, and on gains over the input.

    Of files the mean over windows is compared.
    """
    with torch.inference_mode():
        judged = torch.cat([net.judge(part.float()) for part in rated.features.split(64)])
    estimates = judged.reshape(len(rated.ratings), -1, len(SCALES)).mean(dim=1).numpy()
    ratings = rated.ratings.numpy()
    known = ("input", "denoised", "enhanced")
    rows = {"all": (estimates, ratings)}
    for kind in known:
        chosen = rated.kinds == kind
        rows[kind] = (estimates[chosen], ratings[chosen])
    spoiled = ~np.isin(rated.kinds, known)
    rows["spoiled"] = (estimates[spoiled], ratings[spoiled])
    first = np.searchsorted(rated.groups, rated.groups)
    for kind in known[1:]:
        after = np.flatnonzero(rated.kinds == kind)
        before = first[after]
        rows[f"{kind} - input"] = (estimates[after] - estimates[before], ratings[after] - ratings[before])
    return _table(rows)


def _table(rows: Mapping[str, tuple[Ratings, Ratings]]) -> str:
    """Markdown: Pearson's r, Spearman's rho, RMSE and bias of estimates of ratings, by scale."""
    lines = [
        "| sounds | count | scale | Pearson ↑ | Spearman ↑ | RMSE ↓ | bias |",
        "|---|---:|---|" + "---:|" * 4,
    ]
    for title, (estimates, ratings) in rows.items():
        for scale, estimate, rating in zip(SCALES, estimates.T, ratings.T, strict=True):
            error = estimate - rating
            numbers = (
                scipy.stats.pearsonr(estimate, rating).statistic,
                scipy.stats.spearmanr(estimate, rating).statistic,
                np.sqrt(np.square(error).mean()),
                error.mean(),
            )
            cells = [title, str(len(rating)), scale.upper(), *(f"{number:.3f}" for number in numbers)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ----------------------------------------------------------------------------- command line


def main() -> None:
    """Collect what is missing, train, print how well it went, write the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, metavar="DIR", help="with fg.csv, fg16k/, bg.csv, rir/")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/opinion"), metavar="DIR", help="clips, ratings"
    )
    parser.add_argument("--count", type=int, default=900, metavar="N", help="groups to train on")
    parser.add_argument("--held-out", type=int, default=180, metavar="N", help="groups to evaluate on")
    parser.add_argument("--files", type=int, default=12, metavar="N", help="files to evaluate on")
    parser.add_argument("--steps", type=int, default=6000, metavar="N", help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that make clips")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for model.safetensors")
    arguments = parser.parse_args()
    corpus = CorpusConfig(root=arguments.corpus, speech=("fg.csv", "fg16k"), noise=("bg.csv",))
    collection = Collection(corpus=corpus, cache=arguments.cache, seed=arguments.seed)
    counts: dict[Part, int] = {
        "train": arguments.count,
        "valid": arguments.held_out,
        "files": arguments.files,
    }
    collect(collection, counts, arguments.workers)
    net = train(read(collection, "train", arguments.count), steps=arguments.steps, seed=arguments.seed)
    for part in ("valid", "files"):
        print(f"{part}\n\n{evaluate(net, read(collection, part, counts[part]))}\n")  # noqa: T201
    packaged.save(net, arguments.out)


if __name__ == "__main__":
    main()
