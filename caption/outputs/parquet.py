"""Parquet: a folder of files that pyarrow, pandas and datasets read as one table."""

from __future__ import annotations

from pathlib import Path

import orjson

from caption.choose.selection import OUT
from caption.errors import UsageError
from caption.outputs.committed import Row
from caption.outputs.parts import Parts


class Parquet(Parts):
    """Columns as in a row; ``extra`` is JSON. The types stay the same where all values of a part are missing."""

    pattern = "part-{:05}.parquet"
    rows_a_part = 50_000

    def __init__(self, options, ledger):
        try:
            import pyarrow as pa
        except ImportError as error:
            raise UsageError("pyarrow is missing, which writes Parquet", "pip install pyarrow") from error
        changes = pa.list_(pa.struct([("reason", pa.string()), ("changed", pa.string())]))
        self._schema = pa.schema(
            [("id", pa.string()), ("image", pa.string()), ("caption", pa.string()), ("finish_reason", pa.string()),
             ("tokens", pa.int32()), ("width", pa.int32()), ("height", pa.int32()), ("seed", pa.int64()),
             ("seconds", pa.float64()), ("attempts", pa.int32()), ("flags", pa.list_(pa.string())),
             ("prompt", pa.string()), ("prompt_name", pa.string()), ("raw", pa.string()), ("retries", changes),
             ("lora", pa.string()), ("lora_scale", pa.float64()), ("twin_of", pa.string()), ("extra", pa.string()),
             *((name, pa.string() if name == OUT else pa.float64()) for name in options.added)]
        )  # fmt: skip
        super().__init__(options, ledger)

    def write_file(self, path: Path, rows: list[Row]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        found = [row.data for row in rows]
        flat = [row | {"extra": orjson.dumps(row["extra"]).decode()} if row.get("extra") else row for row in found]
        with path.open("wb") as file:  # it takes no name that is not UTF-8
            parquet.write_table(pa.Table.from_pylist(flat, self._schema), file)
