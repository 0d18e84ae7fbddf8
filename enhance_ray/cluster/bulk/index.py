"""Which versions of inputs a manifest has already: on this machine's disk, in memory of a fixed size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

MEMORY = "128MB"
"""What DuckDB may take; the rest is on disk, 16 bytes for each version."""

_KEY = "md5_number(concat(uri, chr(10), coalesce(etag, '')))"
"""128 bits: two of a billion versions share them with a probability of 1e-21."""


class Index:
    """Versions (uri, etag) that were there before."""

    def __init__(self, folder: Path) -> None:
        """Begin with none.

        Args:
            folder: on this machine, for the index alone; whoever made it removes it.
        """
        config: Any = {"memory_limit": MEMORY, "temp_directory": str(folder / "spilled")}
        self._database = duckdb.connect(str(folder / "index.duckdb"), config=config)
        self._database.execute("CREATE TABLE known (key UHUGEINT)")
        self.size = 0

    def load(self, versions: pa.Table) -> None:
        """Take ``versions``, which must be new: none is looked up, which is what `add` spends its time on."""
        self._database.register("page", versions.select(["uri", "etag"]))
        self._database.execute(f"INSERT INTO known SELECT {_KEY} FROM page")
        self._database.unregister("page")
        self.size += len(versions)

    def add(self, versions: pa.Table) -> np.ndarray:
        """Take ``versions``, a table with columns "uri" and "etag"; which rows are new, each once, in order.

        Every call reads the whole index: many versions at once cost hardly more than one.
        """
        numbered = versions.select(["uri", "etag"]).append_column("row", pa.array(np.arange(len(versions))))
        run = self._database.execute
        self._database.register("page", numbered)
        keys = f"SELECT {_KEY} AS key, min(row) AS row FROM page GROUP BY key"
        run(f"CREATE OR REPLACE TEMP TABLE keys AS {keys}")
        # An inner join, of which the smaller side is held in memory; a difference would hold what is known.
        run("CREATE OR REPLACE TEMP TABLE old AS SELECT keys.key FROM known JOIN keys USING (key)")
        run("CREATE OR REPLACE TEMP TABLE new AS SELECT key, row FROM keys ANTI JOIN old USING (key)")
        run("INSERT INTO known SELECT key FROM new")
        rows: np.ndarray = run("SELECT row FROM new ORDER BY row").fetchnumpy()["row"]
        self._database.unregister("page")
        self.size += len(rows)
        return np.asarray(rows)

    def close(self) -> None:
        """Let go of the files."""
        self._database.close()
