"""Tables of scores as CSV and as Parquet."""

from pathlib import Path
from typing import BinaryIO

import pandas as pd

from cxrlib.model.facts import COLUMNS

# What a spreadsheet would run at the start of a cell, wide forms included.
FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
ROWS = 2**14  # of a group in Parquet
AS_WRITTEN: dict = {
    "dtype": dict.fromkeys(("path", "status", "decision", "reason"), str),
    "converters": {"probability": lambda digits: float(digits or "nan")},  # exact, as Python reads
    "keep_default_na": False,
}


def shield(name: str) -> str:
    """Return the name of a film as it is written: `./` before what a spreadsheet would run.

    The path is the same, and names of `walk_films` never start so by themselves.
    """
    return f"./{name}" if name.startswith(tuple(FORMULA)) else name


def is_scores(path: Path) -> bool:
    """Say whether a file holds a table of scores, or nothing."""
    if is_parquet(path) and path.stat().st_size:
        from pyarrow import parquet

        try:
            return parquet.read_schema(path).names == COLUMNS
        except ValueError:
            return False
    with open(path, "rb") as file:
        return file.readline(1000).decode(errors="replace").strip() in ("", ",".join(COLUMNS))


def is_parquet(path: str | Path) -> bool:
    """Say whether a table's name ends as that of a Parquet file."""
    return Path(path).suffix.lower() == ".parquet"


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read a table of scores, every digit as it was written, every name as it was given."""
    table = pd.read_parquet(path) if is_parquet(path) else pd.read_csv(path, **AS_WRITTEN)
    given = (name[2:] if shield(name[2:]) == name else name for name in table["path"])
    return table.assign(path=pd.Series(list(given), table.index, dtype=str))


def write_parquet(table: BinaryIO, out: Path) -> None:
    """Convert a CSV of scores to `out`, some rows at a time."""
    import pyarrow
    from pyarrow import parquet

    types = dict.fromkeys(COLUMNS, "string") | {"probability": "float64"}
    schema = pyarrow.schema(list(types.items()))
    with parquet.ParquetWriter(out, schema) as writer:
        for rows in pd.read_csv(table, chunksize=ROWS, **AS_WRITTEN):
            writer.write_table(pyarrow.Table.from_pandas(rows, schema, preserve_index=False))
