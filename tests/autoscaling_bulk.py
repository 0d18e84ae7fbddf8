"""A bulk job on a cluster that begins as a head without a core; test_autoscaling.py runs it.

Run it where no other Ray is. Workers are Ray's fake nodes: real raylets, which its autoscaler starts and
ends as it would machines. Prints as JSON how many workers there were, and when.
"""

import json
import sys
import threading
import time

import bulk_corpus
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster

from enhance_ray.cluster.bulk import BulkConfig, driver
from enhance_ray.settings import trees

MOST = 3


class Cluster(AutoscalingCluster):
    """With its settings written out and its provider called external: Ray's wheel lacks files of this one."""

    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False, **overrides):
        lists = (
            "cluster_synced_files rsync_exclude rsync_filter initialization_commands setup_commands"
            " head_setup_commands worker_setup_commands head_start_ray_commands worker_start_ray_commands"
        )
        overrides.pop("config", None)
        return {
            "cluster_name": "fake",
            "max_workers": MOST,
            "upscaling_speed": 1.0,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in lists.split()},
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
                "launch_multiple": True,
                "head_node_id": FAKE_HEAD_NODE_ID,
            },
            "available_node_types": {
                **worker_node_types,
                "ray.head.default": {"resources": head_resources, "node_config": {}, "max_workers": 0},
            },
            "head_node_type": "ray.head.default",
            **overrides,
        }


def main():
    source, target = sys.argv[1:]
    workers = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": MOST}
    cluster = Cluster(
        head_resources={"CPU": 0},
        worker_node_types={"cpu": workers},
        idle_timeout_minutes=0.2,
        autoscaler_v2=True,
    )
    cluster.start()
    ray.init("auto", logging_level="error", log_to_driver=False)
    began = time.monotonic()
    seen = []

    def count():
        alive = sum(node["Alive"] for node in ray.nodes()) - 1
        if not seen or seen[-1][1] != alive:
            seen.append((round(time.monotonic() - began, 1), alive))
        return alive

    ended = threading.Event()

    def watch():
        while not ended.wait(0.5):
            count()

    watcher = threading.Thread(target=watch)
    watcher.start()
    tree = {"input": source, "output": target, "actors": [1, MOST], "cpus_per_actor": 2, "files_per_part": 2}
    settings = trees.from_tree(BulkConfig, tree, where="bulk")
    outcome = driver.run(settings, load=bulk_corpus.load_slowly, fingerprint="slow")
    done = round(time.monotonic() - began, 1)
    while count() > 0 and time.monotonic() - began < 300:
        time.sleep(0.5)
    ended.set()
    watcher.join()
    result = {"workers": seen, "done": done, "status": outcome.status, "records": outcome.report.done}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
