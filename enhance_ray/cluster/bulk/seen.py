"""Which of many inputs were there before, in 16 bytes for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def digests_of(versions: Iterable[tuple[str, str | None]]) -> np.ndarray:
    """16 bytes for each (uri, etag)."""
    texts = (f"{uri}\n{etag or ''}".encode() for uri, etag in versions)
    digests = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="S16")


class Seen:
    """Which digests were there before: sorted runs that are merged as they grow."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Take ``digests``; which of them are new, each once."""
        unique, first = np.unique(digests, return_index=True)
        known = np.zeros(len(unique), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            known |= run[places] == unique
        fresh = np.zeros(len(digests), bool)
        fresh[first[~known]] = True
        self._runs.append(unique[~known])
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) >= len(self._runs[-2]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")
        self._runs = [run for run in self._runs if len(run)]
        return fresh
