"""Make the recordings of the site's page to listen, `docs/listen.md`: damaged, restored, and as they were.

    python tools/listening.py build/listen            # all kinds of damage; about a minute on one core
    python tools/listening.py build/listen clipping   # one of them

Everything is made from `samples/` with the models that ship in the package. Each kind gives three sounds
(`KIND.damaged.webm`, `KIND.restored.webm`, `KIND.clean.webm`), a picture (`KIND.webp`) and scores
(`KIND.json`).

`make docs` makes them, and they are not committed. So a visitor always hears what the packaged models of the
same commit do, and the repository does not grow by a megabyte with every new model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from enhance_ray import Enhancer, audio, metrics, report
from enhance_ray.options import MODEL_RATE
from enhance_ray.training import degrade

Waveform = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
SECONDS = 5.0
BIT_RATE = 64_000
"""Of the sounds, in bit/s: Opus keeps speech up to 20 kHz at it, and five seconds take 40 kB."""
PEAK = 0.7
"""Of the clean speech before it is damaged: noise and rooms add to it and are not to clip."""
SCORES = ("pesq_wb", "estoi", "lsd")
"""Names of `metrics.METRICS`."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of damage and what is done about it."""

    title: str
    """Heading on the page."""
    text: str
    """What was done to the speech, and what to listen for."""
    mode: Literal["denoise", "enhance"]
    make: Callable[[], tuple[Waveform, Waveform]]
    """The damaged recording and the clean one, (time,) at `MODEL_RATE`."""


def main() -> int:
    """Make what is asked for; 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the sounds and pictures go")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all)")
    parsed = parser.parse_args()
    if unknown := set(parsed.kinds) - set(KINDS):
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}")
    parsed.folder.mkdir(parents=True, exist_ok=True)
    enhancer = Enhancer.load(device="cpu")
    for name in parsed.kinds or KINDS:
        make(name, enhancer, parsed.folder)
        print(f"{name} is made")
    return 0


def make(name: str, enhancer: Enhancer, folder: Path) -> None:
    """Write the sounds and the picture of one kind into ``folder``."""
    kind = KINDS[name]
    damaged, clean = kind.make()
    restored, _ = getattr(enhancer, kind.mode)(damaged, MODEL_RATE)
    scores = {}
    for version, waveform in (("damaged", damaged), ("restored", restored), ("clean", clean)):
        write_opus(folder / f"{name}.{version}.webm", waveform)
        scores[version] = metrics.score(waveform[: clean.size], clean, MODEL_RATE, SCORES)
    report.spectrogram_pair(damaged, restored, MODEL_RATE, folder / f"{name}.webp")
    (folder / f"{name}.json").write_text(json.dumps(scores), encoding="utf-8")


def markdown(name: str, folder: Path) -> str:
    """The section of one kind on the page.

    Args:
        name: of the kind.
        folder: where `make` has written; on the site it is the folder of the page.
    """
    kind = KINDS[name]
    labels = {
        "damaged": "damaged",
        "restored": f"restored (<code>{kind.mode}</code>)",
        "clean": "the speech as it was",
    }
    players = "".join(
        f"<figure><figcaption>{label}</figcaption>"
        f'<audio controls preload="metadata" src="{name}.{version}.webm"></audio></figure>'
        for version, label in labels.items()
    )
    scores = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    changes = ", ".join(
        f"{metrics.METRICS[score].title} {scores['damaged'][score]:.2f} → {scores['restored'][score]:.2f}"
        for score in SCORES
    )
    return (
        f"## {kind.title}\n\n{kind.text}\n\n"
        f'<div class="players">{players}</div>\n\n'
        f'<div class="spectrogram" markdown>\n'
        f"![Spectrograms of {kind.title.lower()}, damaged and restored](listen/{name}.webp)\n</div>\n\n"
        f"<small>Against the speech as it was: {changes}</small>\n"
    )


def read(path: str, start: float = 0.0) -> Waveform:
    """`SECONDS` of a file of `samples/` from ``start`` on, as (time,) at `MODEL_RATE`."""
    with audio.decode(str(SAMPLES / path)) as blocks:
        rate = blocks.info.sample_rate
        waveform = np.concatenate([block.mean(axis=0) for block in blocks])
    waveform = metrics.resample(waveform, rate, MODEL_RATE)[round(start * MODEL_RATE) :]
    return waveform[: round(SECONDS * MODEL_RATE)].astype(np.float32)


def speech(path: str, start: float = 0.0) -> Waveform:
    """`read`, with a peak of `PEAK`."""
    waveform = read(path, start)
    return waveform * np.float32(PEAK / np.abs(waveform).max())


def room(number: int) -> Waveform:
    """The response of one of the simulated rooms."""
    return np.load(SAMPLES / "corpus" / "rooms" / f"rir_{number:05}.npy").astype(np.float32)


def noisy() -> tuple[Waveform, Waveform]:
    """A mixture of `samples/noisy`."""
    return read("noisy/kathleen_chainsaw.m4a", 1.0), read("clean/kathleen_chainsaw.flac", 1.0)


def voices() -> tuple[Waveform, Waveform]:
    """Three other voices behind a speaker."""
    clean = speech("clean/kathleen_helicopter.flac")
    others = ("gcompris_gd-unk_0027", "gcompris_gd-unk_0062", "rhasspy_kerstin_0039")
    babble = np.sum([speech(f"corpus/speech/{other}.opus", 2.0) for other in others], axis=0)
    return degrade.mix_at_snr(clean, babble.astype(np.float32), 6.0), clean


def reverberant() -> tuple[Waveform, Waveform]:
    """A room alone."""
    clean = speech("clean/kathleen_chainsaw.flac", 1.0)
    return degrade.add_room(clean, room(5)), clean


def far_away() -> tuple[Waveform, Waveform]:
    """A room, and rain."""
    clean = speech("clean/gaelic_playground.flac", 2.0)
    rain = np.resize(read("corpus/noise/esc10_rain_4-180380-A_00.opus"), clean.size)
    mixture = degrade.mix_at_snr(degrade.add_room(clean, room(4)), rain, 8.0)
    return mixture * np.float32(PEAK / np.abs(mixture).max()), clean


def clipped() -> tuple[Waveform, Waveform]:
    """Cut off 14 dB below the peak."""
    clean = speech("clean/kathleen_helicopter.flac")
    return degrade.clip(clean, threshold_db=-14, soft=False), clean


def narrow() -> tuple[Waveform, Waveform]:
    """A telephone."""
    clean = speech("clean/gaelic_playground.flac", 2.0)
    return degrade.limit_bandwidth(clean, MODEL_RATE, 8000), clean


def coded() -> tuple[Waveform, Waveform]:
    """MP3 at 16 kbit/s."""
    clean = speech("clean/gaelic_playground.flac", 2.0)
    return degrade.transcode(clean, MODEL_RATE, codec="mp3", bit_rate=16_000), clean


def gappy() -> tuple[Waveform, Waveform]:
    """A tenth of all packets lost."""
    clean = speech("clean/kathleen_chainsaw.flac", 1.0)
    loss = degrade.PacketLoss(loss=(0.1, 0.1), burst=(2.0, 2.0))
    return loss(clean, MODEL_RATE, np.random.default_rng(0)), clean


KINDS = {
    "noise": Kind(
        title="Noise",
        text="A chainsaw, 6 dB below the speech, as a phone stored it (AAC at 128 kbit/s).",
        mode="denoise",
        make=noisy,
    ),
    "voices": Kind(
        title="Voices in the background",
        text="Three other people talk, together 6 dB below the speaker. The model keeps the voice in front, "
        "and traces of the others.",
        mode="denoise",
        make=voices,
    ),
    "room": Kind(
        title="A room",
        text="A simulated room of 7 by 8 metres with a reverberation time of 0.7 s. The microphone is more "
        "than two metres away from the speaker.",
        mode="enhance",
        make=reverberant,
    ),
    "room_and_noise": Kind(
        title="A room, and noise",
        text="A simulated room of 5 by 5 metres with a reverberation time of 0.3 s, and rain that is 8 dB "
        "below the speech.",
        mode="enhance",
        make=far_away,
    ),
    "clipping": Kind(
        title="Clipping",
        text="The recording level was too high, so everything beyond a fifth of the largest value is cut "
        "off. The missing peaks are computed anew.",
        mode="enhance",
        make=clipped,
    ),
    "narrow_band": Kind(
        title="A narrow band",
        text="Nothing above 4 kHz is left, as on a telephone. What you hear above that afterwards is "
        "invented: it fits the voice, and it is not what the speaker said.",
        mode="enhance",
        make=narrow,
    ),
    "codec": Kind(
        title="A codec at a low rate",
        text="MP3 at 16 kbit/s, which keeps little above 5 kHz. The band above is filled again. The warbling "
        "of the codec below it stays nearly as it is.",
        mode="enhance",
        make=coded,
    ),
    "packets": Kind(
        title="Lost packets",
        text="A tenth of all packets of 20 ms was lost on the way, in bursts. The gaps are filled with what "
        "continues the sound on either side. A word that is gone as a whole stays so.",
        mode="enhance",
        make=gappy,
    ),
}


def write_opus(path: Path, waveform: Waveform) -> None:
    """Write a waveform (time,) at `MODEL_RATE` as Opus at `BIT_RATE`.

    In WebM, which more browsers play than Ogg, and whose header says how long the sound is.
    """
    rate = 48_000
    samples = metrics.resample(waveform.astype(np.float32), MODEL_RATE, rate).clip(-1, 1)
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        for piece in av.AudioResampler(format="flt", layout="mono", rate=rate, frame_size=960).resample(
            frame
        ):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    sys.exit(main())
