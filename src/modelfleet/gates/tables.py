"""Data files as columns in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelfleet.core.errors import InvalidInput

_MOST_ROWS = 2_000_000
FORMATS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet"}


def format_of(name: str) -> str:
    """Raises `InvalidInput` for a file that is neither CSV nor Parquet."""
    found = FORMATS.get(Path(name).suffix.lower())
    if found is None:
        raise InvalidInput(f"{name} is neither .csv nor .parquet.")
    return found


def read(path: Path, format: str) -> dict[str, NDArray[Any]]:  # noqa: A002
    """Columns by name; numbers, or texts with None where they are missing."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path) if format == "parquet" else csv.read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{path.name} can't be read as {format}: {str(error)[:300]}") from error
    if table.num_rows > _MOST_ROWS:
        raise InvalidInput(f"{path.name} has {table.num_rows} rows; gates take {_MOST_ROWS}.")
    if not table.num_rows:
        raise InvalidInput(f"{path.name} has no rows.")
    return {name: _column(table.column(name)) for name in table.column_names}


def _column(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind) and not column.null_count:
        return np.asarray(column.to_numpy())
    if pa.types.is_integer(kind) and not column.null_count:
        return np.asarray(column.to_numpy())
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    if any(test(kind) for test in numbers):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
    values = column.to_pylist()
    if values and isinstance(next((v for v in values if v is not None), None), list):
        try:
            return np.array(values)
        except ValueError as error:
            raise InvalidInput("A column holds lists of different lengths.") from error
    made = np.empty(len(values), dtype=object)
    made[:] = [one if one is None else str(one) for one in values]
    return made
