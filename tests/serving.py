"""What tests of the endpoint share."""

import subprocess
import time

import numpy as np

from enhance_ray import audio


def samples(content):
    """Samples (channel, time) of an answer, and what it is."""
    with audio.decode("answer", data=content) as decoder:
        return np.concatenate(list(decoder), axis=1), decoder.info


def pids(deployment):
    """Processes of a deployment's replicas, by what Ray calls them."""
    command = ["pgrep", "-f", f"ray::ServeReplica.*{deployment}"]
    return [int(pid) for pid in subprocess.run(command, capture_output=True, check=False).stdout.split()]


def until(condition, seconds=30, tell=lambda: "it did not come to pass"):
    """Wait for ``condition``, and for no longer; ``tell`` says what is wrong where it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, tell()
        time.sleep(0.1)
