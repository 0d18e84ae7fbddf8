"""Pieces of many recordings, run as batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from enhance_ray.engine.analysis import Piece
from enhance_ray.settings.options import EnhanceOptions

Owner = TypeVar("Owner")


class RowModel(Protocol):
    """What runs batches: `Enhancer`."""

    def run(self, rows: Tensor, options: EnhanceOptions, starts: Sequence[int], cuts: Tensor) -> Tensor:
        """The answer, (row, time) or with a guard (row, 2, time), to (row, time)."""
        ...


class Result(NamedTuple, Generic[Owner]):
    """What a batch gave for one piece."""

    owner: Owner
    piece: Piece
    output: Tensor
    """(channel, row), or with a guard (channel, 2, row): of the model, for ``piece.rows``."""
    seconds_spent: float
    """The piece's share of the batch's running time."""


class Batcher(Generic[Owner]):
    """Collects pieces of equal length, of any recordings, and runs them as one batch.

    The pieces of one recording come out in the order in which they went in, because all of them have one
    length. ``Owner`` is whatever the caller knows a recording by.
    """

    def __init__(self, model: RowModel, options: EnhanceOptions, batch_size: int) -> None:
        self._model = model
        self._options = options
        self._batch_size = batch_size
        self._waiting: dict[int, list[tuple[Owner, Piece]]] = {}  # by length of a row; oldest first

    def __len__(self) -> int:
        """Pieces that wait for their batch to fill."""
        return sum(map(len, self._waiting.values()))

    def add(self, owner: Owner, piece: Piece) -> list[Result[Owner]]:
        """Take ``piece``; if that fills a batch, run it and return its results."""
        length = piece.rows.shape[-1]
        bucket = self._waiting.setdefault(length, [])
        bucket.append((owner, piece))
        if sum(len(waiting.rows) for _, waiting in bucket) < self._batch_size:
            return []
        return self._run(self._waiting.pop(length))

    def run_oldest(self) -> list[Result[Owner]]:
        """Run the batch that has waited longest, full or not; nothing if none waits."""
        if not self._waiting:
            return []
        return self._run(self._waiting.pop(next(iter(self._waiting))))

    def results(self, owner: Owner, pieces: Iterable[Piece]) -> Iterator[Result[Owner]]:
        """The results for all ``pieces`` of one recording, in their order."""
        for piece in pieces:
            yield from self.add(owner, piece)
        yield from self.flush()

    def flush(self) -> list[Result[Owner]]:
        """Run everything that waits."""
        results = []
        while self._waiting:
            results += self.run_oldest()
        return results

    def _run(self, pieces: list[tuple[Owner, Piece]]) -> list[Result[Owner]]:
        started = time.perf_counter()
        rows = torch.cat([piece.rows for _, piece in pieces])
        starts = [piece.segment.start for _, piece in pieces for _ in piece.rows]
        cuts = torch.cat([piece.cuts for _, piece in pieces])
        # The last piece may have brought more channels than the batch had room for.
        parts = [slice(first, first + self._batch_size) for first in range(0, len(rows), self._batch_size)]
        outputs = torch.cat(
            [self._model.run(rows[part], self._options, starts[part], cuts[part]) for part in parts]
        )
        seconds_per_row = (time.perf_counter() - started) / len(rows)
        shares = outputs.split([len(piece.rows) for _, piece in pieces])
        return [
            Result(owner, piece, output, seconds_per_row * len(output))
            for (owner, piece), output in zip(pieces, shares, strict=True)
        ]
