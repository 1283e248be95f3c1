"""Raw files to what the other sides read: a RecBole data set and its catalogue, pairs of texts, a search benchmark."""

from __future__ import annotations

from blair_rec.extras import need

# Polars, not DuckDB: DuckDB reads JSON a third faster, but only as whole files, so that a broken line ends the query or
# disappears; Polars parses the block of bytes it is given, and our own blocks know the number of each line.
need("polars", "prepare", "preparing data")
