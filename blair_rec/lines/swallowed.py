"""CSV rows of several lines: whether a stray quotation mark made one cell of what are rows of their own."""

from __future__ import annotations

import csv
from collections.abc import Sequence


def cells_alone(line: str) -> list[str]:
    """The cells of a line by itself; a quoted cell that is still open ends with it. Empty if it can't be cut."""
    try:
        return next(csv.reader([line.rstrip("\r\n")]), [])
    except csv.Error:  # a carriage return inside the line, or a very long cell
        return []


def rows_inside(lines: Sequence[str], width: int) -> int:
    """How many lines between the first and the last one of a row look like rows of `width` cells; 0 unless most do.

    A line looks like a row if no cell is empty or has a blank at an end: a comma in running text has one behind it.
    """
    inside = [cells_alone(line) for line in lines[1:-1]]
    rows = [cells for cells in inside if len(cells) == width and all(cell and cell == cell.strip() for cell in cells)]
    return len(rows) if 2 * len(rows) > len(inside) else 0
