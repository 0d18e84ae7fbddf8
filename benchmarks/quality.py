"""The README's table: our denoiser and enhancer beside the open denoisers that run from packages.

    pip install 'enhance-ray[eval,peers]'
    python benchmarks/quality.py --data DIR --work quality --jobs 2

makes the mixtures of `mixtures.py` in ``quality/``, has every peer of `peers.py` restore them there, scores
all of it with `enhance_ray.evaluation`, prints Markdown, and writes ``report.html`` and ``rows.jsonl`` there.
What is fair, and how:

- everyone gets the same waveform at 44.1 kHz; who works at another rate is resampled by libsoxr, and back;
- everyone's constant delay, found by cross-correlation on clean speech, is taken out before scoring: SI-SDR
  and ESTOI would charge it as distortion;
- everyone runs with the defaults of its package and a fresh state per mixture, on one thread;
- a difference is that of the same mixtures, with the interval of its mean.

What is in ``quality/`` already is not made again: comparing another model costs only its own work. Peers are
run and scored again when their version, the recipe, the metrics or `peers.py` change.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import mixtures
import peers
import soundfile

from enhance_ray import evaluation, metrics
from enhance_ray.evaluation import EvaluateConfig, Row, Scored, SystemConfig, page, tables
from enhance_ray.settings.options import EnhanceOptions

ALL = "all"
BARS = {
    "pesq_wb": mixtures.CONDITIONS,
    "estoi": mixtures.CONDITIONS,
    "si_sdr": ("additive",),
    "dnsmos_ovrl": mixtures.CONDITIONS,
}
"""In what, and where, the denoiser is to be ahead of every peer."""


def restore(data: Path, work: Path, name: str, plans: Sequence[mixtures.Plan]) -> None:
    """Have the peer ``name`` restore what is in ``work``; 32-bit WAV, since some pass full scale.

    Beside the files, `about.json` says by which version, with which delay and in how many seconds of CPU.
    """
    folder = work / "peers" / name
    version = importlib.metadata.version(peers.PEERS[name].distribution)
    about: dict[str, Any] = {"key": f"{version} {_digest(peers.__file__)}", "delay": None, "seconds": {}}
    if (folder / "about.json").exists():
        known = json.loads((folder / "about.json").read_text())
        if known["key"] == about["key"] and all(plan.name in known["seconds"] for plan in plans):
            return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    denoise = peers.PEERS[name].load()
    corpus = mixtures.Corpus(data)
    speech = corpus.render(corpus.plans(1)[0]).clean
    about["delay"] = peers.delay_of(denoise(speech), speech)
    for plan in plans:
        noisy, _ = soundfile.read(work / "noisy" / f"{plan.name}.flac")
        started = time.process_time()
        output = denoise(noisy)
        about["seconds"][plan.name] = time.process_time() - started
        aligned = peers.aligned(output, about["delay"], noisy.size)
        soundfile.write(folder / f"{plan.name}.wav", aligned, mixtures.RATE, subtype="FLOAT")
    (folder / "about.json").write_text(json.dumps(about))


def outcomes_of(settings: EvaluateConfig, jobs: int, label: str) -> list[Scored]:
    """All pairs scored, with a line of progress each on standard error."""
    settings = evaluation.resolve(settings)
    items = evaluation.plan(settings)
    found = []
    for number, outcome in enumerate(evaluation.run(settings, items, device="cpu", jobs=jobs), 1):
        if outcome.failed:
            raise SystemExit(f"{outcome.item.name}: {outcome.failed}")
        sys.stderr.write(f"\r{label}: {number}/{len(items)} ")
        found.append(outcome)
    sys.stderr.write("\n")
    return found


def peers_rows(settings: EvaluateConfig, work: Path, jobs: int) -> list[Row]:
    """Rows of the input and the peers, scored once."""
    sources = [Path(metrics.__file__).parent / name for name in ("signals.py", "listeners.py", "table.py")]
    abouts = sorted((work / "peers").glob("*/about.json"))
    key = _digest(*sources, *abouts, work / "plans.json") + repr(settings.metric_names)
    cache = work / "peers.json"
    if cache.exists() and (known := json.loads(cache.read_text()))["key"] == key:
        rows: list[Row] = known["rows"]
        return rows
    rows = [row for outcome in outcomes_of(settings, jobs, "peers") for row in outcome.rows]
    seconds = {about.parent.name: json.loads(about.read_text())["seconds"] for about in abouts}
    for row in rows:
        if row["system"] in seconds:
            row["rtf"] = seconds[row["system"]][row["name"]] / row["seconds"]
    cache.write_text(json.dumps({"key": key, "rows": rows}))
    return rows


def standing(rows: Sequence[Row], condition: str) -> list[str]:
    """For each metric in which the denoiser is to be ahead: by how much of whom it is nearest to."""
    chosen = [row for row in rows if condition in (ALL, row["condition"])]
    differences = [d for d in tables.differences(chosen, "denoise") if d.system in peers.PEERS]
    lines = []
    for name, conditions in BARS.items():
        if condition != ALL and condition not in conditions:
            continue
        nearest = max((d for d in differences if d.name == name), key=lambda d: d.interval.mean)
        theirs = nearest.interval  # less ours
        lines.append(
            f"| {condition} | {metrics.METRICS[name].title} | {nearest.system} "
            f"| {-theirs.mean:+.3f} ({-theirs.high:+.3f} to {-theirs.low:+.3f}) |"
        )
    return lines


def times(rows: Sequence[Row]) -> list[str]:
    """One row: the work that each takes for a second of audio, in the order of the rows."""
    systems = [name for name in dict.fromkeys(row["system"] for row in rows) if name != "input"]
    found = {
        name: [row["rtf"] for row in rows if row["system"] == name and row.get("rtf")] for name in systems
    }
    shown = {name: sum(values) / len(values) for name, values in found.items() if values}
    return [
        f"| | {' | '.join(shown)} |",
        f"|---|{'---:|' * len(shown)}",
        f"| seconds of work | {' | '.join(f'{value:.4f}' for value in shown.values())} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mixtures.add_arguments(parser)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for everything that is made")
    parser.add_argument(
        "--model", default="default", metavar="MODEL", help="ours (default: the packaged one)"
    )
    parser.add_argument("--metrics", default="", metavar="A,B", help="instead of all of them")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, one thread each")
    arguments = parser.parse_args()
    work: Path = arguments.work

    corpus = mixtures.Corpus(arguments.data)
    plans = corpus.plans(arguments.count, arguments.seed, tuple(arguments.conditions))
    _make_pairs(corpus, plans, work, arguments.reference)
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        restoring = functools.partial(restore, arguments.data, work, plans=plans)
        list(pool.map(restoring, peers.PEERS))

    shared = EvaluateConfig(
        clean=str(work / "clean"),
        noisy=str(work / "noisy"),
        table=str(work / "table.csv"),
        metrics=tuple(filter(None, arguments.metrics.split(","))),
    )
    theirs = dataclasses.replace(
        shared,
        systems=tuple(SystemConfig(name=name, folder=str(work / "peers" / name)) for name in peers.PEERS),
    )
    ours = dataclasses.replace(
        shared,
        systems=(
            SystemConfig(name="denoise", model=arguments.model, mode="denoise"),
            SystemConfig(name="enhance", model=arguments.model, mode="enhance"),
            SystemConfig(
                name="guarded", model=arguments.model, mode="enhance", options=EnhanceOptions(guard=True)
            ),
        ),
    )
    rows_of_peers = peers_rows(theirs, work, arguments.jobs)
    outcomes = outcomes_of(ours, arguments.jobs, "ours")
    by_name: dict[str, list[Row]] = {}
    for row in rows_of_peers:
        if row["system"] in peers.PEERS:
            by_name.setdefault(row["name"], []).append(row)
    outcomes = [
        dataclasses.replace(outcome, rows=[*outcome.rows, *by_name[outcome.item.name]])
        for outcome in outcomes
    ]
    rows = [row for outcome in outcomes for row in outcome.rows]
    (work / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _write_page(
        dataclasses.replace(shared, systems=(*ours.systems, *theirs.systems)),
        outcomes,
        work / "report.html",
        f"{arguments.jobs} processes, one thread each; peers in seconds of CPU",
    )
    _print_tables(rows, arguments.conditions)


def _make_pairs(
    corpus: mixtures.Corpus, plans: list[mixtures.Plan], work: Path, reference: mixtures.Reference
) -> None:
    """Write the mixtures, if others or none are there."""
    recipe = json.dumps([_digest(mixtures.__file__), reference, *map(dataclasses.asdict, plans)])
    made = work / "plans.json"
    if made.exists() and made.read_text() == recipe:
        return
    for folder in ("noisy", "clean", "peers"):  # and not what else is in a folder that somebody names
        shutil.rmtree(work / folder, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    corpus.write(plans, work, reference)
    made.write_text(recipe)


def _write_page(settings: EvaluateConfig, outcomes: Sequence[Scored], path: Path, work: str) -> None:
    settings = evaluation.resolve(settings)
    rows = [row for outcome in outcomes for row in outcome.rows]
    excerpts = page.listen(evaluation.scorer(settings, "cpu"), evaluation.plan(settings), rows)
    page.write(str(path), page.page(outcomes, settings, excerpts, title="Denoisers and enhancers", work=work))


def _print_tables(rows: Sequence[Row], conditions: Sequence[str]) -> None:
    print(evaluation.table([{**row, "condition": ALL} for row in rows]))
    print()
    print(evaluation.table(sorted(rows, key=lambda row: list(conditions).index(row["condition"]))))
    print("\nSeconds of work for a second of audio, on one thread:\n")
    print("\n".join(times(rows)))
    print("\nThe denoiser less the peer that comes nearest, on the same mixtures:\n")
    print("| condition | metric | nearest peer | difference |\n|---|---|---|---:|")
    for condition in (ALL, *conditions):
        print("\n".join(standing(rows, condition)))


def _digest(*files: str | Path) -> str:
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes, which load NumPy and torch anew
    main()
