"""One Ray cluster and one S3 server for all tests here, both on loopback."""

import contextlib
import os
import uuid
from pathlib import Path

import pytest
from s3_server import make_bucket, s3_server
from serving import until

# Before Ray is imported: its processes inherit them. Without hasty health checks, a test would wait half a
# minute until a node that was killed counts as dead.
os.environ.update(
    # What Ray does on desktops: every address is loopback's.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="disabled",
    # Otherwise they give way to the tests beside them, and whoever waits for them waits minutes.
    RAY_worker_niceness="0",
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


@pytest.fixture(scope="session")
def storage_server(tmp_path_factory):
    """A real S3 server with an empty bucket; credentials are in the environment, as users have them."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        os.environ.update(server.environment)
        make_bucket()
        yield server


@pytest.fixture(scope="session")
def s3(storage_server):
    """URL of its bucket."""
    return "s3://tests"


@pytest.fixture(scope="session")
def ray_cluster(s3):
    """A head and nothing else, to which tests may add nodes; logical CPUs, more than the machine has."""
    import ray
    from ray.cluster_utils import Cluster

    # The tests' folder is what makes their functions importable in workers, which inherit it. A runtime
    # environment would say so, too, and leave the workers that Ray starts beforehand without a use.
    path = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    os.environ["ENHANCE_RAY_TESTS"] = mark = uuid.uuid4().hex
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 6,
            "object_store_memory": 200 * 2**20,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
        },
    )
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    # What other tests start, or this process for itself, is no part of the cluster.
    del os.environ["ENHANCE_RAY_TESTS"]
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    until(lambda: not processes_with(mark), seconds=20, tell=lambda: processes_with(mark))


def processes_with(text):
    """Processes, this one apart, that were started with ``text`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
            if text.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append((folder.name, (folder / "cmdline").read_bytes().replace(b"\0", b" ")[:100]))
    return found


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
