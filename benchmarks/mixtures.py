"""The mixtures that restorers are compared on: held-out speakers, noises and rooms, the same for everyone.

    python benchmarks/mixtures.py --data DIR                   # what is mixed from what, as JSON lines
    python benchmarks/mixtures.py --data DIR --write pairs     # and pairs/: noisy/, clean/, table.csv

What is written is what `enhance-ray evaluate --clean --noisy --table` takes.

DIR holds `fg.csv` (file, speaker, seconds, split), `bg.csv` (file, split), the files they name, and
`rir/*.npy` (room responses at 44.1 kHz).

The recipe, at 44.1 kHz:

- conditions: in turn. `additive` is noise alone; `reverberant` is a room, too, by a response that `held_out`
  keeps from training; in `babble` the noise is 3 to 8 other voices; in `impacts` it is a recording whose name
  says keys, doors, steps, impacts; `band-limited` keeps half of a sample rate of 6 to 16 kHz; `codec` is MP3,
  AAC or Opus at a low bit rate; `clipped` is cut off 6 to 18 dB below its peak; `packet-loss` lacks 5 to 20 %
  of its frames of 20 ms, in bursts, silent or repeated; `noiseless` is speech that needs nothing, and
  `noiseless-8khz` the same without what lies above 8 kHz;
- speech: the speakers of split `valid` in turn; clips of one speaker, joined and cut to 4 to 10 s;
- noise: a recording of split `valid`, cut, or looped with a cross-fade;
- SNR: uniform from -5 to 15 dB, from 0 to 10 dB of babble, and from 10 to 30 dB where the damage is another
  than noise; the power of the speech where it is active (after the room, if there is one) to the power of all
  of the noise, of impacts where they are active;
- level: active speech at -35 to -15 dBFS, both turned down together where the mixture would pass 0.99;
- reference: the speech as it arrives at the microphone, room included: a denoiser is asked to remove the
  noise, not the room. `--reference dry` asks for both.

Mixture i depends on the seed, i and the corpus alone: fewer mixtures are a prefix of more.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from enhance_ray import metrics
from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.training.degrade import CodecName, PacketLoss, transcode
from enhance_ray.training.splits import held_out

RATE = 44_100
CONDITIONS = (
    "additive",
    "reverberant",
    "babble",
    "impacts",
    "band-limited",
    "codec",
    "clipped",
    "packet-loss",
    "noiseless",
    "noiseless-8khz",
)
COUNT = 24 * len(CONDITIONS)
SECONDS = (4.0, 10.0)
SNR_DB = (-5.0, 15.0)
MILD_SNR_DB = (10.0, 30.0)
"""Where the damage is not the noise."""
BABBLE_SNR_DB = (0.0, 10.0)
BABBLE_VOICES = (3, 8)
IMPULSIVE = ("keyboard", "synth_keys", "impact-", "smash-", "door-", "steps-", "tool-axe", "tool-pickaxe")
"""Words in the names of noise files that make impacts."""
IMPACT_SECONDS = 1.0
"""An impact that is shorter is repeated after so long."""
PACKET_LOSS = PacketLoss(loss=(0.05, 0.2), burst=(1.0, 4.0))
TRAINED_SPEAKERS = ("hu-somlai",)
"""Speakers of split `valid` who may be the same person as one of split `train`: they are trained on."""
NARROW_RATES = (6000, 8000, 11_025, 16_000)
"""Hz; half of it is left of the band."""
CODECS: tuple[tuple[CodecName, int], ...] = (
    ("mp3", 16_000),
    ("mp3", 32_000),
    ("aac", 24_000),
    ("opus", 12_000),
)
"""With bit/s."""
CLIP_DB = (-18.0, -6.0)
"""Where clipping sets in, from the peak."""
LEVEL_DBFS = (-35.0, -15.0)
PEAK = 0.99
JOIN_SECONDS = 0.01
"""Fade at the ends of a clip, so that joined clips do not click."""
LOOP_SECONDS = 0.1
"""Cross-fade of a noise with itself, or a quarter of it where it is shorter than four of these."""
ACTIVE_RANGE_DB = 30.0
"""Speech is active where a frame of 20 ms is within this of the loudest."""

Reference = Literal["reverberant", "dry"]
Waveform = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every choice behind one mixture."""

    name: str
    speaker: str
    speech: tuple[str, ...]
    """Files, joined in this order."""
    noise: tuple[str, ...]
    """One file; those of the voices of babble; or none."""
    rir: str | None
    seconds: float
    speech_offset: float
    """Where the cut begins, as a share of where it could, in [0, 1)."""
    noise_offset: float
    snr_db: float | None
    """None where there is no noise."""
    level_dbfs: float
    condition: str
    damage: float
    """Which rate, codec or level of clipping, in [0, 1)."""

    @property
    def narrow_rate(self) -> int:
        """Hz; of a mixture that is band-limited."""
        if self.condition == "noiseless-8khz":
            return 16_000
        return NARROW_RATES[int(self.damage * len(NARROW_RATES))]

    @property
    def codec(self) -> tuple[CodecName, int]:
        """Of a mixture that was coded."""
        return CODECS[int(self.damage * len(CODECS))]

    def damaged(self, noisy: Waveform) -> Waveform:
        """What the condition does to the mixture, besides noise and room."""
        if self.condition == "band-limited":
            return _narrowed(noisy, self.narrow_rate)
        if self.condition == "packet-loss":
            rng = np.random.default_rng(int(self.damage * 2**32))
            return PACKET_LOSS(noisy.astype(np.float32), RATE, rng).astype(np.float64)
        if self.condition == "codec":
            codec, bit_rate = self.codec
            return transcode(noisy.astype(np.float32), RATE, codec=codec, bit_rate=bit_rate).astype(
                np.float64
            )
        if self.condition == "clipped":
            low, high = CLIP_DB
            limit = np.abs(noisy).max() * 10 ** ((low + self.damage * (high - low)) / 20)
            return noisy.clip(-limit, limit)
        return noisy


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Two waveforms (time,) at 44.1 kHz."""

    noisy: Waveform
    clean: Waveform


class Corpus:
    """The validation part of the folder ``data``.

    Raises:
        ConfigError: a list is absent or has nothing to validate with; names it.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clips: dict[str, list[tuple[str, float]]] = {}
        """(file, seconds) by speaker."""
        for row in _valid_rows(data / "fg.csv"):
            if row["speaker"] in TRAINED_SPEAKERS:
                continue
            self.clips.setdefault(row["speaker"], []).append((row["file"], float(row["seconds"])))
        self.noises = [row["file"] for row in _valid_rows(data / "bg.csv")]
        self.impacts = [file for file in self.noises if any(word in file for word in IMPULSIVE)]
        self.rirs = sorted(f"rir/{path.name}" for path in (data / "rir").glob("*.npy") if held_out(path.name))
        rooms = data / "rir/rir.json"
        self.t60: dict[str, float] = (
            {room["file"]: room["t60"] for room in json.loads(rooms.read_text())} if rooms.exists() else {}
        )
        """In s, by the name of a response."""
        if not self.rirs:
            raise ConfigError(str(data / "rir"), "holds no *.npy that `held_out` keeps for validation")

    def plans(
        self, count: int = COUNT, seed: int = 0, conditions: tuple[str, ...] = CONDITIONS
    ) -> list[Plan]:
        """The first ``count`` mixtures of ``seed``, whose ``conditions`` take turns.

        Raises:
            ConfigError: a condition needs recordings that the corpus does not have.
        """
        if "impacts" in conditions and not self.impacts:
            raise ConfigError(
                str(self.data / "bg.csv"),
                f"'impacts' needs names with {', '.join(IMPULSIVE)}: leave it out of --conditions",
            )
        if "babble" in conditions and len(self.clips) < 2:
            raise ConfigError(
                str(self.data / "fg.csv"),
                "'babble' needs a second speaker: leave it out of --conditions",
            )
        return [self._plan(index, np.random.default_rng([seed, index]), conditions) for index in range(count)]

    def render(self, plan: Plan, reference: Reference = "reverberant") -> Mixture:
        """The sound of ``plan``.

        Raises:
            AudioReadError: the speech or the noise is silent, so that they have no ratio.
        """
        samples = round(plan.seconds * RATE)
        dry = _cut(self._joined(plan.speech), samples, plan.speech_offset)
        if plan.condition == "noiseless-8khz":
            dry = _narrowed(dry, plan.narrow_rate)
        speech = dry if plan.rir is None else _in_room(dry, np.load(self.data / plan.rir).astype(np.float64))
        speech_power = active_power(speech)
        if speech_power == 0:
            raise AudioReadError(self.data / plan.speech[0], "it is silent where it was cut")
        gain = 10 ** (plan.level_dbfs / 20) / np.sqrt(speech_power)
        noisy = gain * speech
        if plan.snr_db is not None:
            noise = self._noise(plan, samples)
            power = active_power(noise) if plan.condition == "impacts" else np.square(noise).mean()
            noisy = noisy + gain * np.sqrt(speech_power / power) * 10 ** (-plan.snr_db / 20) * noise
        noisy = plan.damaged(noisy)
        down = min(1.0, PEAK / np.abs(noisy).max())
        return Mixture(noisy=down * noisy, clean=down * gain * (dry if reference == "dry" else speech))

    def facts(self, plan: Plan) -> dict[str, str | float]:
        """What a report groups and draws ``plan`` by; rooms have a T60 in s where `rir/rir.json` says it."""
        facts: dict[str, str | float] = {"condition": plan.condition}
        if plan.snr_db is not None:
            facts["snr_db"] = round(plan.snr_db, 2)
        if plan.rir is not None and (t60 := self.t60.get(Path(plan.rir).name)) is not None:
            facts["t60"] = t60
        if plan.condition in ("band-limited", "noiseless-8khz"):
            facts["bandwidth_hz"] = plan.narrow_rate / 2
        return facts

    def write(self, plans: list[Plan], folder: Path, reference: Reference = "reverberant") -> None:
        """Pairs as 24-bit FLAC below ``folder``, noisy and clean, and ``table.csv`` with their facts."""
        rows: list[dict[str, str | float]] = []
        for plan in plans:
            mixture = self.render(plan, reference)
            for side, waveform in (("noisy", mixture.noisy), ("clean", mixture.clean)):
                (folder / side).mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / side / f"{plan.name}.flac", waveform, RATE, subtype="PCM_24")
            rows.append({"file": f"{plan.name}.flac", **self.facts(plan)})
        with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["file", "condition", "snr_db", "t60", "bandwidth_hz"])
            table.writeheader()
            table.writerows(rows)

    def _plan(self, index: int, rng: np.random.Generator, conditions: tuple[str, ...]) -> Plan:
        speaker = sorted(self.clips)[index // len(conditions) % len(self.clips)]
        condition = conditions[index % len(conditions)]
        seconds = rng.uniform(*SECONDS)
        files: list[str] = []
        joined = 0.0
        for clip in rng.permutation(len(self.clips[speaker])):
            file, clip_seconds = self.clips[speaker][clip]
            files.append(file)
            joined += clip_seconds
            if joined >= seconds:
                break
        return Plan(
            name=f"{index:04d}",
            speaker=speaker,
            speech=tuple(files),
            noise=self._draw_noise(condition, speaker, rng),
            rir=self.rirs[rng.integers(len(self.rirs))] if condition == "reverberant" else None,
            seconds=min(seconds, joined),
            speech_offset=rng.uniform(),
            noise_offset=rng.uniform(),
            snr_db=_draw_snr(condition, rng),
            level_dbfs=rng.uniform(*LEVEL_DBFS),
            condition=condition,
            damage=rng.uniform(),
        )

    def _draw_noise(self, condition: str, speaker: str, rng: np.random.Generator) -> tuple[str, ...]:
        if condition == "babble":
            others = sorted(set(self.clips) - {speaker})
            voices = rng.integers(*BABBLE_VOICES, endpoint=True)
            clips = (self.clips[others[rng.integers(len(others))]] for _ in range(voices))
            return tuple(own[rng.integers(len(own))][0] for own in clips)
        if condition.startswith("noiseless"):
            return ()
        files = self.impacts if condition == "impacts" else self.noises
        return (files[rng.integers(len(files))],)

    def _noise(self, plan: Plan, samples: int) -> Waveform:
        """What ``plan`` adds, at a level of its own; voices of babble are equally loud."""
        total: Waveform = np.zeros(samples)
        for file in plan.noise:
            recording = self._read(file)
            if plan.condition == "impacts":
                recording = np.pad(recording, (0, max(0, round(IMPACT_SECONDS * RATE) - recording.size)))
            noise = _cut(_looped(recording, samples), samples, plan.noise_offset)
            if not noise.any():
                raise AudioReadError(self.data / file, "it is silent where it was cut")
            total += noise / np.sqrt(active_power(noise))
        return total

    def _read(self, file: str) -> Waveform:
        waveform, rate = soundfile.read(self.data / file, always_2d=True)
        return metrics.resample(waveform.mean(axis=1), rate, RATE).astype(np.float64, copy=False)

    def _joined(self, files: tuple[str, ...]) -> Waveform:
        clips = [self._read(file) for file in files]
        for clip in clips:
            fade = np.linspace(0, 1, min(round(JOIN_SECONDS * RATE), clip.size // 2))
            clip[: fade.size] *= fade
            clip[clip.size - fade.size :] *= fade[::-1]
        return np.concatenate(clips)


def _draw_snr(condition: str, rng: np.random.Generator) -> float | None:
    ranges = {"additive": SNR_DB, "reverberant": SNR_DB, "impacts": SNR_DB, "babble": BABBLE_SNR_DB}
    drawn = rng.uniform(*ranges.get(condition, MILD_SNR_DB))
    return None if condition.startswith("noiseless") else drawn


def _narrowed(waveform: Waveform, rate: int) -> Waveform:
    """What a recording at ``rate`` Hz holds of ``waveform``."""
    narrow = metrics.resample(waveform, RATE, rate)
    heard: Waveform = np.zeros_like(waveform)
    wide = metrics.resample(narrow, rate, RATE)[: waveform.size]
    heard[: wide.size] = wide
    return heard


def active_power(speech: Waveform) -> float:
    """Mean power over the frames of 20 ms within `ACTIVE_RANGE_DB` of the loudest."""
    frame = RATE // 50
    power = np.square(speech[: speech.size // frame * frame]).reshape(-1, frame).mean(axis=1)
    return float(power[power >= power.max() * 10 ** (-ACTIVE_RANGE_DB / 10)].mean())


def _valid_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "valid"]
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror or error}") from error
    if not rows:
        raise ConfigError(str(path), "has no row whose split is 'valid'")
    return rows


def _cut(waveform: Waveform, samples: int, offset: float) -> Waveform:
    """``samples`` from ``offset`` of the possible starts; zeros follow where ``waveform`` is too short."""
    start = int(offset * max(0, waveform.size - samples))
    piece = waveform[start : start + samples]
    return np.pad(piece, (0, samples - piece.size))


def _looped(noise: Waveform, samples: int) -> Waveform:
    """``noise``, or its repetition beyond ``samples`` where it is shorter, cross-faded at constant power."""
    if noise.size >= samples:
        return noise
    fade = min(round(LOOP_SECONDS * RATE), noise.size // 4)
    rise = np.sin(np.linspace(0, np.pi / 2, fade))
    period = noise[: noise.size - fade].copy()
    period[:fade] = rise * period[:fade] + rise[::-1] * noise[noise.size - fade :]
    return np.tile(period, 1 + -(-samples // period.size))


def _in_room(speech: Waveform, rir: Waveform) -> Waveform:
    """``speech`` convolved with ``rir``; the direct path (its largest sample) stays in place: no shift."""
    direct = int(np.abs(rir).argmax())
    heard: Waveform = fftconvolve(speech, rir)[direct : direct + speech.size]
    return heard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose the mixtures."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="corpus with fg.csv, bg.csv, rir/"
    )
    parser.add_argument(
        "--count", type=int, default=COUNT, metavar="N", help="mixtures (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other mixtures (default: %(default)s)"
    )
    parser.add_argument(
        "--conditions",
        nargs="+",
        choices=CONDITIONS,
        default=CONDITIONS,
        metavar="NAME",
        help=f"which take turns (default: {' '.join(CONDITIONS)})",
    )
    parser.add_argument(
        "--reference",
        choices=("reverberant", "dry"),
        default="reverberant",
        help="what a reverberant mixture is compared with (default: %(default)s)",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="writes DIR/noisy and DIR/clean as 24-bit flac, DIR/table.csv",
    )
    arguments = parser.parse_args()
    corpus = Corpus(arguments.data)
    plans = corpus.plans(arguments.count, arguments.seed, tuple(arguments.conditions))
    for plan in plans:
        print(json.dumps(dataclasses.asdict(plan)))
    if arguments.write:
        corpus.write(plans, arguments.write, arguments.reference)


if __name__ == "__main__":
    main()
