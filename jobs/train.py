"""Train a stage on a Ray cluster.

    python jobs/train.py configs/smoke/train_denoiser.yaml --set cluster.workers=2
    ray job submit --working-dir . -- python jobs/train.py configs/train_flow.yaml \\
        --set corpus.root=s3://corpus --set cluster.storage=s3://runs --set cluster.gpus_per_worker=1

The same command goes on with a run that was stopped. The last line of standard output is JSON: the newest and
the best checkpoint, and the scores of the last validation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys

from enhance_ray.cli.common import write_line
from enhance_ray.cluster import session, train
from enhance_ray.errors import EnhanceRayError
from enhance_ray.settings import trees


def main() -> int:
    """Run the job; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--init-from", metavar="MODEL", help="fine-tune: model folder, run folder or hf://")
    parser.add_argument("--address", help="of the cluster; by default RAY_ADDRESS, or this machine alone")
    parsed = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    overrides = parsed.set + ([f"init_from={parsed.init_from}"] if parsed.init_from else [])
    try:
        settings = trees.load(train.ClusterTrainConfig, parsed.config, overrides)
        session.connect(parsed.address)
        result = train.fit(settings)
    except EnhanceRayError as error:
        sys.stderr.write(f"train: {error}\n")
        return 2
    write_line(json.dumps(dataclasses.asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
