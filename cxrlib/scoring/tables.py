"""Tables of scores as CSV and as Parquet."""

from pathlib import Path

import pandas as pd

from cxrlib.model.predict import COLUMNS


def is_parquet(path: str | Path) -> bool:
    """Say whether a table's name ends as that of a Parquet file."""
    return Path(path).suffix.lower() == ".parquet"


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read a table of scores, every digit as it was written; text that is empty stays text."""
    if is_parquet(path):
        return pd.read_parquet(path)
    text = dict.fromkeys(("path", "status", "decision", "reason"), str)
    # Python's own reading of numbers is exact whatever pandas' default is.
    numbers = {"probability": lambda digits: float(digits or "nan")}
    return pd.read_csv(path, dtype=text, converters=numbers, keep_default_na=False)


def write_parquet(table: Path, out: Path) -> Path:
    """Convert a CSV of scores to `out`, a few megabytes at a time; return `out`."""
    import pyarrow
    from pyarrow import csv as arrow
    from pyarrow import parquet

    types = dict.fromkeys(COLUMNS, "string") | {"probability": "float64"}
    schema = pyarrow.schema(list(types.items()))
    parse = arrow.ParseOptions(newlines_in_values=True)
    convert = arrow.ConvertOptions(column_types=schema, null_values=[""])
    # Given a path, pyarrow reads far ahead.
    with open(table, "rb") as file, parquet.ParquetWriter(out, schema) as writer:
        for batch in arrow.open_csv(file, parse_options=parse, convert_options=convert):
            writer.write_batch(batch)
    return out
