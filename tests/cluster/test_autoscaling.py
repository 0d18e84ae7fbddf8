"""A cluster that begins as a head without a core: it grows with a bulk job, and shrinks after it."""

import json
import sys
from pathlib import Path

import bulk_corpus
import pytest
from hosts import Hosts, folder_for_hosts, require

from enhance_ray import audio

pytestmark = [pytest.mark.drill, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place():
    with folder_for_hosts("autoscaling") as folder:
        yield folder


def test_a_cluster_grows_with_a_bulk_job_and_shrinks_after_it(place, tally):
    require()
    bulk_corpus.write(place / "shared" / "in", 48, 0, longest=3.0)
    # On a host of its own: when the cluster is shut down, Ray ends every process of its that it sees.
    with Hosts(1, place) as hosts:
        variables = {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "PYTHONPATH": ROOT / "tests",
        }
        names = " ".join(f"{name}={value}" for name, value in variables.items())
        program = f"{sys.executable} {ROOT}/tests/autoscaling_bulk.py {place}/shared/in {place}/shared/out"
        path = f"PATH={Path(sys.executable).parent}:$PATH"
        text = hosts.run(1, f"cd {ROOT} && {path} {names} timeout 300 {program} 2>&1")
    found = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    print(f"\nworkers: {found['workers']}, job done at {found['done']} s")

    counts = [count for _, count in found["workers"]]
    assert counts[0] == 0
    assert max(counts) == 3
    assert counts[-1] == 0
    assert found["status"] == "complete"
    outputs = [path for path in (place / "shared" / "out").glob("show-*/*") if path.is_file()]
    tally(lost=48 - len(outputs), doubled=found["records"] - 48)
    for path in outputs:
        with audio.decode(str(path)) as decoder:
            assert sum(block.shape[1] for block in decoder) > 0
