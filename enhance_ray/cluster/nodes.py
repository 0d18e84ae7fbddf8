"""What the cluster knows of its machines. Imports Ray alone: small actors that ask this start at once."""

from __future__ import annotations

import ray


def node_is_alive(node: str) -> bool:
    """Whether the machine with this ID is part of the cluster and answers."""
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())
