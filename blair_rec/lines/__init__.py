"""Files read piece by piece: atomic files, columns of tables, NumPy's arrays, and lines that can't be used."""
