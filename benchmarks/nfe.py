"""What evaluations of the velocity field buy: scores and time by NFE and prior temperature.

    python benchmarks/nfe.py --data DIR [--model MODEL] [--count N] [--picture nfe.png]
    python benchmarks/nfe.py --data DIR --distance [--model MODEL ...] [--count N]

For held-out speech, band-limited, and noisy and band-limited (`enhance_ray.evaluation`), on all cores. With
--distance, instead: how far the output at few evaluations is from that at 64, by solver and quality, of the
first model and of others that were distilled from it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from enhance_ray import evaluation, metrics
from enhance_ray.enhancer import Enhancer
from enhance_ray.evaluation import EvaluateConfig
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE, QUALITIES, EnhanceOptions
from enhance_ray.training.examples import load_banks

SETTINGS = Path(__file__).parents[1] / "configs" / "evaluate.yaml"
CONDITIONS: tuple[evaluation.Condition, ...] = ("narrow", "narrow_noisy")
SCORES = {
    "LSD": lambda x, y: metrics.lsd(x, y, MODEL_RATE),
    "LSD above 4 kHz": lambda x, y: metrics.lsd(x, y, MODEL_RATE, band=(4000.0, MODEL_RATE / 2)),
    "ESTOI": lambda x, y: metrics.estoi(x, y, MODEL_RATE),
    "PESQ-WB": lambda x, y: metrics.pesq_wb(x, y, MODEL_RATE),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of the corpus")
    parser.add_argument("--model", nargs="+", default=["default"])
    parser.add_argument("--distance", action="store_true", help="to what 64 evaluations give")
    parser.add_argument("--count", type=int, default=12, help="examples of each condition (default: 12)")
    parser.add_argument("--nfe", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    settings = trees.load(EvaluateConfig, SETTINGS, [f"corpus.root={arguments.data}"])
    banks = load_banks(settings.corpus, "valid")
    if arguments.distance:
        print(json.dumps(distances(banks, settings, arguments)))
        return
    enhancer = Enhancer.load(arguments.model[0])

    results = {}
    print("| condition | temperature | NFE | " + " | ".join(SCORES) + " | RTF |")
    print("|---|---:|---:|" + "---:|" * (len(SCORES) + 1))
    for condition, temperature, nfe in itertools.product(CONDITIONS, arguments.temperature, arguments.nfe):
        options = EnhanceOptions(mode="enhance", nfe=nfe, prior_temperature=temperature)
        rows, seconds = [], 0.0
        for index in range(arguments.count):
            example = evaluation.make(banks, settings, condition, index)
            started = time.perf_counter()
            restored = enhancer.enhance(example.degraded, MODEL_RATE, options)[0]
            seconds += time.perf_counter() - started
            rows.append([score(restored, example.reference) for score in SCORES.values()])
        means = np.nanmean(rows, axis=0)
        rtf = seconds / (arguments.count * settings.seconds)
        results[f"{condition} {temperature} {nfe}"] = [*means.tolist(), rtf]
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        print(f"| {condition} | {temperature} | {nfe} | {cells} | {rtf:.3f} |", flush=True)
    if arguments.picture:
        draw(results, arguments)
    print(json.dumps(results))


DISTANCES = {
    "LSD": lambda x, y: metrics.lsd(x, y, MODEL_RATE),
    "mel": lambda x, y: metrics.mel_distance(x, y, MODEL_RATE),
    "PESQ-WB": lambda x, y: metrics.pesq_wb(x, y, MODEL_RATE),
}


def distances(banks: Any, settings: EvaluateConfig, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Print and return the mean distance to the first model's output with quality "best"."""
    models = {name: Enhancer.load(name) for name in arguments.model}
    ways = [{"quality": quality} for quality in QUALITIES]
    ways += [{"solver": s, "nfe": n} for s in ("midpoint", "ab2") for n in (1, 2, 4, 8, 16)]
    runs = [(name, way) for name in models for way in ways]
    rows: dict[str, list[list[float]]] = {}
    seconds: dict[str, float] = {}
    examples = itertools.product(CONDITIONS, range(arguments.count))
    for condition, index in examples:
        example = evaluation.make(banks, settings, condition, index)
        best = EnhanceOptions(mode="enhance", quality="best")
        reference = models[arguments.model[0]].enhance(example.degraded, MODEL_RATE, best)[0]
        for name, way in runs:
            started = time.perf_counter()
            options = EnhanceOptions(mode="enhance", **way)
            output = models[name].enhance(example.degraded, MODEL_RATE, options)[0]
            key = f"{name} {' '.join(map(str, way.values()))}"
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - started
            distance = [measure(output, reference) for measure in DISTANCES.values()]
            clean = [score(output, example.reference) for score in SCORES.values()]
            rows.setdefault(key, []).append([*distance, *clean])
    length = arguments.count * len(CONDITIONS) * settings.seconds
    means = {key: [*np.nanmean(values, axis=0), seconds[key] / length] for key, values in rows.items()}
    names = [*(f"{name} to 64" for name in DISTANCES), *SCORES, "RTF"]
    print("| model and setting | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for key, values in means.items():
        print(f"| {key} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return {key: [float(value) for value in values] for key, values in means.items()}


def draw(results: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    """A panel for each score, a line for each condition and temperature, over NFE."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    for panel, name in zip(panels, ("LSD", "ESTOI", "PESQ-WB"), strict=True):
        place = list(SCORES).index(name)
        for condition, temperature in itertools.product(CONDITIONS, arguments.temperature):
            values = [results[f"{condition} {temperature} {nfe}"][place] for nfe in arguments.nfe]
            style = "-" if condition == "narrow" else "--"
            label = f"{condition.replace('_', ', ')}, {temperature}"
            panel.plot(arguments.nfe, values, style, marker=".", label=label)
        panel.set(xscale="log", title=name, xlabel="evaluations")
        panel.set_xticks(arguments.nfe, [str(nfe) for nfe in arguments.nfe])
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=6)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
