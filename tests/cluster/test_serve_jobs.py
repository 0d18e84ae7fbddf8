"""Jobs of the endpoint and what they remember, without Ray: a folder for the storage, and no model."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.requests import HTTPConnection

from enhance_ray.cluster.serve import jobs, models, reading
from enhance_ray.cluster.serve.api import Gate
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.cluster.serve.settings import JobsConfig, ServeConfig
from enhance_ray.engine.framing import Framing
from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import EnhanceOptions

SHOWS = "s3://tests/shows/"


@pytest.fixture
def replica(tmp_path, monkeypatch):
    """Starts replicas on one folder, whose recordings end when ``restored`` is set."""
    restored = threading.Event()

    def restore(self, running, recording):
        while not restored.wait(0.01):
            if running.cancelled.is_set():
                raise jobs._Cancelled

    monkeypatch.setattr(jobs, "_NOTE_PAUSE", 0.05)
    monkeypatch.setattr(jobs, "_NOTE_PATIENCE", 0.0)
    monkeypatch.setattr(jobs.JobsDeployment.func_or_class, "_restore", restore)

    def start():
        settings = ServeConfig(jobs=JobsConfig(folder=str(tmp_path), prefixes=(SHOWS,)))
        replica = jobs.JobsDeployment.func_or_class(settings, None, None)
        replica._stages = SimpleNamespace(models=lambda *_, **__: None)
        return replica

    start.restored = restored
    start.folder = tmp_path
    yield start
    restored.set()


def order(*names, **others):
    pairs = [jobs.RecordingPaths(input=f"{SHOWS}{name}.wav", output=f"{SHOWS}{name}.flac") for name in names]
    return jobs.Order(recordings=pairs, replace=True, **others)


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_order_that_is_sent_twice_under_one_name_is_one_job_while_it_runs_and_when_it_is_done(replica):
    kept = replica()
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(kept._submit, [order("a", id="of-the-client")] * 8))
    assert {job.id for job in sent} == {"of-the-client"}
    assert [path.name for path in (replica.folder / "open").iterdir()] == ["of-the-client.json"]
    with pytest.raises(RequestError, match="another job of this name"):
        kept._submit(order("b", id="of-the-client"))

    replica.restored.set()
    wait_for(lambda: kept._look("of-the-client").status == "done")

    assert kept._submit(order("a", id="of-the-client")).status == "done"
    with pytest.raises(RequestError, match="another job of this name"):
        kept._submit(order("b", id="of-the-client"))


def test_a_deleted_job_stays_deleted_at_every_replica(replica):
    old = replica()
    job = old._submit(order("a"))
    new = replica()  # goes on with it, while the old one lives
    assert new._look(job.id).status in ("waiting", "running")

    new._delete(job.id)
    replica.restored.set()  # the old one ends its work, and notes it
    wait_for(lambda: job.id not in old._running)

    for each in (old, new, replica()):
        with pytest.raises(RequestError, match="no such job"):
            each._look(job.id)
    assert not list((replica.folder / "done").glob("*"))
    with pytest.raises(RequestError, match="was deleted"):
        new._submit(order("a", id=job.id))


def test_what_a_storage_does_not_take_is_noted_when_it_does(replica, caplog):
    kept = replica()
    job = kept._submit(order("a"))
    write, away = kept._folder.write, threading.Event()

    def failing(name, data):
        if not away.is_set():
            raise OSError("no answer")
        write(name, data)

    kept._folder.write = failing
    replica.restored.set()
    wait_for(lambda: "noted later" in caplog.text)
    assert (replica.folder / "open" / f"{job.id}.json").exists()

    away.set()

    wait_for((replica.folder / "done" / f"{job.id}.json").exists)
    assert kept._look(job.id).status == "done"


def test_a_model_at_work_is_healthy_at_once_and_one_that_gives_nan_is_not():
    running, go = threading.Event(), threading.Event()

    class Busy:
        framing = Framing(1, 1)

        def run(self, rows, options, starts, cuts, *, denoised=None):
            if len(rows) == 3:
                running.set()
                go.wait(10)
            return rows * self.gain

        gain = 1.0

    async def check():
        work = models.Work(np.zeros((3, 8), np.float32), 0, EnhanceOptions(), np.full(3, np.inf, np.float32))
        batch = asyncio.ensure_future(model.run([work]))
        await asyncio.to_thread(running.wait, 10)
        started = time.monotonic()
        await model.check()
        spent = time.monotonic() - started
        go.set()
        await batch
        await model.check()
        Busy.gain = float("nan")
        with pytest.raises(FloatingPointError):
            await model.check()
        return spent

    model = models._Model(ServeConfig(), lambda *_: Busy(), denoiser_only=True)
    assert asyncio.run(check()) < 0.1


@pytest.mark.parametrize(
    ("peer", "heard", "client"),
    [
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),  # says of itself what it likes
        ("10.0.0.2", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.2", "192.0.2.1, 198.51.100.7, 10.0.0.3", "198.51.100.7"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("10.0.0.2", "nonsense", "nonsense"),
    ],
)
def test_requests_are_counted_for_whom_a_known_proxy_names(peer, heard, client):
    scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", heard.encode())]}

    assert reading.client_of(ServeConfig(proxies=("10.0.0.0/8",)), HTTPConnection(scope)) == client
    assert reading.client_of(ServeConfig(), HTTPConnection(scope)) == peer
    with pytest.raises(ConfigError, match=r"proxies\[0\]: expected addresses"):
        ServeConfig(proxies=("proxy.example",))


def test_a_gate_counts_by_client_and_in_all():
    gate = Gate(1, 2)
    with gate("a"), gate("b"):
        assert gate.total() == 2
        with pytest.raises(RequestError, match="of yours") as own:
            gate.check("a")
        with pytest.raises(RequestError, match="all places") as all_taken, gate("c"):
            pass
    assert (own.value.status, all_taken.value.status) == (429, 503)
    assert gate.total() == 0
