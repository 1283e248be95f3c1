"""Detect CSV rows in which a stray quotation mark has joined several rows into one cell."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from blair_rec.errors import agreed, counted


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


def swallowed(lines: Sequence[str], width: int, last: int) -> str:
    """Say that a stray quotation mark has joined several rows into the row of these lines; "" if it looks like one row.

    Args:
        last: the number of the last line, for the message.
    """
    if not (rows := rows_inside(lines, width)):
        return ""
    return (
        f"a quotation mark opens a cell here that closes in line {last}, and {rows} of the "
        f"{counted(len(lines) - 2, 'line')} between {agreed(rows, 'look')} like "
        f"{'rows of their own' if rows != 1 else 'a row of its own'}; double the mark inside a quoted cell, or take it "
        "out"
    )
