"""Are the borders of segments heard? Enhance 95 s cut in two ways, and compare levels around every border.

    python benchmarks/seams.py model_folder [--seconds 95] [--precision bf16] [--picture seams.png]

A stationary noise and real speech (the samples) are enhanced in segments of 30 s and again in segments of
37 s. What a border of the one does, the other does not: the step of their difference in level across a border
(means of half a second on both sides of the cross-fade) is the border's own. Also printed: the steepest step
between two samples within each cross-fade over that of the other cut there, which a click would raise, and
the lengths. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from enhance_ray.engine.framing import Framing
from enhance_ray.enhancer import Enhancer
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

ROOT = Path(__file__).parents[1]
CUTS = (30.0, 37.0)
WINDOW = MODEL_RATE // 10


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model folder of an enhancer")
    parser.add_argument("--seconds", type=float, default=95.0, help="(default: 95)")
    parser.add_argument("--nfe", type=int, default=2, help="(default: 2)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--picture", type=Path, help="levels of both cuts, as a PNG")
    arguments = parser.parse_args()
    engine = Enhancer.load(arguments.model, device="cpu", precision=arguments.precision)
    results: dict[str, Any] = {}
    levels = {}
    for name, waveform in signals(arguments.seconds).items():
        outputs = [
            engine.enhance(waveform, MODEL_RATE, EnhanceOptions(nfe=arguments.nfe, segment_seconds=cut))[0]
            for cut in CUTS
        ]
        assert all(output.shape == waveform.shape for output in outputs), "a sample is missing or repeated"
        levels[name] = [level(output) for output in outputs]
        results[name] = [
            measure(outputs, levels[name], which, border)
            for which, cut in enumerate(CUTS)
            for border in borders(cut, engine.framing, waveform.size)
        ]
        for row in results[name]:
            print(name, row, flush=True)
    if arguments.picture:
        draw(levels, arguments.picture)
    print(json.dumps(results))
    return 0


def measure(
    outputs: list[np.ndarray], levels: list[np.ndarray], which: int, border: float
) -> dict[str, float]:
    """Step of level and of samples at ``border`` (s) of cut number ``which``, against the other cut."""
    difference = levels[which] - levels[1 - which]
    middle = round(10 * border)
    step = difference[middle + 5 : middle + 10].mean() - difference[middle - 10 : middle - 5].mean()
    fade = slice(round((border - 0.5) * MODEL_RATE), round((border + 0.5) * MODEL_RATE))
    own, other = (np.abs(np.diff(outputs[i][fade])).max() for i in (which, 1 - which))
    return {
        "cut_seconds": CUTS[which],
        "border_seconds": round(border, 2),
        "level_step_db": round(float(step), 3),
        "steepest_over_other": round(float(own / other), 3),
    }


def borders(cut: float, framing: Framing, samples: int) -> list[float]:
    """Middles of the cross-fades, in seconds: near the end of every segment but the last."""
    layout = framing.layout(EnhanceOptions(segment_seconds=cut))
    ends = range(layout.length, samples, layout.hop)
    return [(end - layout.context - layout.overlap / 2) / MODEL_RATE for end in ends]


def signals(seconds: float) -> dict[str, np.ndarray]:
    samples = round(seconds * MODEL_RATE)
    rng = np.random.default_rng(0)
    clean = sorted((ROOT / "samples/clean").glob("*.flac"))
    speech = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in clean])
    return {
        "stationary noise": (0.1 * rng.standard_normal(samples)).astype(np.float32),
        "speech": np.resize(speech, samples) + (0.01 * rng.standard_normal(samples)).astype(np.float32),
    }


def level(waveform: np.ndarray) -> np.ndarray:
    """RMS of windows of 100 ms, in dB."""
    windows = waveform[: waveform.size // WINDOW * WINDOW].reshape(-1, WINDOW)
    return 10 * np.log10(np.square(windows).mean(-1) + 1e-10)


def draw(levels: dict[str, list[np.ndarray]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(levels), figsize=(10, 5), sharex=True, constrained_layout=True)
    for axis, (name, pair) in zip(axes, levels.items(), strict=True):
        for cut, values in zip(CUTS, pair, strict=True):
            axis.plot(np.arange(values.size) / 10, values, label=f"segments of {cut:g} s", linewidth=0.8)
        axis.set(title=name, ylabel="level, dB")
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("s")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
