"""Score a model on a corpus' held-out part, on a Ray cluster.

    python jobs/evaluate.py configs/evaluate.yaml --set model=runs/mine --set corpus.root=data
    ray job submit --working-dir . -- python jobs/evaluate.py configs/evaluate.yaml \\
        --set corpus.root=s3://corpus --set cluster.actors=8 --set cluster.gpus_per_actor=1

Prints a table, and as the last line of standard output the means as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys

from enhance_ray import config, evaluation
from enhance_ray.cluster import evaluate, session
from enhance_ray.errors import EnhanceRayError


def main() -> int:
    """Run the job; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, see configs/evaluate.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--address", help="of the cluster; by default RAY_ADDRESS, or this machine alone")
    parsed = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        settings = config.load(evaluate.EvaluateJobConfig, parsed.config, parsed.set)
        session.connect(parsed.address)
        rows = evaluate.evaluate(settings)
    except EnhanceRayError as error:
        sys.stderr.write(f"evaluate: {error}\n")
        return 2
    sys.stdout.write(f"{evaluation.table(rows)}\n{json.dumps(evaluation.means(rows))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
