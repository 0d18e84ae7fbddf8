"""Three hosts, by the commands that people type: up, jobs from outside, a host cut off, endpoint, down."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import bulk_corpus
import httpx
import pyarrow as pa
import pytest
import yaml
from hosts import Hosts, folder_for_hosts, require
from serving import until

from enhance_ray import audio

pytestmark = pytest.mark.timeout(1500)

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "noisy" / "kathleen_helicopter.flac"


@pytest.fixture(scope="module")
def place():
    with folder_for_hosts("hosts") as folder:
        yield folder


@pytest.fixture(scope="module")
def outside(place):
    """Runs commands as someone at a machine outside the cluster, who has its token."""
    home = place / "outside"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    class Outside:
        def __call__(self, command, expect=0, timeout=600):
            began = time.monotonic()
            done = subprocess.run(
                ["bash", "-c", command],
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                env=environment,
                timeout=timeout,
            )
            print(
                f"\n$ {command[:150]}   -> {done.returncode} after {time.monotonic() - began:.0f} s",
                flush=True,
            )
            assert done.returncode == expect, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
            return done.stdout

        def start(self, command):
            return subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    return Outside()


@pytest.fixture(scope="module")
def archive(place):
    """Recordings on storage that all hosts share."""
    bulk_corpus.write(place / "shared" / "in", 40, 2, longest=120.0)


@pytest.fixture(scope="module")
def cluster(place, outside):
    """Three hosts, made one cluster by `ray up` and the file that users have."""
    require()
    with Hosts(3, place) as hosts:
        tree = yaml.safe_load((ROOT / "configs" / "cluster-local.yaml").read_text())
        tree["provider"] |= {"head_ip": hosts.address(1), "worker_ips": [hosts.address(2), hosts.address(3)]}
        tree["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
        # The hosts reach nothing to install from: the environment is there, as if made before.
        tree["setup_commands"] = [command for command in tree["setup_commands"] if "uv " not in command]
        for number in (1, 2, 3):
            hosts.run(number, f"ln -s {Path(sys.executable).parents[1]} ~/env")
        # A host that is cut off is noticed in seconds, not in half a minute.
        hasty = "RAY_health_check_period_ms=1000 RAY_health_check_failure_threshold=5 "
        tree["head_start_ray_commands"] = [
            command.replace("ray start", hasty + "ray start") for command in tree["head_start_ray_commands"]
        ]
        file = place / "cluster.yaml"
        file.write_text(yaml.safe_dump(tree))
        outside("ray get-auth-token --generate")
        outside(f"ray up -y {file}")
        tunnel = outside.start(f"ray dashboard {file}")
        try:
            await_nodes(outside, 3)
            yield hosts, file
        finally:
            tunnel.terminate()
            outside(f"ray down -y {file}")


def await_nodes(outside, count, seconds=120):
    end = time.monotonic() + seconds
    while True:
        try:
            listed = outside("ray list nodes --address http://127.0.0.1:8265 --format json")
            alive = [node for node in json.loads(listed) if node["state"] == "ALIVE"]
        except (AssertionError, ValueError):
            alive = []
        if len(alive) == count:
            return
        assert time.monotonic() < end, f"{len(alive)} nodes"
        time.sleep(2)


SUBMIT = "ray job submit --address http://127.0.0.1:8265 --working-dir ."


def bulk(place, name):
    return (
        f"{SUBMIT} -- python jobs/enhance_bulk.py --input {place}/shared/in --output {place}/shared/{name}"
        " --set actors=2 --set cpus_per_actor=1 --set flush_seconds=2 --set files_per_part=8"
    )


def outputs(folder):
    """Complete files, each decodable to its end; and the records."""
    records = [
        row
        for path in folder.glob("_enhance_ray/*/records/*.parquet")
        for row in pa.parquet.read_table(path).to_pylist()
    ]
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and "_enhance_ray" not in path.parts and not path.name.startswith(".enhance-ray-")
    ]
    for path in files:
        with audio.decode(str(path)) as decoder:
            for _ in decoder:
                pass
    return files, records


def compare(files, records, tally):
    """Count what is lost or doubled of 40 recordings, two of which cannot be used."""
    uris = {record["uri"] for record in records}
    tally(lost=38 - len(files) + 40 - len(uris), doubled=len(records) - len(uris))


@pytest.mark.drill("a host of three, its link cut")
def test_a_bulk_job_from_outside_outlives_a_host(cluster, archive, outside, place, tally):
    hosts, _ = cluster
    running = outside.start(bulk(place, "out"))
    until(lambda: len(outputs(place / "shared" / "out")[0]) >= 3, 300)
    at_work = [number for number in (2, 3) if hosts.run(number, "pgrep -f [r]ay::MapWorker || true")]
    print(f"actors on hosts {at_work}; host {at_work[-1]} is cut off")
    hosts.cut(at_work[-1])
    text = running.communicate(timeout=600)[0]
    hosts.mend(at_work[-1])

    assert running.returncode == 1, text[-5000:]  # two files cannot be used
    files, records = outputs(place / "shared" / "out")
    compare(files, records, tally)
    assert sum(record["status"] == "failed" for record in records) == 2


@pytest.mark.drill("a job, by `ray job stop`")
def test_a_job_that_is_stopped_ends_cleanly_and_goes_on(cluster, archive, outside, place, tally):
    target = place / "shared" / "stopped"
    wait = """--runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}'"""
    named = f"submit --no-wait --submission-id stopme {wait}"
    assert "stopme" in outside(bulk(place, "stopped").replace("submit", named, 1))
    until(lambda: len(outputs(target)[0]) >= 3, 300)
    outside("ray job stop --address http://127.0.0.1:8265 stopme")
    files, _ = outputs(target)
    assert 3 <= len(files) < 38
    log = outside("ray job logs --address http://127.0.0.1:8265 stopme")
    assert '"status": "interrupted"' in log
    status = outside("ray job status --address http://127.0.0.1:8265 stopme")
    print(status)
    assert "stopped" in status.lower()
    early = {path: path.stat().st_mtime_ns for path in files}

    outside(bulk(place, "stopped"), expect=1)
    files, records = outputs(target)
    compare(files, records, tally)
    again = sum(path.stat().st_mtime_ns != early[path] for path in early)
    print(f"files done before the stop: {len(early)}, of which done again: {again}")
    assert again <= 4
    assert not list(target.rglob(".enhance-ray-*"))  # what actors had open when they were ended


@pytest.mark.drill
def test_training_from_outside(cluster, outside, place):
    text = outside(
        f"{SUBMIT} -- python jobs/train.py configs/smoke/train_denoiser.yaml --set cluster.workers=2"
        f" --set cluster.cpus_per_worker=0.5 --set cluster.storage={place}/shared/runs"
    )
    assert "checkpoint" in text
    assert list((place / "shared" / "runs").rglob("model.safetensors"))


@pytest.mark.drill
def test_the_endpoint_on_every_host(cluster, outside, place):
    hosts, _ = cluster
    tree = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    args = tree["applications"][0]["args"]
    args |= {"ingress_replicas": 2, "ingress_cpus": 0.2, "denoiser": {"replicas": 2, "cpus": 0.7},
             "enhancer": {"replicas": 1, "cpus": 0.7}}  # fmt: skip
    (place / "serve.yaml").write_text(yaml.safe_dump(tree))
    outside(f"serve deploy --address http://127.0.0.1:8265 {place}/serve.yaml")

    def ready(number):
        try:
            return httpx.get(f"http://{hosts.address(number)}:8000/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    until(lambda: ready(2) and ready(3), 180)
    for number in (2, 3):
        answer = httpx.post(
            f"http://{hosts.address(number)}:8000/v1/enhance", content=SAMPLE.read_bytes(), timeout=120
        )
        assert answer.status_code == 200
        with audio.decode("answer", data=answer.content) as decoder:
            assert sum(block.shape[1] for block in decoder) == 44_100 * audio.probe(str(SAMPLE)).seconds
    outside("serve shutdown -y --address http://127.0.0.1:8265")
