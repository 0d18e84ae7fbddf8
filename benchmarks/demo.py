"""Restore the sample recordings and show what that did: scores, the audio, a page with spectrograms.

    python benchmarks/demo.py samples demo_out

SAMPLES/noisy holds recordings in any format, SAMPLES/clean what they should sound like under the same
names. Scores are before -> after.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from enhance_ray import EnhanceOptions, Enhancer, audio, metrics, report
from enhance_ray.files import enhance_files, plan_jobs
from enhance_ray.records import Record, append_record
from enhance_ray.settings.options import MODEL_RATE

RECORDS = "report.jsonl"
SCORES = ("si_sdr", "pesq_wb", "estoi", "lsd", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
"""Names of `metrics.METRICS`: quick ones, which agree about a few recordings."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="folder with noisy/ and clean/")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--model", default="default", help="model folder (default: the packaged one)")
    arguments = parser.parse_args()

    options = EnhanceOptions()
    jobs = plan_jobs(str(arguments.samples / "noisy"), str(arguments.out), options)
    records = []
    for record in enhance_files(jobs, Enhancer.load(arguments.model), options, force=True):
        if record.status == "failed":
            print(f"failed: {record.input}: {record.reason}", file=sys.stderr)
            records.append(record)
        else:
            records.append(with_scores(record, arguments.samples / "clean"))

    (arguments.out / RECORDS).unlink(missing_ok=True)
    for record in records:
        append_record(arguments.out / RECORDS, record)
    report.html(arguments.out / "report.html", records, title="Sample recordings")
    Console(width=120).print(score_table(records))
    print(f"Listen and look: {arguments.out / 'report.html'}")
    return 1 if any(record.status == "failed" for record in records) else 0


def with_scores(record: Record, clean: Path) -> Record:
    """Add every metric of its input and of its output, against the recording of its name in ``clean``."""
    [reference_path] = clean.glob(f"{Path(record.input).stem}.*")
    reference = read(str(reference_path))
    scores = {}
    for path, side in ((record.input, "_in"), (record.output, "_out")):
        assert path is not None
        waveform = read(path)
        length = min(reference.size, waveform.size)  # 48 kHz codecs round to whole samples of theirs
        for name, value in metrics.score(waveform[:length], reference[:length], MODEL_RATE, SCORES).items():
            scores[name + side] = value
    return dataclasses.replace(record, scores=scores)


def read(path: str) -> np.ndarray:
    """A whole recording as mono at the model's rate."""
    with audio.decode(path) as blocks:
        waveform = np.concatenate([block.mean(axis=0) for block in blocks])
        return metrics.resample(waveform, blocks.info.sample_rate, MODEL_RATE)


def score_table(records: list[Record]) -> Table:
    """Metrics by recordings, with their mean."""
    scored = sorted((record for record in records if record.scores), key=lambda record: record.input)
    table = Table(title="before → after", title_justify="left")
    table.add_column("")
    for record in scored:
        table.add_column(Path(record.input).stem.replace("_", " "), justify="right")
    table.add_column("mean", justify="right")
    for name in SCORES:
        metric = metrics.METRICS[name]
        before, after = ([record.scores[name + side] for record in scored] for side in ("_in", "_out"))
        pairs = [*zip(before, after, strict=True), (np.nanmean(before), np.nanmean(after))]
        cells = [f"{a:.{metric.digits}f} → {b:.{metric.digits}f}" for a, b in pairs]
        table.add_row(f"{metric.title} {'↑' if metric.higher_is_better else '↓'}", *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
