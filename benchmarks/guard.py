"""How much harm the guard catches, and how much good output it takes for harm.

    python benchmarks/guard.py --data DIR --count 100 [--music DIR]

Mixtures of `mixtures.py` (held-out speakers and noises, every condition) are restored by the packaged
enhancer: that is good output, which the guard is to leave alone. Then failures are planted in it, cross-faded
over 10 ms:

- other words: a piece of what was made of another recording, of the same speaker, of another, or of the same
  one backwards, where speech is heard, at its level;
- invented: the same, where what came in holds 60 dB less than speech, at several levels;
- swallowed: half a second of speech, silenced;
- music: recordings of DIR, alone, as the models hear them.

A planted piece is caught if 90 % of its energy is kept out; music, if the original is kept for 90 % of the
time. Swallowed speech is caught if 90 % of the denoised speech's energy is back.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from dataclasses import dataclass

import mixtures
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from enhance_ray import EnhanceOptions, Enhancer, audio, guard
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.synthesis import Synthesis
from enhance_ray.settings.options import MODEL_RATE

ONE = torch.ones(1, 1)
GRAIN = MODEL_RATE // 20
FADE = MODEL_RATE // 100
LEAST = 0.9


@dataclass(frozen=True, slots=True)
class Restored:
    """Versions of a recording, (time,) each, at a peak of 1 in the original."""

    condition: str
    speaker: str
    original: Tensor
    denoised: Tensor
    enhanced: Tensor


def restore(enhancer: Enhancer, waveform: np.ndarray, plan: mixtures.Plan) -> Restored:
    """What the models make of a mixture."""
    rows = torch.from_numpy(waveform.astype(np.float32))[None]
    rows = F.pad(rows, (0, enhancer.framing.row_length(rows.shape[-1]) - rows.shape[-1]))
    rows /= rows.abs().max()
    answer = enhancer.run(rows, EnhanceOptions(mode="enhance", guard=True), [0])[0]
    return Restored(plan.condition, plan.speaker, rows[0], answer[1], answer[0])


def decide(original: Tensor, denoised: Tensor, enhanced: Tensor) -> guard.Choice:
    return guard.choose(original[None], denoised[None], enhanced[None], ONE)


def share_of(version: int, choice: guard.Choice, samples: int) -> Tensor:
    """(time,): how much of the output is that version."""
    chosen = (choice.versions == version).float()[None, None]
    return F.interpolate(chosen, scale_factor=guard.STEP, mode="linear")[0, 0, :samples]


def spoken(waveform: Tensor) -> list[int]:
    """Moments (samples) at which speech is heard."""
    power = waveform[: len(waveform) // GRAIN * GRAIN].view(-1, GRAIN).square().mean(1)
    return [int(at) * GRAIN for at in (power > power.max() * 10**-2.5).nonzero()[:, 0]]


def piece_around(waveform: Tensor, moment: int, samples: int) -> Tensor:
    start = max(0, min(len(waveform) - samples, moment - samples // 2))
    return waveform[start : start + samples]


class Planter:
    """Plants failures, each at random."""

    def __init__(self, recordings: list[Restored], seed: int) -> None:
        self.recordings = recordings
        self.rng = np.random.default_rng(seed)

    def words(self, kind: str, seconds: float) -> bool:
        """Whether other words of that length are caught."""
        target, words = self._draw(kind, seconds)
        start = max(
            0, min(len(target.enhanced) - len(words), self._moment(target.denoised) - len(words) // 2)
        )
        return self._is_caught(target, words, start)

    def invented(self, level_db: float, seconds: float) -> bool:
        """Whether speech in silence, at that level re speech, is caught."""
        target, words = self._draw("another speaker", seconds)
        start = int(self.rng.integers(len(target.enhanced) - len(words)))
        hole = slice(start, start + len(words))
        hiss = (
            1e-3
            * _rms(target.denoised)
            * torch.from_numpy(self.rng.standard_normal(len(words)).astype(np.float32))
        )
        original, denoised, enhanced = (
            version.clone() for version in (target.original, target.denoised, target.enhanced)
        )
        original[hole], denoised[hole], enhanced[hole] = 10 * hiss, hiss, hiss
        quiet = Restored(target.condition, target.speaker, original, denoised, enhanced)
        return self._is_caught(quiet, 10 ** (level_db / 20) * words, start)

    def swallowed(self, seconds: float) -> bool:
        """Whether speech that the enhancer leaves out is put back."""
        target = self.recordings[self.rng.integers(len(self.recordings))]
        samples = round(seconds * MODEL_RATE)
        start = max(0, min(len(target.enhanced) - samples, self._moment(target.denoised) - samples // 2))
        gap = slice(start, start + samples)
        enhanced = target.enhanced.clone()
        enhanced[gap] *= 1 - _window(samples)
        choice = decide(target.original, target.denoised, enhanced)
        missing = target.denoised[gap] * _window(samples)
        back = 1 - share_of(2, choice, len(enhanced))[gap]
        return bool((missing * back).square().sum() >= LEAST * missing.square().sum())

    def _draw(self, kind: str, seconds: float) -> tuple[Restored, Tensor]:
        """A recording, and words to plant in it at its level."""
        samples = round(seconds * MODEL_RATE)
        while True:
            target, source = (self.recordings[i] for i in self.rng.integers(len(self.recordings), size=2))
            if kind == "backwards":
                source = target
            is_same = source.speaker == target.speaker
            if kind != "backwards" and (source is target or is_same != (kind == "the same speaker")):
                continue
            if min(len(source.enhanced), len(target.enhanced)) > samples + MODEL_RATE:
                break
        sound = source.enhanced.flip(0) if kind == "backwards" else source.enhanced
        words = piece_around(sound, self._moment(sound), samples)
        return target, words * _rms(target.enhanced) / _rms(source.enhanced)

    def _moment(self, waveform: Tensor) -> int:
        return int(self.rng.choice(spoken(waveform)))

    def _is_caught(self, target: Restored, words: Tensor, start: int) -> bool:
        hole = slice(start, start + len(words))
        enhanced = target.enhanced.clone()
        window = _window(len(words))
        enhanced[hole] = (1 - window) * enhanced[hole] + window * words
        choice = decide(target.original, target.denoised, enhanced)
        planted = window * words
        left = planted * share_of(2, choice, len(enhanced))[hole]
        return bool(left.square().sum() <= (1 - LEAST) * planted.square().sum())


def music_kept(enhancer: Enhancer, path: str, mode: str) -> float:
    """Share of a recording's time, its first minute, for which the guard keeps the original."""
    options = EnhanceOptions(mode=mode, guard=True)  # type: ignore[arg-type]
    with audio.decode(path, block_seconds=60.0) as decoder:
        rate = decoder.info.sample_rate
        waveform = torch.from_numpy(next(iter(decoder))).mean(0, keepdim=True)
    synthesis = Synthesis(enhancer.framing, options, name=path)
    pieces = Analysis(enhancer.framing, rate, 1, options, name=path).pieces([waveform])
    for _ in synthesis.blocks(Batcher(enhancer, options, 1).results(None, pieces)):
        pass
    kept = sum(span.stop - span.start for span in synthesis.replaced if span.kept == "original")
    return kept * rate / waveform.shape[-1]


def _window(samples: int) -> Tensor:
    window = torch.ones(samples)
    window[:FADE] = torch.linspace(0, 1, FADE)
    window[-FADE:] = torch.linspace(1, 0, FADE)
    return window


def _rms(waveform: Tensor) -> float:
    return float(waveform.square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mixtures.add_arguments(parser)
    parser.add_argument("--trials", type=int, default=200, metavar="N", help="of each failure (default: 200)")
    parser.add_argument("--model", default="default", metavar="MODEL")
    parser.add_argument("--music", metavar="DIR", help="recordings of music, without speech")
    arguments = parser.parse_args()
    corpus = mixtures.Corpus(arguments.data)
    enhancer = Enhancer.load(arguments.model, device="cpu")
    plans = corpus.plans(arguments.count, arguments.seed, tuple(arguments.conditions))
    recordings = [restore(enhancer, corpus.render(plan).noisy, plan) for plan in plans]

    print("| good output of | recordings | time replaced | of it |\n|---|---:|---:|---|")
    replaced = defaultdict(list)
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        choice = decide(recording.original, recording.denoised, recording.enhanced)
        for group in (recording.condition, "all"):
            replaced[group].append((choice.reasons >= 0).float().mean().item())
            reasons[group].update(guard.REASONS[index] for index in choice.reasons[choice.reasons >= 0])
    for group, shares in replaced.items():
        why = ", ".join(f"{name} {count}" for name, count in reasons[group].most_common())
        print(f"| {group} | {len(shares)} | {100 * np.mean(shares):.2f} % | {why} |")

    print("\n| planted | how | caught |\n|---|---|---:|")
    planter = Planter(recordings, arguments.seed)
    trials = range(arguments.trials)
    total: list[bool] = []
    for kind in ("the same speaker", "another speaker", "backwards"):
        for seconds in (0.3, 0.5, 1.0, 2.0):
            caught = [planter.words(kind, seconds) for _ in trials]
            total += caught
            print(f"| other words, {kind} | {seconds:g} s | {100 * np.mean(caught):.1f} % |", flush=True)
    for level_db in (0, -10, -20, -30):
        caught = [planter.invented(level_db, 1.0) for _ in trials]
        total += caught
        print(f"| invented in silence | 1 s, {level_db} dB | {100 * np.mean(caught):.1f} % |", flush=True)
    for seconds in (0.3, 0.5):
        caught = [planter.swallowed(seconds) for _ in trials]
        total += caught
        print(f"| swallowed | {seconds:g} s | {100 * np.mean(caught):.1f} % |", flush=True)
    print(f"| all of these | {len(total)} | {100 * np.mean(total):.1f} % |")
    if arguments.music:
        files = audio.find_audio(arguments.music)
        for mode in ("denoise", "enhance"):
            shares = [music_kept(enhancer, path, mode) for path in files]
            caught = 100 * np.mean([share >= LEAST for share in shares])
            print(
                f"| music, {mode} | {len(files)} recordings, {100 * np.mean(shares):.1f} % of the time kept "
                f"| {caught:.1f} % |"
            )


if __name__ == "__main__":
    main()
