"""Connecting to a Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path

import ray

from enhance_ray.audio import is_remote

_PASSED_ON = ("AWS_", "GOOGLE_", "AZURE_", "ENHANCE_RAY_", "HF_", "WANDB_", "MLFLOW_")
"""Prefixes of environment variables that workers need as the driver has them: where storage is, and keys."""


def in_job() -> bool:
    """Whether this process belongs to a submitted job, of whose folder every node has a copy."""
    return "working_dir" in (ray.get_runtime_context().runtime_env or {})


def path_for_workers(path: str) -> str:
    """``path`` as processes of the cluster find it.

    In a submitted job they start in a copy of the job's folder, so that relative paths stay; otherwise they
    start elsewhere, and what is relative to this process is made absolute.
    """
    if in_job() or is_remote(path) or not path:
        return path
    return str(Path(path).resolve())


def output_place(path: str) -> str:
    """A URI as it is, a path made absolute: what a job's folder holds goes with the job."""
    return path if is_remote(path) else str(Path(path).resolve())


def enter_job_folder() -> None:
    """Go back to where processes of a job start: Ray Train's workers are sent to a folder of their run."""
    if in_job():
        # Ray puts the copy of the job's folder first, so that its code is found.
        os.chdir(os.environ["PYTHONPATH"].split(os.pathsep)[0])


def connect(address: str | None = None) -> None:
    """Join the cluster at ``address``, or start one of this machine.

    Does nothing in a process that is connected already.

    Args:
        address: "auto", host:port or ray://...; None takes RAY_ADDRESS (as in a submitted job), and without
            it starts a cluster of this machine that ends with this process.
    """
    if ray.is_initialized():
        return
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    ray.init(
        address=address or os.environ.get("RAY_ADDRESS") or "local",
        runtime_env={"env_vars": variables},
    )
