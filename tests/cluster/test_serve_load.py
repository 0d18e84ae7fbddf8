"""The endpoint under load, while replicas die, while it is replaced, while it grows. Minutes: drills, all."""

import contextlib
import io
import itertools
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from s3_server import free_port
from serving import pids, samples, until

from enhance_ray import audio
from enhance_ray.cluster.serve import application
from enhance_ray.cluster.serve.settings import ServeConfig
from enhance_ray.enhancer import Enhancer
from enhance_ray.settings import trees

pytestmark = pytest.mark.timeout(900)

SAMPLE = Path(__file__).parents[2] / "samples" / "noisy" / "kathleen_helicopter.flac"
CLIENTS = 16
TOKENS = [f"token-{number}" for number in range(CLIENTS)]
ARGS = {
    "denoiser": {"cpus": 0.5},
    "enhancer": {"cpus": 0.5},
    "ingress_cpus": 0.25,
    "limits": {"requests": 12},
    "tokens": TOKENS,
}


@pytest.fixture(scope="module")
def serving(ray_cluster):
    """Replace what is served; gives the address."""
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 600})

    def run(args, **more):
        settings = trees.from_tree(ServeConfig, args, where="args")
        serve.run(application(settings, **more), name="enhance", route_prefix="/")
        return f"http://127.0.0.1:{port}"

    yield run
    serve.shutdown()


def recording(seconds, channels=1):
    """A plain wav file with speech in noise."""
    waveform, rate = soundfile.read(SAMPLE, dtype="float32")
    file = io.BytesIO()
    row = np.resize(waveform, int(seconds * rate))
    soundfile.write(file, np.stack([row] * channels, axis=1), rate, format="WAV")
    return file.getvalue()


def memory():
    """Bytes by deployment."""
    names = ("IngressDeployment", "DenoiserDeployment", "EnhancerDeployment")
    return {name: sum(map(resident, pids(name))) for name in names}


def resident(pid):
    """Bytes of a process that are its own: not those of libraries that others have, too."""
    _, pages, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def replicas(deployment):
    """How many run, as Serve says."""
    from ray import serve

    states = serve.status().applications["enhance"].deployments[deployment].replica_states
    return states.get("RUNNING", 0)


class Load:
    """Clients that ask one thing after the other, and compare each answer with that of an idle endpoint."""

    def __init__(self, url, clients=CLIENTS, seconds=(2, 5, 10, 30, 60), modes=("denoise", "enhance")):
        self.url = url
        self.statuses = []
        self.latencies = []
        self.lost = []
        self.wrong = []
        self.audio_seconds = 0.0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._bodies = {length: recording(length) for length in seconds}
        self._kinds = list(itertools.product(seconds, modes))
        self._expected = {kind: samples(self._ask(*kind, TOKENS[0]).content)[0] for kind in self._kinds}
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)]

    def __enter__(self):
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.elapsed = time.monotonic() - self._started

    def _ask(self, seconds, mode, token):
        return httpx.post(
            f"{self.url}/v1/{mode}",
            params={"format": "wav"},
            content=self._bodies[seconds],
            headers={"Authorization": f"Bearer {token}"},
            timeout=600,
        )

    def _run(self, number):
        order = random.Random(number)
        while not self._stop.is_set():
            kind = order.choice(self._kinds)
            began = time.monotonic()
            try:
                answer = self._ask(*kind, TOKENS[number])
            except httpx.HTTPError as error:
                with self._lock:
                    self.lost.append((kind, repr(error)))
                continue
            spent = time.monotonic() - began
            with self._lock:
                self.statuses.append(answer.status_code)
            if answer.status_code == 200:
                self._check(kind, answer.content, spent)
            elif answer.status_code in (429, 503) and "Retry-After" in answer.headers:
                self._stop.wait(order.uniform(0.5, 1.5) * float(answer.headers["Retry-After"]))
            else:
                self.lost.append((kind, answer.status_code, answer.text[:200]))

    def _check(self, kind, content, spent):
        answer, expected = samples(content)[0], self._expected[kind]
        same = answer.shape == expected.shape
        # Segments of several requests share a batch, which rounds otherwise.
        distance = float(np.sqrt(np.mean((answer - expected) ** 2))) if same else float("inf")
        with self._lock:
            self.latencies.append((kind, spent))
            self.audio_seconds += kind[0]
            if distance > 2e-3:
                self.wrong.append((kind, distance))

    def compare(self, tally):
        """Count requests without an answer, and answers that are others than those of an idle endpoint."""
        print(f"  lost: {self.lost[:3]}, wrong: {self.wrong[:3]}")
        tally(lost=len(self.lost), torn=len(self.wrong))

    def tell(self):
        times = np.array([spent for _, spent in self.latencies])
        tally = {status: self.statuses.count(status) for status in sorted(set(self.statuses))}
        print(
            f"\n{self.elapsed:.0f} s: answers {tally},"
            f" {self.audio_seconds / self.elapsed:.2f} s of audio a second,"
            f" p50 {np.percentile(times, 50):.1f} s, p99 {np.percentile(times, 99):.1f} s"
        )
        for mode in ("denoise", "enhance"):
            per = [spent / kind[0] for kind, spent in self.latencies if kind[1] == mode]
            print(
                f"  {mode}: {len(per)} answers, median {np.median(per):.2f} s of waiting per second of audio"
            )


@pytest.mark.drill
def test_sixteen_clients_for_three_minutes(serving, tally):
    url = serving(ARGS)
    sizes = []
    with Load(url) as load:
        for second in range(180):
            time.sleep(1)
            if second % 10 == 9:
                sizes.append(memory())
    load.tell()
    for name in sizes[0]:
        print(f"  {name}: MB " + " ".join(f"{size[name] / 1e6:.0f}" for size in sizes))

    load.compare(tally)
    assert set(load.statuses) <= {200, 429, 503}
    assert load.statuses.count(200) > 30
    for name in sizes[0]:
        early, late = max(s[name] for s in sizes[3:9]), max(s[name] for s in sizes[-6:])
        assert late < 1.15 * early + 30e6


@pytest.mark.drill(
    "all replicas of the denoiser, then of the enhancer, among 300 requests and stalled uploads"
)
def test_killed_replicas_cost_no_accepted_request(serving, tally):
    """Three times as many clients as there are places."""
    url = serving({**ARGS, "limits": {"requests": 4, "idle_seconds": 20}})
    address = httpx.URL(url)
    back = {}
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Load(url, clients=12, seconds=(2, 10, 40)))
        for number in range(4):
            connection = socket.create_connection((address.host, address.port), timeout=60)
            stack.enter_context(connection)
            head = f"POST /v1/denoise HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS[number]}\r\n"
            connection.sendall(f"{head}Content-Length: 9999\r\n\r\nRIFF".encode())
        for enough, name in ((100, "DenoiserDeployment"), (200, "EnhancerDeployment"), (300, None)):
            until(lambda enough=enough: len(load.statuses) + len(load.lost) >= enough, seconds=400)
            if name is None:
                break
            for pid in pids(name):
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda name=name: pids(name) and replicas(name), seconds=60)
            back[name] = time.monotonic() - killed
    load.tell()
    print("  back after", {name: f"{seconds:.0f} s" for name, seconds in back.items()})

    load.compare(tally)
    assert set(load.statuses) <= {200, 429, 503}
    assert load.statuses.count(200) > 30


@pytest.mark.drill("every replica, by a redeploy")
def test_a_redeploy_under_load_fails_nothing(serving, tally):
    url = serving(ARGS)
    with Load(url, clients=6, seconds=(2, 10, 40)) as load:
        time.sleep(10)
        old = {name: pids(name) for name in ("IngressDeployment", "DenoiserDeployment", "EnhancerDeployment")}
        changed = {**ARGS, "limits": {"requests": 13}}  # all three have it
        serving(changed)
        time.sleep(20)
        new = {name: pids(name) for name in old}
    load.tell()

    load.compare(tally)
    assert set(load.statuses) == {200}
    assert all(set(old[name]).isdisjoint(new[name]) for name in old)


@pytest.mark.drill
def test_ten_minutes_are_answered_while_they_are_computed(serving):
    url = serving(ARGS)
    body = recording(600, channels=2)
    idle = memory()["IngressDeployment"]
    most = idle
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.1):
            most = max(most, memory()["IngressDeployment"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    size = 0
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    with httpx.stream("POST", f"{url}/v1/denoise", content=body, headers=headers, timeout=600) as answer:
        assert answer.status_code == 200
        for chunk in answer.iter_bytes():
            first = time.monotonic() - began if not size else first
            size += len(chunk)
    total = time.monotonic() - began
    done.set()
    watcher.join()
    print(
        f"\n{len(body) / 1e6:.0f} MB, 600 s, 2 channels: first bytes after {first:.1f} s,"
        f" all after {total:.1f} s,"
        f" ingress {idle / 1e6:.0f} MB idle, {most / 1e6:.0f} MB at most"
    )

    assert first < 0.5 * total
    assert most - idle < 300e6


def load_sleeping(settings, denoiser_only):
    """A model that takes 0.2 s for anything, and changes nothing."""
    return Enhancer(_Slow(), device="cpu", precision="fp32")


class _Slow(torch.nn.Module):
    def forward(self, rows):
        time.sleep(0.2)
        return rows


@pytest.mark.drill
def test_replicas_follow_the_load(serving, tally):
    stage = {"replicas": [1, 4], "cpus": 0.1, "batch_size": 1, "target_ongoing": 2, "upscale_seconds": 2}
    args = {
        **ARGS,
        "denoiser": {**stage, "downscale_seconds": 5},
        "enhancer": {"cpus": 0.1},
        "limits": {"requests": 64, "queue": 500},
        "model": str(Path(audio.__file__).parents[1] / "weights" / "denoiser"),
    }
    url = serving(args, load=load_sleeping)
    assert replicas("DenoiserDeployment") == 1
    began = time.monotonic()
    seen = [(0.0, 1)]

    def note():
        count = replicas("DenoiserDeployment")
        if count != seen[-1][1]:
            seen.append((time.monotonic() - began, count))
        return count

    with Load(url, seconds=(2,), modes=("denoise",)) as load:
        while note() < 4:
            assert time.monotonic() - began < 120
            time.sleep(0.2)
        time.sleep(5)
    ended = time.monotonic() - began
    while note() > 1:
        assert time.monotonic() - began < 240
        time.sleep(0.2)
    print(
        f"\nload until {ended:.0f} s; replicas: " + ", ".join(f"{count} at {at:.0f} s" for at, count in seen)
    )

    load.compare(tally)
    assert set(load.statuses) <= {200, 429, 503}
