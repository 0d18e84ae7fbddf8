"""The clips of a group, an input and what was made of it, and what DNSMOS says of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from enhance_ray import checkpoint, metrics
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
    Waveform,
    active_power,
)
from enhance_ray.training.degrade import GaussianNoise as Hiss
from enhance_ray.training.examples import Banks, ExampleConfig, make_clean, make_example
from enhance_ray.training.splits import Split

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
