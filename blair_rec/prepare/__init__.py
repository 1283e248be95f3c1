"""Convert raw files to the package's formats: RecBole data sets with a catalogue, text pairs, search benchmarks."""

from __future__ import annotations

from blair_rec.extras import need

# Why Polars and not DuckDB: DuckDB reads JSON a third faster, but only as whole files, where a broken line ends the
# query or is lost. Polars parses any block of bytes, so we know the line number of each row.
need("polars", "prepare", "preparing data")
