"""What the endpoint costs beside the model, and what batches bring.

    python benchmarks/serve.py overhead    one client: the endpoint against the same pipeline in one process
    python benchmarks/serve.py batches     many clients: batches of segments against one segment at a time
    python benchmarks/serve.py sizing      what one replica of each stage gives, and how long clients wait

Runs Ray and the endpoint on this machine, each model with one core; prints tables, and as the last line JSON.
Both sides of a ratio are measured in turn, in one run. Run one at a time, with nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import httpx
import numpy as np
import ray
import soundfile
import torch
from ray import serve

from enhance_ray import audio
from enhance_ray.audio.streaming import StreamEncoder
from enhance_ray.cluster.serve import build
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.synthesis import Synthesis
from enhance_ray.enhancer import Enhancer
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

SAMPLE = Path(__file__).parents[1] / "samples" / "noisy" / "kathleen_helicopter.flac"
MODES = ("denoise", "enhance")


def recording(seconds: float) -> bytes:
    """Speech in noise, as a wav file."""
    waveform, rate = soundfile.read(SAMPLE, dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, np.resize(waveform, int(seconds * rate)), rate, format="WAV")
    return file.getvalue()


@contextlib.contextmanager
def ray_and_serve() -> Iterator[Callable[[dict[str, Any]], str]]:
    """Gives what replaces the application, and returns its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 600})

    def run(args: dict[str, Any]) -> str:
        serve.run(build(args), name="enhance", route_prefix="/")
        return f"http://127.0.0.1:{port}"

    try:
        yield run
    finally:
        serve.shutdown()
        ray.shutdown()


def settings(**stages: Any) -> dict[str, Any]:
    """Of an endpoint with one core for each model."""
    limits = {"requests_per_client": 64, "requests": 64, "queue": 1000}
    return {"ingress_cpus": 0.5, "limits": limits, "denoiser": stages, "enhancer": stages}


def bare(enhancer: Enhancer, content: bytes, mode: Any) -> bytes:
    """What the endpoint does for one request, in this process: decode, model, encode."""
    options = EnhanceOptions(mode=mode)
    with audio.decode("recording", data=content) as decoder:
        info = decoder.info
        analysis = Analysis(enhancer.framing, info.sample_rate, info.channels, options, name="recording")
        synthesis = Synthesis(enhancer.framing, options, name="recording")
        encoder = StreamEncoder(
            sample_rate=MODEL_RATE,
            channels=info.channels,
            frames=-(-int(info.frames or 0) * MODEL_RATE // info.sample_rate),
            target=audio.output_format(info, "wav"),
            tags=info.tags,
        )
        pieces = analysis.pieces(map(torch.from_numpy, decoder))
        results = Batcher(enhancer, options, 1).results(None, pieces)
        parts = [encoder.write(block.numpy()) for block in synthesis.blocks(results)]
    return b"".join(parts) + encoder.finish()


def overhead(rounds: int = 11) -> list[dict[str, Any]]:
    """Median seconds of a request by HTTP and of the same work without."""
    torch.set_num_threads(1)
    rows = []
    with ray_and_serve() as run, httpx.Client(base_url=run(settings()), timeout=600) as http_client:
        for mode in MODES:
            enhancer = Enhancer.load(denoiser_only=mode == "denoise")
            for seconds in (2, 10, 60):
                content = recording(seconds)
                times: dict[str, list[float]] = {"http": [], "bare": []}
                for number in range(rounds + 2):
                    began = time.perf_counter()
                    answer = http_client.post(f"/v1/{mode}", params={"format": "wav"}, content=content)
                    between = time.perf_counter()
                    local = bare(enhancer, content, mode)
                    ended = time.perf_counter()
                    assert len(local) == len(answer.content)
                    if number >= 2:  # the first warm up
                        times["http"].append(between - began)
                        times["bare"].append(ended - between)
                http, alone = (statistics.median(times[side]) for side in ("http", "bare"))
                rows.append(
                    {
                        "mode": mode,
                        "seconds": seconds,
                        "http": http,
                        "bare": alone,
                        "more_ms": 1e3 * (http - alone),
                        "more": http / alone - 1,
                    }
                )
    print("mode     seconds     by HTTP        bare     more")
    for row in rows:
        print(
            f"{row['mode']}{row['seconds']:9} s {1e3 * row['http']:8.0f} ms {1e3 * row['bare']:8.0f} ms"
            f" {row['more_ms']:6.0f} ms {row['more']:6.1%}"
        )
    return rows


class Clients:
    """So many clients that send one recording after the other, for a while."""

    def __init__(self, url: str, mode: str, content: bytes, seconds: float, count: int) -> None:
        self.waits: list[float] = []
        self._stop = threading.Event()
        self._url, self._content, self._seconds = f"{url}/v1/{mode}", content, seconds
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def run(self, warm_up: float, measured: float) -> dict[str, float]:
        """Audio seconds per second, and how long a request takes."""
        for thread in self._threads:
            thread.start()
        time.sleep(warm_up)
        self.waits.clear()
        began = time.perf_counter()
        time.sleep(measured)
        elapsed, waits = time.perf_counter() - began, list(self.waits)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return {
            "audio_per_second": len(waits) * self._seconds / elapsed,
            "p50": float(np.percentile(waits, 50)),
            "p99": float(np.percentile(waits, 99)),
        }

    def _run(self) -> None:
        with httpx.Client(timeout=600) as http:
            while not self._stop.is_set():
                began = time.perf_counter()
                http.post(self._url, params={"format": "wav"}, content=self._content).raise_for_status()
                self.waits.append(time.perf_counter() - began)


def batches() -> list[dict[str, Any]]:
    """Throughput with batches over that without, by mode and length of the recordings."""
    cases = [("denoise", 2.0), ("denoise", 20.0), ("enhance", 2.0), ("enhance", 10.0)]
    figures: dict[tuple[str, float, int], list[float]] = {}
    with ray_and_serve() as run:
        for _ in range(2):
            for size in (1, 8):
                url = run(settings(batch_size=size))
                for mode, seconds in cases:
                    found = Clients(url, mode, recording(seconds), seconds, 12).run(4, 15)
                    figures.setdefault((mode, seconds, size), []).append(found["audio_per_second"])
    rows = []
    print("mode     seconds   one at a time   batches of 8   ratio")
    for mode, seconds in cases:
        one, eight = (statistics.mean(figures[mode, seconds, size]) for size in (1, 8))
        rows.append({"mode": mode, "seconds": seconds, "one": one, "eight": eight, "ratio": eight / one})
        print(f"{mode}{seconds:9.0f} s {one:13.1f} {eight:14.1f} {eight / one:9.2f}")
    return rows


def sizing() -> list[dict[str, Any]]:
    """One replica of each stage, with a core each: throughput and waiting by the number of clients."""
    rows = []
    print("mode     seconds  clients   audio s/s   requests/s       p50       p99")
    with ray_and_serve() as run:
        url = run(settings())
        for mode in MODES:
            for seconds in (5.0, 30.0):
                for count in (1, 4, 16):
                    found = Clients(url, mode, recording(seconds), seconds, count).run(5, 30)
                    rows.append({"mode": mode, "seconds": seconds, "clients": count, **found})
                    rate = found["audio_per_second"]
                    print(
                        f"{mode}{seconds:9.0f} s {count:7} {rate:11.1f} {rate / seconds:12.2f}"
                        f" {found['p50']:7.2f} s {found['p99']:7.2f} s",
                        flush=True,
                    )
    return rows


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["overhead", "batches", "sizing"])
    what = parser.parse_args().what
    print(json.dumps({what: {"overhead": overhead, "batches": batches, "sizing": sizing}[what]()}))


if __name__ == "__main__":
    main()
