"""Read CSV, TSV, JSON lines and Parquet block by block."""
