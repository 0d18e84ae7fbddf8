"""Do videos keep their picture bit for bit, and their sound in its place?

    python benchmarks/videos.py samples work_folder

Ten videos of containers and codecs that people have, whose sound begins up to 0.7 s after the picture, are
denoised by the packaged model with `--format keep`. Of each: whether the packets of the picture have the
hashes that they had, and by how much the sound moved against it, by the peak of its cross-correlation with
the sound that was there. Prints a table; the exit status is 1 where a picture changed or a sound moved by
more than 1 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import scipy
from demo import read

from enhance_ray import EnhanceOptions, Enhancer
from enhance_ray.files import Job, enhance_files

RATE = 44_100
MOST_SECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class Film:
    """What a video is made of."""

    name: str
    container: str
    video: str
    audio: str
    start: float
    """Seconds from the first picture to the first sample."""


FILMS = (
    Film("phone.mp4", "mp4", "libx264", "aac", 0.0),
    Film("late.mp4", "mp4", "libx264", "aac", 0.35),
    Film("old.mp4", "mp4", "mpeg4", "mp3", 0.0),
    Film("camera.mov", "mov", "mjpeg", "pcm_s16le", 0.0),
    Film("edit.mov", "mov", "libx264", "alac", 0.2),
    Film("screen.mkv", "matroska", "libx264", "flac", 0.0),
    Film("talk.mkv", "matroska", "libx264", "libopus", 0.7),
    Film("archive.mkv", "matroska", "ffv1", "pcm_s24le", 0.1),
    Film("web.webm", "webm", "libvpx", "libopus", 0.0),
    Film("call.webm", "webm", "libvpx-vp9", "libopus", 0.5),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="folder with noisy/")
    parser.add_argument("work", type=Path, help="folder for videos and outputs")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    sources = [read(str(path))[: 8 * RATE] for path in sorted((arguments.samples / "noisy").iterdir())]
    enhancer = Enhancer.load(denoiser_only=True)
    wrong = 0
    print("| video | picture | sound | begins at, s | packets | equal | sound moved by, ms |")
    print("|---|---|---|---:|---:|---|---:|")
    for number, film in enumerate(FILMS):
        source, target = arguments.work / film.name, arguments.work / f"out_{film.name}"
        write(film, source, np.asarray(sources[number % len(sources)], np.float32))
        [record] = enhance_files([Job(str(source), str(target))], enhancer, EnhanceOptions(), force=True)
        if record.status != "done":
            raise SystemExit(f"{source}: {record.reason}")
        before, after = list(packets(source)), list(packets(target))
        moved = 1000 * (lag(source, target))
        wrong += before != after or abs(moved) > 1000 * MOST_SECONDS
        print(
            f"| {film.name} | {film.video} | {film.audio} | {film.start} | {len(before)} | "
            f"{'yes' if before == after else 'NO'} | {moved:.2f} |"
        )
    return 1 if wrong else 0


def write(film: Film, path: Path, samples: np.ndarray) -> None:
    with av.open(str(path), "w", format=film.container) as container:
        video: Any = container.add_stream(film.video, rate=25, width=64, height=48)
        video.pix_fmt = "yuvj420p" if film.video == "mjpeg" else "yuv420p"
        rate = 48_000 if film.audio == "libopus" else RATE
        audio: Any = container.add_stream(film.audio, rate=rate, layout="mono")
        packets = []
        for number in range(round(25 * (film.start + samples.size / RATE))):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 250, np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        resampler = av.AudioResampler(audio.codec_context.format.name, "mono", rate, audio.frame_size or 1024)
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), 0
        for part in [*resampler.resample(sound), *resampler.resample(None)]:
            part.pts = (part.pts or 0) + round(film.start / part.time_base)
            packets += audio.encode(part)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)


def packets(path: Path) -> Iterator[str]:
    """A hash of each packet of the picture."""
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                yield hashlib.sha256(bytes(packet)).hexdigest()


def on_clock(path: Path) -> tuple[np.ndarray, float]:
    """The sound at `RATE`, and when it begins after the first picture, as a player has it."""
    with av.open(str(path)) as container:
        shown = min(
            float(packet.pts * packet.time_base)
            for packet in container.demux(container.streams.video[0])
            if packet.size
        )
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as container:
        parts, start = [], None
        for frame in container.decode(container.streams.audio[0]):
            start = frame.time if start is None else start
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    return np.concatenate(parts), (start or 0.0) - shown


def lag(source: Path, target: Path) -> float:
    """Seconds by which the sound of ``target`` comes later than that of ``source``."""
    (before, began), (after, begins) = on_clock(source), on_clock(target)
    alike = scipy.signal.correlate(after, before, "full", method="fft")
    return (int(np.argmax(alike)) - (before.size - 1)) / RATE + begins - began


if __name__ == "__main__":
    sys.exit(main())
