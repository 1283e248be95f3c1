"""Detect CSV rows in which a stray quotation mark has joined several rows into one cell."""

from __future__ import annotations

import csv
from collections.abc import Sequence


def cells_alone(line: str) -> list[str]:
    """Return the cells of a single line; an open quoted cell ends with the line. Empty if the line can't be split."""
    try:
        return next(csv.reader([line.rstrip("\r\n")]), [])
    except csv.Error:  # a carriage return inside the line, or a very long cell
        return []


def rows_inside(lines: Sequence[str], width: int) -> int:
    """Count the lines between the first and last line of a row that look like rows of `width` cells; 0 unless most do.

    A line looks like a row if no cell is empty or has a space at either end: in running text a space follows a comma.
    """
    inside = [cells_alone(line) for line in lines[1:-1]]
    rows = [cells for cells in inside if len(cells) == width and all(cell and cell == cell.strip() for cell in cells)]
    return len(rows) if 2 * len(rows) > len(inside) else 0
