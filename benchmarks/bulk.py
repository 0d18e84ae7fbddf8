"""What a bulk job costs beside the model: planning, resuming, scaling, and how busy the model is kept.

    python benchmarks/bulk.py names      a million objects: listed, planned, listed again, resumed, added up
    python benchmarks/bulk.py scaling    1 to 16 actors whose model sleeps for as long as a GPU would take
    python benchmarks/bulk.py busy       one actor, recordings of 10 s to 1 h: the packaged denoiser, and a
                                         model that sleeps as one of 200 times real time would take
    python benchmarks/bulk.py short      5,000 recordings of 1 to 3 s by the packaged denoiser, a few of them
                                         damaged: counts of records, report and storage, and a second run

Prints tables, and as the last line JSON. No storage but this machine's; run one at a time, with nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import fsspec
import numpy as np
import pyarrow as pa
import ray
import soundfile
from fsspec.spec import AbstractFileSystem
from torch import Tensor, nn

from enhance_ray.cluster.bulk import BulkConfig, driver, plan, summary
from enhance_ray.cluster.bulk.state import RECORDS, JobState
from enhance_ray.enhancer import Enhancer
from enhance_ray.files import enhance_files, plan_jobs
from enhance_ray.settings.options import MODEL_RATE

WARM_UP = 6
"""Files of an actor that are not counted: the first wait for what is loaded late."""
NAMES = 1_000_000
PER_FOLDER = 1000


class Names(AbstractFileSystem):  # type: ignore[misc]
    """A million names in folders of a thousand, without anything behind them."""

    protocol = "names"
    cachable = False

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path).rstrip("/")
        if path.count("/") == 0:
            found = [f"{path}/show-{n:05d}" for n in range(NAMES // PER_FOLDER)]
            infos = [{"name": name, "size": 0, "type": "directory"} for name in found]
        else:
            found = [f"{path}/episode-{n:04d}.mp3" for n in range(PER_FOLDER)]
            infos = [
                {"name": name, "size": 43_000_000, "type": "file", "ETag": name[-20:], "mtime": 1.7e9}
                for name in found
            ]
        return infos if detail else found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}


class Sleeper(nn.Module):
    """A model that takes its time and does nothing."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = speed

    def forward(self, rows: Tensor) -> Tensor:
        time.sleep(rows.numel() / MODEL_RATE / self.speed)
        return rows


class LoadSleeper:
    """How actors get one."""

    def __init__(self, speed: float) -> None:
        self.speed = speed

    def __call__(self, settings: BulkConfig) -> Enhancer:
        return Enhancer(Sleeper(self.speed), device="cpu", precision="fp32")


def peak() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def names() -> dict[str, Any]:
    fsspec.register_implementation("names", Names, clobber=True)
    folder = tempfile.mkdtemp(prefix="enhance-ray-bulk-")
    settings = BulkConfig(input="names://archive", output=folder)
    state = JobState(folder, "job")
    result: dict[str, Any] = {"peak_at_start_mb": peak()}

    def timed(name: str, action: Any) -> Any:
        started = time.perf_counter()
        answer = action()
        result[name] = {"seconds": time.perf_counter() - started, "peak_mb": peak()}
        seconds, megabytes = result[name].values()
        print(f"{name:<44}{seconds:8.1f} s   peak {megabytes:6.0f} MB", flush=True)
        return answer

    timed("listed and planned", lambda: plan.plan(settings, state))
    parts = state.parts()
    for part in parts:
        uris = state.manifest(part)["uri"].to_pylist()
        rows = [
            {
                "uri": uri, "output": uri, "status": "done", "seconds": 2700.0, "decode_seconds": 2.0,
                "prepare_seconds": 3.0, "wait_seconds": 9.0, "model_seconds": 8.0, "encode_seconds": 4.0,
                "input_bytes": 43_000_000, "output_bytes": 43_000_000, "loudness_in": -21.0, "actor": "a",
            }
            for uri in uris
        ]  # fmt: skip
        if part != parts[-1]:
            state.stage(part, "attempt", pa.Table.from_pylist(rows, RECORDS))
            state.publish(part, "attempt")
    left = timed(
        f"resumed: what of {NAMES:,} records is left",
        lambda: sorted(set(state.parts()) - state.finished()),
    )
    assert left == parts[-1:]
    timed("listed again: nothing is new", lambda: plan.plan(settings, state))
    timed("report over all records", lambda: summary.write(settings, state))
    shutil.rmtree(folder)
    return result


def corpus(folder: Path, seconds: list[float], rate: int = 16_000) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.05, 60 * rate).astype(np.float32)
    for number, length in enumerate(seconds):
        with soundfile.SoundFile(folder / f"{number:04d}.flac", "w", rate, 1) as file:
            for start in range(0, int(length * rate), len(noise)):
                file.write(noise[: int(length * rate) - start])


def scaling(speed: float, files: int, seconds: float) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(prefix="enhance-ray-bulk-"))
    ray.init(num_cpus=24, include_dashboard=False, object_store_memory=200 * 2**20, logging_level="error")
    rows = []
    for actors in (1, 2, 4, 8, 16):
        corpus(work / f"in-{actors}", [seconds] * files * actors)
        settings = BulkConfig(
            input=str(work / f"in-{actors}"), output=str(work / f"out-{actors}"), actors=actors
        )
        stored = [0]
        done = threading.Event()

        def watch(done: threading.Event = done, stored: list[int] = stored) -> None:
            while not done.wait(0.5):
                free = ray.available_resources().get("object_store_memory", 0)
                stored[0] = max(stored[0], int(ray.cluster_resources()["object_store_memory"] - free))

        watcher = threading.Thread(target=watch)
        watcher.start()
        outcome = driver.run(settings, load=LoadSleeper(speed), fingerprint="sleeper")
        done.set()
        watcher.join()
        usage = json.loads(next(Path(outcome.place).glob("runs/*.json")).read_text())["actors"]
        table = pa.concat_tables(
            JobState(str(work / f"out-{actors}"), Path(outcome.place).name).folder.read_tables(
                [
                    str(path.relative_to(outcome.place))
                    for path in Path(outcome.place).glob("records/*.parquet")
                ]
            )
        )
        finished = np.array([moment.timestamp() for moment in table["finished"].to_pylist()])
        worker = np.array(table["actor"].to_pylist())
        # From when all actors are at work, which takes two cores long to bring about, to the end
        # of the job: the unequal ends are counted.
        began = max(np.sort(finished[worker == name])[WARM_UP - 1] for name in set(worker))
        rate = seconds * np.sum(finished > began) / (finished.max() - began)
        rows.append(
            {
                "actors": len(usage),
                "times_real_time": rate,
                # Against one actor: records come a few files late, so that the rate itself is a little high.
                "efficiency": rate / actors / (rows[0]["times_real_time"] if rows else rate),
                "object_store_mb": stored[0] / 2**20,
            }
        )
        print(
            f"{actors:>3} actors: {rate:8.1f} x real time, efficiency {rows[-1]['efficiency']:.1%}, "
            f"object store {rows[-1]['object_store_mb']:.1f} MB",
            flush=True,
        )
        shutil.rmtree(work / f"in-{actors}")
    ray.shutdown()
    shutil.rmtree(work)
    return {"speed_of_an_actor": speed, "rows": rows}


def busy(hours: float) -> dict[str, Any]:
    """Through `enhance_files`, which is what an actor runs, in this process."""
    work = Path(tempfile.mkdtemp(prefix="enhance-ray-bulk-"))
    random = np.random.default_rng(0)
    lengths: list[float] = [3600.0]
    while sum(lengths) < hours * 3600:
        lengths.append(float(10 * 360 ** (random.random() ** 2)))
    corpus(work / "in", lengths)
    jobs = sorted(
        plan_jobs(str(work / "in"), str(work / "out")), key=lambda job: -Path(job.input).stat().st_size
    )
    models = {"compact denoiser, CPU": Enhancer.load(denoiser_only=True)}
    models["sleeps at 200 x real time"] = LoadSleeper(200.0)(None)  # type: ignore[arg-type]
    rows = []
    for name, enhancer in models.items():
        for threads in (4,) if "CPU" in name else (1, 2, 4, 8):
            seen = []
            started, cpu = time.perf_counter(), time.process_time()
            records = list(
                enhance_files(jobs, enhancer, files_at_once=threads, force=True, progress=seen.append)
            )
            wall, cpu = time.perf_counter() - started, time.process_time() - cpu
            audio = sum(record.seconds for record in records)
            share = seen[-1].model_seconds / wall
            rows.append(
                {
                    "model": name, "threads": threads, "busy": share, "times_real_time": audio / wall,
                    "cpu_seconds_per_hour": cpu / audio * 3600,
                }
            )  # fmt: skip
            print(
                f"{name:<28}{threads} threads: model busy {share:.1%}, {audio / wall:7.1f} x real time, "
                f"{rows[-1]['cpu_seconds_per_hour']:.1f} s of CPU per hour of audio",
                flush=True,
            )
    shutil.rmtree(work)
    return {"audio_hours": sum(lengths) / 3600, "rows": rows}


def short(count: int, actors: int) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(prefix="enhance-ray-bulk-"))
    random = np.random.default_rng(0)
    corpus(work / "in", random.uniform(1.0, 3.0, count).tolist())
    recordings = sorted((work / "in").iterdir())
    damaged = recordings[:: max(1, count // 20)]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:30])
    ray.init(num_cpus=actors, include_dashboard=False, log_to_driver=False, logging_level="error")
    settings = BulkConfig(input=str(work / "in"), output=str(work / "out"), actors=actors, max_failed=None)
    started = time.perf_counter()
    outcome = driver.run(settings)
    first = time.perf_counter() - started
    state = JobState(str(work / "out"), Path(outcome.place).name)
    statuses = [
        status for table in state.records(state.parts(), ["status"]) for status in table["status"].to_pylist()
    ]
    started = time.perf_counter()
    again = driver.run(settings)
    second = time.perf_counter() - started
    ray.shutdown()
    assert outcome.report is not None and again.report is not None
    row = {
        "inputs": count,
        "damaged": len(damaged),
        "records": len(statuses),
        "records_done": statuses.count("done"),
        "records_failed": statuses.count("failed"),
        "report_done": outcome.report.done,
        "report_failed": outcome.report.failed,
        "outputs": sum(1 for path in (work / "out").glob("*.flac")),
        "audio_hours": outcome.report.seconds / 3600,
        "seconds": first,
        "second_run_seconds": second,
        "second_run_added": again.added,
        "second_run_computed_seconds": again.report.seconds_computed - outcome.report.seconds_computed,
    }
    for name, value in row.items():
        print(f"{name:<30}{value:>12,.2f}" if isinstance(value, float) else f"{name:<30}{value:>12,}")
    shutil.rmtree(work)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=["names", "scaling", "busy", "short"])
    parser.add_argument(
        "--speed", type=float, default=10.0, help="times real time of a simulated GPU (scaling)"
    )
    parser.add_argument("--files", type=int, default=32, help="for each actor (scaling)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each file (scaling)")
    parser.add_argument("--hours", type=float, default=1.5, help="of audio (busy)")
    parser.add_argument("--count", type=int, default=5000, help="recordings (short)")
    parser.add_argument("--actors", type=int, default=2, help="of one core each (short)")
    parsed = parser.parse_args()
    answers = {
        "names": names,
        "scaling": lambda: scaling(parsed.speed, parsed.files, parsed.seconds),
        "busy": lambda: busy(parsed.hours),
        "short": lambda: short(parsed.count, parsed.actors),
    }
    print(json.dumps({parsed.question: answers[parsed.question]()}))


if __name__ == "__main__":
    sys.exit(main())
