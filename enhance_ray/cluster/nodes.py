"""What the cluster knows of its machines. Imports Ray alone: small actors that ask this start at once."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def node_is_alive(node: str) -> bool:
    """Whether the machine with this ID is part of the cluster and answers."""
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def end_process(node: str, pid: int) -> None:
    """Have one of Ray's processes on a machine killed, without waiting for it.

    A process that is stopped (SIGSTOP, a debugger, a driver that hangs) does not obey `ray.kill`.
    """
    if node_is_alive(node):
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(pid)


def _kill(pid: int) -> None:
    command = Path(f"/proc/{pid}/cmdline")
    with contextlib.suppress(OSError):
        if command.exists() and b"ray::" not in command.read_bytes():
            return  # the process has ended, and the number is another's
        os.kill(pid, signal.SIGKILL)
