"""Training examples: (noisy, target, clean) crops. Spec 6.3, 6.5 and 6.6.

    speech -> crop ─┬───────────────────────────────────────────> clean
                    └> distort? ─┬──────────────────────────────> target
    noise  -> crop ──> distort ──┴─ mix at some SNR -> record ──> noisy

The denoiser's target keeps the speech's distortions: it removes noise and nothing else, unless `room_tail`
asks it to shorten rooms too. The enhancer is to give the clean speech. An example is a function of (seed,
epoch, index in the epoch): worker count, order and restarts do not change it. In an epoch each recording is
cropped `crops_per_clip` times in a row, which lets a reader decode it once.

Where the original draws once for a batch (whether speech is distorted, the mixing share), this
draws for each example, which is what makes an example independent of its batch.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import fsspec
import numpy as np
import scipy
import torch
from annotated_types import Gt, Interval
from filelock import FileLock
from jaxtyping import Float32
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from enhance_ray.audio import is_remote
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.errors import ConfigError, explain
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.settings.ranges import Count, NotNegative, Positive, Probability, WholeRange, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.bank import Bank, Recordings, StreamedBank, load_bank
from enhance_ray.training.corpus import load_rirs
from enhance_ray.training.degrade import (
    Distorter,
    RecordingChain,
    add_room,
    damp_room,
    match_band,
    mix_at_share,
    mix_at_snr,
    peak_normalize,
)
from enhance_ray.training.noises import Bursts, draw_babble, draw_noises
from enhance_ray.training.sources import join, list_sources
from enhance_ray.training.splits import Split
from enhance_ray.training.voices import Voices

Waveform = Float32[np.ndarray, " time"]


@settings
class CorpusConfig:
    """Where speech, noise and rooms are."""

    root: str = "data"
    """What the entries below are relative to: a folder, or an fsspec URI such as s3://bucket/corpus."""
    speech: tuple[str, ...] = ("fg",)
    """Clean speech: folders, lists or shards, see `sources`."""
    noise: tuple[str, ...] = ("bg",)
    """The same for noise."""
    rooms: tuple[str, ...] = ("rir",)
    """Folders of impulse responses; may be empty."""
    stream: bool = False
    """Decode speech when it is drawn, instead of all of it at the start: for corpora that are larger than the
    disk. Noise and rooms are always decoded at the start."""
    cache: Path = Path("runs/cache")
    """Folder for decoded audio, about 320 MB an hour."""
    held_out_every: Count = 8
    """One in so many files, where no list says it, is kept for validation."""
    train_speakers: tuple[str, ...] = ()
    """Speakers who belong to training whatever a list says: they may be the same person as one there."""
    pairs: tuple[str, ...] = ()
    """Folders with noisy/ and target/ that hold files of the same names: noisy recordings and what a teacher
    made of them (`teacher`), for `ExampleConfig.pair_probability`."""
    bursts: tuple[str, ...] = ()
    """Words in the names of noise files that hold impulsive sounds, for `ExampleConfig.bursts`."""


@settings
class ExampleConfig:
    """How examples are made. The defaults are the original's; what it lacks is off."""

    crop_seconds: Annotated[float, Gt(0.05)] = 3.0
    """Length of an example."""
    crops_per_clip: Count = 1
    """Examples that one recording gives in a row: more of them spare a reader of remote files its work."""
    silence_probability: Probability = 0.01
    """How often there is no speech at all."""
    distort_probability: Probability = 0.5
    """How often speech is distorted; noise always is."""
    distorter: Distorter = field(default_factory=Distorter)
    """What distorting is."""
    share: tuple[float, float] = (0.2, 0.8)
    """Range of the speech's share in the mixture of two signals of equal energy; 0.2 is -12 dB."""
    snr_db: tuple[float, float] | None = None
    """Range of the signal-to-noise ratio where speech is active; replaces ``share``."""
    join_clips: bool = False
    """Fill a crop with several clips of one speaker and gaps; otherwise with one clip and silence."""
    speed: Annotated[float, Interval(ge=0, le=0.5)] = 0.0
    """Largest relative change of speed and pitch of the speech."""
    voices: Voices = field(default_factory=Voices)
    """Other kinds of speech that are made of it."""
    room_probability: Probability = 0.0
    """How often speech is put into a room."""
    room_tail: Positive | None = None
    """Reverberation time in seconds to which the target's room is damped; None leaves the room as it is."""
    room_early: NotNegative = 0.02
    """Seconds after the direct sound that the target keeps of its room as they are."""
    noiseless_probability: Probability = 0.0
    """How often there is no noise: where speech needs nothing, the net is to do nothing."""
    noiseless_damage: Probability = 0.5
    """How often one of the effects of ``recording``, drawn by their probabilities, is applied to such speech;
    the others leave it alone."""
    babble_probability: Probability = 0.0
    """How often the noise is made of several speakers at once."""
    babble_voices: Annotated[WholeRange, Within(1)] = (4, 8)
    """How many of them."""
    babble_snr_db: tuple[float, float] | None = None
    """Range of the signal-to-noise ratio there; by default ``snr_db``."""
    bursts: Bursts = field(default_factory=Bursts)
    """How often the noise is made of keys, impacts and steps, and how; needs `CorpusConfig.bursts`."""
    max_noises: Count = 1
    """Most recordings that make up the noise."""
    recording: RecordingChain = field(default_factory=RecordingChain)
    """What happens to the mixture and not to the target: hum, clipping, codecs, lost packets."""
    pair_probability: Probability = 0.0
    """How often an example is a crop of `CorpusConfig.pairs` instead; its "clean" is the target, too."""
    same_band: bool = False
    """Whether the target is cut off where ``recording`` cut off the mixture: a mask cannot bring back what is
    above, and would learn to make noise of it."""

    def __post_init__(self) -> None:
        if self.babble_probability + self.bursts.probability > 1:
            raise ConfigError("babble_probability", "must not be above 1 together with that of bursts")
        needs = {"room_tail": self.room_tail, "babble_snr_db": self.babble_snr_db}
        needs["bursts"] = self.bursts.probability or None
        for name, value in needs.items():
            if value is not None and self.snr_db is None:
                raise ConfigError(name, "needs snr_db")


class Banks(NamedTuple):
    """Everything that examples of one split are made of."""

    speech: Recordings
    noise: Recordings
    rooms: Sequence[Waveform]
    bursts: NDArray[np.int64] = np.zeros(0, np.int64)
    """The recordings of ``noise`` that are impulsive."""
    pairs: tuple[Recordings, Recordings] | None = None
    """Noisy recordings and their targets, by the same numbers."""


class Example(NamedTuple):
    """One example at the model's rate."""

    noisy: Waveform
    target: Waveform
    """The speech in ``noisy``, at the level it has there."""
    clean: Waveform
    """That speech before anything happened to it, at a level of its own; shifted in time by nothing."""


Part = Literal["noisy", "target", "clean"]
Batch = Mapping[str, torch.Tensor]
"""Waveforms (batch, time) by `Part`, and "index" (batch,): the examples' places in the whole run."""


def load_banks(corpus: CorpusConfig, split: Split) -> Banks:
    """Decode the corpus, or map what an earlier run decoded.

    Raises:
        ConfigError: a folder is absent or holds nothing usable, or no noise for training has a name with a
            word of `CorpusConfig.bursts`.
    """
    every = corpus.held_out_every
    speech, noise = (
        list_sources(corpus.root, entries, split, every, corpus.train_speakers)
        for entries in (corpus.speech, corpus.noise)
    )
    rooms = [
        response
        for entry in corpus.rooms
        for response in load_rirs(
            _local_folder(join(corpus.root, entry), corpus.cache), split=split, held_out_every=every
        )
    ]
    noises = load_bank(noise, corpus.cache)
    bursts = np.array([any(word in name for word in corpus.bursts) for name in noises.names])
    if corpus.bursts and split == "train" and not bursts.any():
        raise ConfigError("corpus: bursts", f"no noise file's name holds any of {', '.join(corpus.bursts)}")
    return Banks(
        StreamedBank(speech) if corpus.stream else load_bank(speech, corpus.cache),
        noises,
        rooms,
        np.flatnonzero(bursts),
        _load_pairs(corpus, split) if corpus.pairs else None,
    )


def _load_pairs(corpus: CorpusConfig, split: Split) -> tuple[Bank, Bank]:
    noisy, targets = (
        load_bank(
            list_sources(
                corpus.root, [f"{folder}/{side}" for folder in corpus.pairs], split, corpus.held_out_every
            ),
            corpus.cache,
        )
        for side in ("noisy", "target")
    )
    if [Path(name).stem for name in noisy.names] != [Path(name).stem for name in targets.names]:
        raise ConfigError("corpus: pairs", "noisy/ and target/ do not hold the same names: make them again")
    if not np.array_equal(noisy.bounds, targets.bounds):
        raise ConfigError("corpus: pairs", "a recording and its target are not equally long: make them again")
    return noisy, targets


def _local_folder(folder: str, cache: Path) -> Path:
    """``folder``, copied into the cache once if it is remote."""
    if not is_remote(folder):
        return Path(folder)
    copy = cache / f"rooms-{hashlib.sha256(folder.encode()).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):
        if not copy.exists():
            filesystem, root = fsspec.url_to_fs(folder)
            with tempfile.TemporaryDirectory(prefix=f".{copy.name}-", dir=cache) as temporary:
                try:
                    filesystem.get(f"{root.rstrip('/')}/", f"{temporary}/copy/", recursive=True)
                except FILE_ERRORS as error:
                    raise ConfigError(folder, f"cannot be copied: {explain(error)}") from error
                Path(temporary, "copy").rename(copy)
    return copy


def make_example(
    banks: Banks, config: ExampleConfig, rng: np.random.Generator, clip: int | None = None
) -> Example:
    """Draw one example; peaks are at most 1.

    Args:
        banks: what it is made of.
        config: how.
        rng: decides everything else.
        clip: the recording of speech that it starts with; by default any.
    """
    length = int(config.crop_seconds * MODEL_RATE)
    if config.pair_probability and banks.pairs and rng.random() < config.pair_probability:
        return _draw_pair(*banks.pairs, length, rng)
    silent = rng.random() < config.silence_probability
    if silent:
        clean = speech = target = np.zeros(length, np.float32)
    else:
        clean = _draw_speech(banks.speech, config, length, rng, clip)
        speech, target = _record_speech(clean, banks, config, rng)
    if config.noiseless_probability and not silent and rng.random() < config.noiseless_probability:
        mixture = speech
        damaged = rng.random() < config.noiseless_damage
        noisy = config.recording.one(mixture, MODEL_RATE, rng) if damaged else mixture
    else:
        mixture, target = _add_noise(speech, target, banks, config, rng)
        noisy = config.recording(mixture, MODEL_RATE, rng)
    if config.same_band:
        target = match_band(target, MODEL_RATE, before=mixture, after=noisy)
    peak = max(1.0, float(np.abs(noisy).max()))
    return Example(noisy / peak, target / peak, clean)


def _draw_pair(noisy: Recordings, targets: Recordings, length: int, rng: np.random.Generator) -> Example:
    index = int(rng.integers(len(noisy)))
    start = int(rng.integers(max(0, noisy.length(index) - length) + 1))
    crops = [bank.read(index, start, length) for bank in (noisy, targets)]
    heard, target = (np.pad(crop, (0, length - crop.size)) for crop in crops)
    return Example(heard, target, target)


def _add_noise(
    speech: Waveform, target: Waveform, banks: Banks, config: ExampleConfig, rng: np.random.Generator
) -> tuple[Waveform, Waveform]:
    """The mixture, and the target at the level of the speech in it."""
    kind, length, snr_db = rng.random(), speech.size, config.snr_db
    of_bursts = 1 - config.bursts.probability <= kind and banks.bursts.size > 0
    if of_bursts:
        noise, snr_db = config.bursts.draw(banks.noise, banks.bursts, length, rng), config.bursts.snr_db
    elif kind < config.babble_probability:
        noise = draw_babble(banks.speech, config.babble_voices, length, rng)
        snr_db = config.babble_snr_db or snr_db
    else:
        noise = draw_noises(banks.noise, config.max_noises, length, rng)
    noise = peak_normalize(config.distorter(noise, MODEL_RATE, rng, banks.rooms))
    if of_bursts and rng.random() < config.bursts.background:
        background = draw_noises(banks.noise, config.max_noises, length, rng)
        noise = mix_at_snr(noise, background, rng.uniform(10, 30), MODEL_RATE)
    if snr_db is None:
        return mix_at_share(speech, noise, rng.uniform(*config.share))
    return mix_at_snr(speech, noise, rng.uniform(*snr_db), MODEL_RATE, noise_pauses=of_bursts), target


def make_clean(
    banks: Banks, config: ExampleConfig, rng: np.random.Generator, clip: int | None = None
) -> Waveform:
    """Draw clean speech alone, which is all that stage 1 of the original needs; arguments as above."""
    length = int(config.crop_seconds * MODEL_RATE)
    if rng.random() < config.silence_probability:
        return np.zeros(length, np.float32)
    return _draw_speech(banks.speech, config, length, rng, clip)


class Examples(Dataset[dict[str, Any]]):
    """Endless examples by index."""

    def __init__(
        self, banks: Banks, config: ExampleConfig, seed: int, parts: Sequence[Part] = ("noisy", "target")
    ) -> None:
        """Draw from ``banks``; equal (seed, index) give equal examples, of which ``parts`` are kept."""
        self.banks, self.config, self.seed, self.parts = banks, config, seed, tuple(parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        crops = self.config.crops_per_clip
        epoch, place = divmod(index, len(self.banks.speech) * crops)
        clip = int(_order(len(self.banks.speech), self.seed, epoch)[place // crops])
        rng = np.random.default_rng([self.seed, epoch, place])
        if self.parts == ("clean",):
            return {"index": index, "clean": make_clean(self.banks, self.config, rng, clip)}
        example = make_example(self.banks, self.config, rng, clip)
        return {"index": index, **{part: getattr(example, part) for part in self.parts}}


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The recordings in the order of an epoch."""
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


def batch_indices(first: int, batch_size: int, rank: int, world_size: int, step: int) -> range:
    """Examples of worker ``rank`` in step ``step`` after example ``first`` of the run.

    The workers' batches of a step follow each other: together they are what one worker with all of their
    examples would have.
    """
    start = first + (step * world_size + rank) * batch_size
    return range(start, start + batch_size)


def batches(
    examples: Examples,
    *,
    batch_size: int,
    first: int,
    steps: int,
    rank: int,
    world_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Batches of worker ``rank`` for the next ``steps`` steps.

    Args:
        examples: where they come from.
        batch_size: examples of this worker in a step.
        first: how many examples the run has used so far, on all workers: a resumed training sees what the
            uninterrupted one would have seen.
        steps: how many batches.
        rank: of this worker.
        world_size: number of workers.
        workers: processes that make examples; 0 makes them here.
    """
    # Not a list: a million steps of a large batch would be gigabytes of numbers.
    order = (batch_indices(first, batch_size, rank, world_size, step) for step in range(steps))
    loader = DataLoader(
        examples,
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


def _record_speech(
    clean: Waveform, banks: Banks, config: ExampleConfig, rng: np.random.Generator
) -> tuple[Waveform, Waveform]:
    """Speech with a peak of 1 as it reaches the microphone, and what the denoiser is to make of it."""
    speech = target = clean
    if banks.rooms and rng.random() < config.room_probability:
        room = banks.rooms[int(rng.integers(len(banks.rooms)))]
        # No room takes this to a peak at which `add_room` changes the level.
        dry: Waveform = np.float32(0.2) * speech
        speech = target = add_room(dry, room)
        if config.room_tail is not None:
            damped = damp_room(room, MODEL_RATE, config.room_tail, config.room_early)
            target = add_room(dry, damped)
    if rng.random() < config.distort_probability:
        seed = int(rng.integers(2**63))  # one draw for both
        distorted = [
            config.distorter(part, MODEL_RATE, np.random.default_rng(seed), banks.rooms)
            for part in ([speech] if target is speech else [speech, target])
        ]
        speech, target = distorted[0], distorted[-1]
    peak = np.abs(speech).max() + np.float32(1e-7)
    return speech / peak, target / peak


def _draw_speech(
    bank: Recordings, config: ExampleConfig, length: int, rng: np.random.Generator, clip: int | None
) -> Waveform:
    stretch = 1 + rng.uniform(-config.speed, config.speed) if config.speed else 1.0
    stretch *= config.voices.draw_pitch(rng)
    # The stretched crop is cut to a length that transforms fast.
    natural = length if stretch == 1 else scipy.fft.next_fast_len(int(length * stretch), real=True)
    index = int(rng.integers(len(bank))) if clip is None else clip
    speech = np.zeros(natural, np.float32)
    filled = _place(speech, 0, bank, index, rng)
    if config.join_clips:
        companions = bank.companions(index)
        while filled < natural:
            gap = int(rng.exponential(0.3) * MODEL_RATE)
            filled = _place(speech, filled + gap, bank, int(rng.choice(companions)), rng)
    speech = speech if natural == length else _stretch(speech, length)
    return config.voices(speech, MODEL_RATE, rng)


def _place(target: Waveform, at: int, bank: Recordings, index: int, rng: np.random.Generator) -> int:
    """Write a clip, cropped at random to the room that is left, and say where it ends."""
    room = target.size - at
    if room <= 0:
        return target.size
    length = bank.length(index)
    start = int(rng.integers(max(0, length - room) + 1))
    clip = bank.read(index, start, room)
    target[at : at + clip.size] = clip
    return at + clip.size


def _stretch(waveform: Waveform, length: int) -> Waveform:
    """Change speed and pitch so that ``waveform`` lasts ``length`` samples, by resizing its spectrum."""
    spectrum = scipy.fft.rfft(waveform)
    bins = length // 2 + 1
    resized = np.zeros(bins, spectrum.dtype)
    kept = min(bins, spectrum.size)
    resized[:kept] = spectrum[:kept]
    stretched: Waveform = scipy.fft.irfft(resized, length) * np.float32(length / waveform.size)
    return stretched
