"""Inputs that a table of a lakehouse names: Delta Lake at its newest version, or Apache Iceberg."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from enhance_ray.errors import ConfigError, explain

_DELTA, _ICEBERG = "_delta_log", ".metadata.json"
"""What a table is told by: the folder of its log, and the file of one of its states."""
_PAGE = 50_000


def is_lake(source: str) -> bool:
    """Whether an input is the log of a Delta table or the metadata of an Iceberg table."""
    return source.rstrip("/").endswith((f"/{_DELTA}", _ICEBERG))


def tables(path: str) -> Iterator[pa.Table]:
    """All columns of the rows that the table has; what was deleted from it is left out.

    A data file is read after the other, so that memory does not grow with the table.

    Args:
        path: ``.../_delta_log``, whose newest version is read, or ``.../metadata/<state>.metadata.json``.

    Raises:
        ConfigError: the table cannot be read, or the package that reads it is absent.
    """
    try:
        for batch in _iceberg(path) if path.endswith(_ICEBERG) else _delta(path):
            yield pa.Table.from_batches([batch])
    except ImportError as error:
        raise ConfigError(
            path, "tables of a lakehouse need deltalake and pyiceberg: pip install 'enhance-ray[lake]'"
        ) from error
    except Exception as error:  # both packages have kinds of their own, with no common parent
        raise ConfigError(path, f"is no readable table: {explain(error)}") from error


def _delta(path: str) -> Iterator[Any]:
    from deltalake import DeltaTable

    folder = path.rstrip("/").removesuffix(_DELTA).rstrip("/")
    dataset = DeltaTable(folder).to_pyarrow_dataset()
    yield from dataset.to_batches(batch_size=_PAGE, batch_readahead=1, fragment_readahead=1)


def _iceberg(path: str) -> Iterator[Any]:
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan
    from pyiceberg.table import StaticTable

    # The storage is reached as everything else is: by fsspec, with its variables for keys and addresses.
    table = StaticTable.from_metadata(path, {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"})
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    for task in table.scan().plan_files():  # its own reader would hold the files that it reads ahead
        yield from scan.to_record_batches([task])
