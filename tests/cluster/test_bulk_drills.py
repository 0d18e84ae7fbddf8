"""What a bulk job survives: the loss of an actor, a machine, its driver, its storage, and files that kill.

In each all outputs are there, equal to what one machine writes, and each file has one record. Printed with
`-s`: how much audio was computed twice.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import bulk_corpus
import fsspec
import pytest
import ray
from bulk_corpus import contents, job_state, load_with_poison, records
from s3_server import make_bucket, s3_server

from enhance_ray import cli
from enhance_ray.cluster.bulk import BulkConfig, driver, run

pytestmark = pytest.mark.timeout(1800)
COUNT, BROKEN = 60, 6


@pytest.fixture(scope="module")
def recordings(s3, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    whole, broken = bulk_corpus.write(folder, COUNT, BROKEN, shortest=4, longest=60)
    bulk_corpus.upload(folder, f"{s3}/drills/in")
    return folder, whole, broken


@pytest.fixture(scope="module")
def expected(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected")
    cli.main(["denoise", str(recordings[0]), str(out), "--quiet"])
    return {name: (out / name).read_bytes() for name in recordings[1]}


def settings(s3, name, **others):
    others = {"actors": 2, "flush_seconds": 2.0, "max_failed": None, "price_per_cpu_hour": 1.0, **others}
    return BulkConfig(input=f"{s3}/drills/in", output=f"{s3}/drills/{name}", **others)


def check(config, outcome, expected, tally, *, poison=0):
    assert outcome.status == "complete"
    compare(config, expected, COUNT + poison, tally)
    assert outcome.report.failed == BROKEN + poison
    again = outcome.report.seconds_computed - outcome.report.seconds
    print(f"\n{outcome.report.seconds:.0f} s of audio, {again:.0f} s computed again")


def compare(config, expected, inputs, tally):
    """Count outputs and records that are lost, doubled or torn."""
    found = contents(config.output)
    uris = [row["uri"] for row in records(job_state(config.output))]
    tally(
        lost=len(expected.keys() - found.keys()) + inputs - len({*uris}),
        doubled=len(uris) - len({*uris}) + len(found.keys() - expected.keys()),
        torn=sum(found[name] != expected[name] for name in expected.keys() & found.keys()),
    )


def actors(name="Worker"):
    """Processes of the pool, by what Ray calls them."""
    listed = subprocess.run(
        ["pgrep", "-f", f"ray::MapWorker.*{name}"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


def after(share, config, action):
    """Call ``action`` in a thread when the job has written ``share`` of its outputs."""

    def wait():
        storage, root = fsspec.url_to_fs(config.output)
        while True:
            storage.invalidate_cache()
            found = storage.find(root) if storage.exists(root) else []
            if sum("_enhance_ray" not in name for name in found) >= share * (COUNT - BROKEN):
                break
            time.sleep(0.3)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.drill("an actor")
def test_an_actor_is_killed(s3, ray_cluster, recordings, expected, tally):
    config = settings(s3, "actor")
    killer = after(0.4, config, lambda: os.kill(actors()[0], signal.SIGKILL))

    outcome = run(config)

    killer.join(1)
    assert outcome.report.deaths == 1
    check(config, outcome, expected, tally)


@pytest.mark.drill("a machine of three")
def test_a_machine_is_lost(s3, ray_cluster, recordings, expected, tally):
    nodes = [ray_cluster.add_node(num_cpus=3, object_store_memory=100 * 2**20) for _ in range(2)]
    ray_cluster.wait_for_nodes()
    config = settings(s3, "machine", actors=4, cpus_per_actor=3)
    lost = threading.Event()

    def lose():
        ray_cluster.remove_node(nodes[0], allow_graceful=False)
        lost.set()

    after(0.5, config, lose)
    try:
        # Two actors fit on the head, one on each of the others.
        outcome = run(config)
    finally:
        ray_cluster.remove_node(nodes[1])

    assert lost.is_set()
    assert outcome.report.deaths == 1
    check(config, outcome, expected, tally)


@pytest.mark.drill("the driver")
def test_the_driver_is_killed_and_the_command_run_again(s3, ray_cluster, recordings, expected, tally):
    config = settings(s3, "driver")
    code = f"""
import ray, sys
from enhance_ray.cluster.bulk import BulkConfig, driver
driver._USAGE_SECONDS = 1
ray.init(address={ray_cluster.address!r}, logging_level="error", log_to_driver=False)
driver.run(BulkConfig(input=sys.argv[1], output=sys.argv[2], actors=2, flush_seconds=2.0, max_failed=None))
"""
    command = [sys.executable, "-c", code, config.input, config.output]
    first = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    killer = after(0.4, config, first.kill)
    first.wait(300)
    assert first.returncode == -signal.SIGKILL
    killer.join(1)
    while actors():  # Ray ends them
        time.sleep(0.2)
    before = len(contents(config.output))

    outcome = run(config)

    assert before < COUNT - BROKEN
    assert outcome.report.runs == 2
    check(config, outcome, expected, tally)


@pytest.mark.drill("each process that opens one of two files")
def test_files_that_kill_are_isolated(s3, ray_cluster, recordings, expected, tally):
    config = settings(s3, "poison")
    storage = fsspec.filesystem("s3")
    for number in range(2):
        storage.pipe(f"tests/drills/in/show-{number}/poison-{number}.wav", b"RIFF")
    try:
        outcome = run(config, load=load_with_poison)
    finally:
        storage.rm([f"tests/drills/in/show-{number}/poison-{number}.wav" for number in range(2)])

    killed = [row["uri"] for row in records(job_state(config.output)) if row["code"] == "process_killed"]
    assert len(killed) == 2
    assert all("poison" in uri for uri in killed)
    check(config, outcome, expected, tally, poison=2)


@pytest.mark.drill("the storage, for 30 s")
def test_the_storage_is_away_for_half_a_minute(ray_cluster, recordings, expected, tmp_path, tally):
    """A server of its own, which this process and the actors are told of by the environment."""
    before = {name: os.environ.get(name) for name in os.environ if name.startswith("AWS_")}
    with s3_server(tmp_path) as server:
        os.environ.update(server.environment)
        fsspec.filesystem("s3").clear_instance_cache()
        try:
            make_bucket()
            bulk_corpus.upload(recordings[0], "s3://tests/drills/in")
            config = settings("s3://tests", "outage")
            away = threading.Event()

            def outage():
                server.stop()
                time.sleep(30)
                server.start()
                away.set()

            after(0.3, config, outage)
            load = _Load(server.environment)
            outcome = run(config, load=load)
            assert away.is_set()
            check(config, outcome, expected, tally)
        finally:
            os.environ.update({name: value for name, value in before.items() if value is not None})
            fsspec.filesystem("s3").clear_instance_cache()


class _Load:
    """Loads the packaged model in a process that is told of another storage first."""

    def __init__(self, environment):
        self.environment = environment

    def __call__(self, config):
        os.environ.update(self.environment)
        return driver.load_enhancer(config)


@pytest.mark.drill
def test_four_hundred_recordings(s3, ray_cluster, tmp_path, tally):
    folder, out = tmp_path / "in", tmp_path / "out"
    whole, _ = bulk_corpus.write(folder, 400, 20, shortest=1, longest=600, skew=12)
    bulk_corpus.upload(folder, f"{s3}/many/in")
    config = BulkConfig(input=f"{s3}/many/in", output=f"{s3}/many/out", actors=2, max_failed=None)

    started = time.monotonic()
    outcome = run(config)
    print(f"\n400 recordings, {outcome.report.seconds / 3600:.2f} h, in {time.monotonic() - started:.0f} s")
    print(json.dumps(outcome.report.stages))

    assert (outcome.report.done, outcome.report.failed) == (380, 20)
    assert cli.main(["denoise", str(folder), str(out), "--quiet"]) == 1
    compare(config, {name: (out / name).read_bytes() for name in whole}, 400, tally)
    rows = records(job_state(config.output))
    assert all(row["reason"] for row in rows if row["status"] == "failed")
    ray.get(ray.put(None))  # the cluster is as well as it was
