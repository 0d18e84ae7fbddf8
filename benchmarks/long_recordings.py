"""Does memory stay flat? Denoise a 2-hour stereo mp3 and a 10-hour mono flac, each in its own process.

    python benchmarks/long_recordings.py samples work_folder [--hours 2 10] [--model DIR]

The recordings are the samples over and over. Prints each run's peak resident memory, time and RTF, and the
ratio of the peaks; the last line is JSON. About an hour of one core for the lengths above.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from demo import read

from enhance_ray import audio
from enhance_ray.settings.options import MODEL_RATE


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="folder with noisy/")
    parser.add_argument("work", type=Path, help="folder for recordings and outputs; several GB")
    parser.add_argument("--hours", type=float, nargs=2, default=(2.0, 10.0), metavar=("STEREO", "MONO"))
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", default="1", help="of the model (default: 1)")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    results = {}
    for name, hours, channels, target in (
        (
            "stereo.mp3",
            arguments.hours[0],
            2,
            audio.OutputFormat(container="mp3", codec="mp3", sample_format="f32", bit_rate=128_000),
        ),
        (
            "mono.flac",
            arguments.hours[1],
            1,
            audio.OutputFormat(container="flac", codec="flac", sample_format="s16"),
        ),
    ):
        recording = arguments.work / name
        if not recording.exists():
            write_long(recording, arguments.samples / "noisy", hours, channels, target)
        results[name] = run(recording, hours, arguments)
        print(f"{name}: {hours:g} h, {results[name]}", flush=True)
    peaks = [result["peak_mb"] for result in results.values()]
    print(f"peaks differ by {100 * (max(peaks) / min(peaks) - 1):.1f} %")
    print(json.dumps(results))
    return 0


def write_long(path: Path, samples: Path, hours: float, channels: int, target: audio.OutputFormat) -> None:
    """The samples in turn, each channel starting with another one, until ``hours`` are full."""
    sounds = [read(str(sample)) for sample in sorted(samples.iterdir())]
    left = round(hours * 3600 * MODEL_RATE)
    with audio.encode(str(path), sample_rate=MODEL_RATE, channels=channels, target=target) as encoder:
        for turn in itertools.count():
            parts = [sounds[(turn + channel) % len(sounds)] for channel in range(channels)]
            length = min(left, *(part.size for part in parts))
            encoder.write(np.stack([part[:length] for part in parts]).astype(np.float32))
            left -= length
            if left == 0:
                return


def run(recording: Path, hours: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Peak memory of one `enhance-ray denoise`, as the kernel counts it, its time and its RTF."""
    output = recording.with_name(f"out_{recording.name}")
    command = [sys.executable, "-m", "enhance_ray.cli", "denoise", str(recording), str(output), "--force"]
    command += ["--model", arguments.model, "--threads", arguments.threads]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - started
    if status:
        raise SystemExit(f"denoising {recording} failed")
    before, after = audio.probe(str(recording)), audio.probe(str(output))
    assert before.frames == after.frames, (before.frames, after.frames)
    return {
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
        "seconds": round(elapsed, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "rtf": round(elapsed / (hours * 3600), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
