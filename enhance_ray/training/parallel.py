"""Work spread over processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")
Progress = Callable[[int, int], None]
"""Called with (done, all) after each file."""


def in_order(
    function: Callable[[Given], Made], items: Sequence[Given], workers: int, *, chunk: int = 1
) -> Generator[Made, None, None]:
    """``map(function, items)`` over ``workers`` processes with one thread of torch each; one works here.

    Close it (`contextlib.closing`) where what was not begun is not to be done.

    Args:
        function: importable, as its arguments and results are picklable.
        items: what it is called with.
        workers: processes.
        chunk: items that a process takes at a time.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned: a fork would copy the locks of threads that torch, decoders and BLAS have started.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(function, items, chunksize=chunk)
        finally:
            pool.shutdown(cancel_futures=True)


def parallel_map(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, progress: Progress | None
) -> list[Any]:
    """``[function(item) for item in items]`` over ``workers`` processes, in order."""
    collected = []
    with contextlib.closing(in_order(function, items, workers)) as results:
        for result in results:
            collected.append(result)
            if progress:
                progress(len(collected), len(items))
    return collected
