"""Restore a bucket on a Ray cluster: resumable, with a record of every file and a bill.

    python jobs/enhance_bulk.py --input recordings --output restored
    python jobs/enhance_bulk.py configs/bulk.yaml --plan-only --speed 200
    ray job submit --working-dir . -- python jobs/enhance_bulk.py configs/bulk.yaml \\
        --input s3://archive/shows --output s3://archive/restored --set actors=8 --set gpus_per_actor=1

The last line of standard output is JSON: how the run ended, and the job in numbers.
"""

from __future__ import annotations

import sys

from enhance_ray.cluster.bulk import command

if __name__ == "__main__":
    sys.exit(command.main(description=__doc__))
