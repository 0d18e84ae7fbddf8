"""Is the loudness that is asked for reached, with true peaks below the limit? By ffmpeg's meter (ebur128).

    python benchmarks/loudness.py samples work_folder [--count 50] [--bulk] [--url http://127.0.0.1:8000]

Recordings with high peaks are cut from the samples: speech at full scale, with knocks and clicks that are
louder, mono and stereo. Each is denoised to -16 and to -23 LUFS from Python, by the command line's engine,
with --bulk by a bulk job, and with --url by an endpoint. (Its jobs go from one object storage to another:
tests have their bytes equal to those of a request.) Prints a table; the last line is JSON. The exit status is
1 where a target was missed without a word, or a peak is too high. A minute of one core for 50 and a surface.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from demo import read

from enhance_ray import EnhanceOptions, Enhancer
from enhance_ray.files import Job, enhance_files

TARGETS = (-16.0, -23.0)
TOLERANCE = 0.5
"""LU."""
HIGHEST = -0.9
"""dBTP: the limit is -1, and meters estimate the curve between the samples."""
RATE = 44_100
FORMATS = ("wav", "flac")


@dataclass(frozen=True, slots=True)
class Result:
    """What the other meter found."""

    surface: str
    target: float
    loudness: float
    true_peak: float
    warning: str | None

    @property
    def is_reached(self) -> bool:
        """Whether the loudness is what was asked for."""
        return abs(self.loudness - self.target) <= TOLERANCE

    @property
    def is_wrong(self) -> bool:
        """Whether the user was promised something else."""
        return self.true_peak > HIGHEST or not (self.is_reached or self.warning)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="folder with noisy/")
    parser.add_argument("work", type=Path, help="folder for recordings and outputs")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--bulk", action="store_true", help="ask a bulk job, too")
    parser.add_argument("--url", help="of an endpoint that is asked, too")
    arguments = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        print("skipped: ffmpeg, whose meter is asked, is not there")
        return 0
    recordings = list(write_recordings(arguments.samples, arguments.work, arguments.count))
    enhancer = Enhancer.load(denoiser_only=True)
    results = []
    for target in TARGETS:
        results += from_python(recordings, arguments.work, enhancer, target)
        results += by_files(recordings, arguments.work, enhancer, target)
        if arguments.bulk:
            results += by_bulk(recordings, arguments.work, target)
        if arguments.url:
            results += by_http(recordings, arguments.work, arguments.url, target)
    print_table(results)
    return 1 if any(result.is_wrong for result in results) else 0


def write_recordings(samples: Path, work: Path, count: int) -> Iterator[Path]:
    """Pieces of 5 to 10 s at full scale; of three, one as it is, one with knocks and one with clicks."""
    work.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    sources = [read(str(path)) for path in sorted((samples / "noisy").iterdir())]
    for number in range(count):
        source = sources[number % len(sources)]
        length = min(round(random.uniform(5, 10) * RATE), len(source))
        start = random.integers(0, len(source) - length + 1)
        piece = np.array(source[start : start + length], np.float32)
        piece *= random.uniform(0.1, 0.9) / np.abs(piece).max()
        for _ in range(random.integers(2, 9) if number % 3 else 0):
            at = random.integers(0, length - 4_000)
            if number % 3 == 1:  # a knock of 50 ms that rings
                time = np.arange(4_000) / RATE
                piece[at : at + 4_000] += np.exp(-60 * time) * np.sin(2 * np.pi * 180 * time)
            else:
                piece[at : at + 3] += random.choice([-1, 1])
        piece *= 0.98 / np.abs(piece).max()
        sound = np.stack([piece, random.uniform(0.3, 1) * piece]) if number % 2 else piece[None]
        path = work / f"{number:03d}.wav"
        soundfile.write(path, sound.T, RATE, subtype="PCM_24")
        yield path


def options(target: float, number: int) -> EnhanceOptions:
    return EnhanceOptions(loudness=target, format=FORMATS[number % len(FORMATS)])


def from_python(recordings: list[Path], work: Path, enhancer: Enhancer, target: float) -> Iterator[Result]:
    for number, path in enumerate(recordings):
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        out = work / "python.wav"
        with heard() as warnings:
            restored = enhancer.denoise(waveform.T, rate, options(target, number))
        soundfile.write(out, np.asarray(restored[0]).T, restored[1], subtype="PCM_24")
        yield measured("python", target, out, "; ".join(warnings) or None)


def by_files(recordings: list[Path], work: Path, enhancer: Enhancer, target: float) -> Iterator[Result]:
    for number, path in enumerate(recordings):
        asked = options(target, number)
        out = work / f"files.{asked.format}"
        [record] = enhance_files([Job(str(path), str(out))], enhancer, asked, force=True)
        if record.status != "done":
            raise SystemExit(f"{path}: {record.reason}")
        yield measured("files", target, out, record.warning)


def by_http(recordings: list[Path], work: Path, url: str, target: float) -> Iterator[Result]:
    from enhance_ray.client import Client  # which needs httpx

    client = Client(url)
    for number, path in enumerate(recordings):
        asked = options(target, number)
        out = work / f"http.{asked.format}"
        with heard() as warnings:
            client.denoise(path, out, loudness=target, format=asked.format)
        yield measured("http", target, out, "; ".join(warnings) or None)


def by_bulk(recordings: list[Path], work: Path, target: float) -> Iterator[Result]:
    import pyarrow.dataset
    import ray

    from enhance_ray.cluster.bulk import BulkConfig, run

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    manifest = work / "recordings.csv"
    manifest.write_text("uri\n" + "".join(f"{path.resolve()}\n" for path in recordings))
    options = EnhanceOptions(loudness=target, format="flac")
    settings = BulkConfig(input=str(manifest), output=str(work / "bulk"), options=options)
    outcome = run(settings, new_job=True)
    records = pyarrow.dataset.dataset(f"{outcome.place}/records", format="parquet").to_table().to_pylist()
    for record in records:
        if record["status"] != "done":
            raise SystemExit(f"{record['uri']}: {record['reason']}")
        yield measured("bulk", target, Path(record["output"].removeprefix("file://")), record["warning"])


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What the package logs meanwhile."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("enhance_ray")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def measured(surface: str, target: float, path: Path, warning: str | None) -> Result:
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(path), "-af", "ebur128=peak=true"]
    done = subprocess.run([*command, "-f", "null", "-"], check=True, capture_output=True, text=True)
    summary = done.stderr[done.stderr.rindex("Summary:") :]
    loudness = re.findall(r"I:\s+(\S+) LUFS", summary)[0]
    peak = re.findall(r"Peak:\s+(\S+) dBFS", summary)[0]
    return Result(surface, target, float(loudness), float(peak), warning)


def print_table(results: list[Result]) -> None:
    print("| surface | LUFS | recordings | within 0.5 LU | furthest, LU | highest, dBTP | missed and said |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for surface in dict.fromkeys(result.surface for result in results):
        for target in TARGETS:
            of_row = [r for r in results if (r.surface, r.target) == (surface, target)]
            row = {
                "surface": surface,
                "target": target,
                "recordings": len(of_row),
                "reached": sum(r.is_reached for r in of_row),
                "furthest": round(max(abs(r.loudness - target) for r in of_row), 2),
                "highest": max(r.true_peak for r in of_row),
                "said": sum(not r.is_reached and bool(r.warning) for r in of_row),
            }
            rows.append(row)
            print("| " + " | ".join(map(str, row.values())) + " |")
    print(json.dumps(rows))


if __name__ == "__main__":
    sys.exit(main())
