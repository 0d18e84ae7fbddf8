"""What a bulk job of a hundred million objects costs its driver: plan, restart, report.

    python benchmarks/archive.py WORK [--count 100000000]

makes an inventory like one that S3 writes (Parquet; sizes of recordings by a heavy-tailed law, one object
in twenty listed twice, some with odd names), plans it, gives records to half of the parts and then to all,
and restarts and reports. Each stage is a process of its own, which imports what the driver does: its
seconds and its peak of memory, and the memory that it had before. Storage is this machine's disk; records
take some 60 bytes of it each. Prints a table, and as the last line JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from enhance_ray.cluster.bulk import BulkConfig, forecast, plan, summary
from enhance_ray.cluster.bulk.state import RECORDS, JobState

_FILE = 1_000_000
"""Objects in a file of the inventory."""
_TWICE = 20
"""One object in so many is listed again."""
STAGES = (
    "inventory",
    "plan",
    "restart, nothing done",
    "half",
    "restart, half done",
    "all",
    "restart, all done",
    "report",
)


def inventory(work: Path, count: int) -> None:
    """Write it, if none is there."""
    if (work / "lists").exists():
        return
    (work / "lists" / "data").mkdir(parents=True)
    (work / "lists" / "2026-11-30T01-00Z").mkdir()
    files = []
    for first in range(0, count, _FILE):
        numbers = np.arange(first, min(first + _FILE, count))
        numbers[::_TWICE] -= numbers[::_TWICE] % (10 * _TWICE)  # as another one, which is not far
        shows = numbers // 500
        keys = [
            f"shows/{show:07d}/{'ep+ü %' if number % 997 == 0 else 'episode-'}{number:09d}.mp3"
            for show, number in zip(shows.tolist(), numbers.tolist(), strict=True)
        ]
        # Log-normal: 6 minutes in the middle, hours at the end; the same object has the same size.
        spread = np.sin(numbers * 12.9898) * 43758.5453 % 1.0
        sizes = np.exp(15.5 + 1.4 * np.sqrt(2) * _inverse_erf(2 * spread - 1)).astype(np.int64) + 1000
        table = pa.table(
            {
                "bucket": pa.array(["archive"] * len(numbers)),
                "key": keys,
                "size": sizes,
                "last_modified_date": pa.array((1_700_000_000_000 + numbers).astype("datetime64[ms]")),
                "e_tag": [f"{number * 2654435761 % 2**64:032x}" for number in numbers.tolist()],
            }
        )
        name = f"{first // _FILE:05d}.parquet"
        pq.write_table(table, work / "lists" / "data" / name, compression="zstd")
        files.append({"key": f"lists/data/{name}"})
    tree = {
        "destinationBucket": "arn:aws:s3:::lists",
        "fileFormat": "Parquet",
        "fileSchema": "",
        "files": files,
    }
    (work / "lists" / "2026-11-30T01-00Z" / "manifest.json").write_text(json.dumps(tree))


def _inverse_erf(x: np.ndarray) -> np.ndarray:
    """Winitzki's approximation, which is good enough for sizes."""
    a = 0.147
    log = np.log(np.maximum(1 - x * x, 1e-12))
    b = 2 / (np.pi * a) + log / 2
    return np.asarray(np.sign(x) * np.sqrt(np.sqrt(b * b - log / a) - b))


def give_records(state: JobState, share: float) -> None:
    """Finish the first ``share`` of the parts, as actors would."""
    parts = state.parts()
    done = state.finished()
    for number, part in enumerate(parts[: round(share * len(parts))]):
        if part in done:
            continue
        manifest = state.manifest(part)
        count = len(manifest)
        numbers = np.arange(count)
        failed = numbers % 100 == 99
        seconds = manifest["bytes"].to_numpy() / 16_000
        made: dict[str, Any] = {
            "uri": manifest["uri"],
            "output": manifest["uri"],
            "status": pa.array(np.where(failed, "failed", "done")),
            "code": pa.array(np.where(failed, "audio_unreadable", None)),
            "reason": pa.array(np.where(failed, "it breaks off after 12.3 s", None)),
            "seconds": np.where(failed, 0.0, seconds),
            "seconds_spent": seconds / 200,
            **{f"{stage}_seconds": seconds / 1000 for stage in summary.STAGES},
            "input_bytes": manifest["bytes"],
            "output_bytes": manifest["bytes"],
            "loudness_in": pa.array(-20.0 - numbers % 17, pa.float32()),
            "loudness_out": pa.array(-16.0 - numbers % 3, pa.float32()),
            "etag": manifest["etag"],
            "actor": pa.array([f"actor-{number % 1000}"] * count),
        }
        missing = {field.name: pa.nulls(count, field.type) for field in RECORDS if field.name not in made}
        table = pa.table({**made, **missing}).select(RECORDS.names).cast(RECORDS)
        state.folder.write_table(f"records/{part}.parquet", table)


def restart(settings: BulkConfig, state: JobState) -> dict[str, Any]:
    """Everything that a driver does before its actors begin."""
    listing = plan.plan(settings, state)
    done = state.finished()
    left = [part for part in state.parts() if part not in done]
    sizes = state.sizes(left)
    return {"listed": listing.listed, "added": listing.added, "files_left": sum(n for n, _ in sizes.values())}


def run_stage(name: str, work: Path, count: int) -> dict[str, Any]:
    """One stage, in this process."""
    before = _peak()
    settings = BulkConfig(
        input=str(work / "lists" / "2026-11-30T01-00Z" / "manifest.json"),
        output=str(work / "out"),
        actors=1000,
        price_per_cpu_hour=0.05,
    )
    state = JobState(settings.output, "job")
    said: dict[str, Any] = {}
    started = time.perf_counter()
    if name == "inventory":
        inventory(work, count)
    elif name in ("half", "all"):
        give_records(state, 0.5 if name == "half" else 1.0)
    elif name == "report":
        totals = summary.write(settings, state)
        said = {"done": totals.done, "failed": totals.failed}
    elif name == "plan":
        plan.plan(settings, state)
        files = sum(kind.files for kind in forecast._kinds(state).values())
        said = {"files": files, "parts": len(state.parts())}
    else:
        said = restart(settings, state)
    seconds = time.perf_counter() - started
    return {"stage": name, "seconds": seconds, "before_mb": before, "peak_mb": _peak(), **said}


def _peak() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK", help="folder; what is in it stays")
    parser.add_argument("--count", type=int, default=100_000_000, help="objects in the inventory")
    parser.add_argument("--stage", choices=STAGES, help="this one alone, in this process")
    parsed = parser.parse_args()
    if parsed.stage:
        print(json.dumps(run_stage(parsed.stage, parsed.work, parsed.count)))
        return
    rows = []
    for stage in STAGES:
        command = [sys.executable, __file__, str(parsed.work), "--count", str(parsed.count), "--stage", stage]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(answer.splitlines()[-1]))
        print(
            f"{stage:<24}{rows[-1]['seconds']:>9.1f} s   peak {rows[-1]['peak_mb']:6.0f} MB"
            f" ({rows[-1]['before_mb']:.0f} before)   "
            + ", ".join(f"{k} {v:,}" for k, v in list(rows[-1].items())[4:]),
            flush=True,
        )
    print(json.dumps({"count": parsed.count, "stages": rows}))


if __name__ == "__main__":
    main()
