"""Score systems on a corpus' held-out part, or on two folders, on a Ray cluster.

    python jobs/evaluate.py configs/evaluate.yaml --set model=runs/mine --set corpus.root=data
    ray job submit --working-dir . -- python jobs/evaluate.py configs/evaluate.yaml \\
        --set clean=s3://test/clean --set noisy=s3://test/noisy --set cluster.actors=8 \\
        --set cluster.gpus_per_actor=1 --set cluster.output=s3://runs/rows --set cluster.report=report.html

Prints a table, and as the last line of standard output the means as JSON. Exit status: 0 all went well,
1 some pairs could not be read (listed), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys

from enhance_ray import evaluation
from enhance_ray.cli.common import write_line
from enhance_ray.cluster import evaluate, session
from enhance_ray.errors import EnhanceRayError
from enhance_ray.settings import trees


def main() -> int:
    """Run the job; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, see configs/evaluate.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--address", help="of the cluster; by default RAY_ADDRESS, or this machine alone")
    parsed = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        settings = trees.load(evaluate.EvaluateJobConfig, parsed.config, parsed.set)
        session.connect(parsed.address)
        outcomes = evaluate.evaluate(settings)
    except EnhanceRayError as error:
        sys.stderr.write(f"evaluate: {error}\n")
        return 2
    failed = [outcome for outcome in outcomes if outcome.failed is not None]
    for outcome in failed:
        sys.stderr.write(f"failed: {outcome.item.name}: {outcome.failed}\n")
    rows = [row for outcome in outcomes for row in outcome.rows]
    write_line(f"{evaluation.table(rows)}\n{json.dumps(evaluation.means(rows))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
