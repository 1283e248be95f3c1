"""Write a log and item metadata as the files of a RecBole data set."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import SourceError
from blair_rec.lines.atomic import quoted
from blair_rec.prepare.events import SPLITS, RawLog, position_and_length, written_times
from blair_rec.prepare.items import flat
from blair_rec.prepare.reading.jsonlines import as_numbers

HISTORY = 50
"""Maximum history length of a benchmark row: the last events, cut as in upstream's process_amazon_2023.py."""
ROWS = 1_000_000
"""Rows converted to text in one batch."""


def write_log(path: Path, log: RawLog) -> None:
    """Write one row per event, in log order: user_id, item_id, rating if present, timestamp."""
    log = written_times(log)
    rating = ["rating"] if "rating" in log.table.columns else []
    with path.open("wb") as file:
        file.write(_row(["user_id:token", "item_id:token", *(f"{name}:float" for name in rating), "timestamp:float"]))
        for part in log.table.iter_slices(ROWS):
            users, items = log.users.gather(part["user"]), log.items.gather(part["item"])
            named = part.with_columns(users.alias("user"), items.alias("item"))
            named.select("user", "item", *rating, "time").write_csv(
                file, include_header=False, separator="\t", quote_style="never"
            )


def histories(log: RawLog) -> Iterator[str]:
    """Yield the history of each event of a sorted log: at most the last HISTORY items, joined by spaces."""
    names = log.items.to_list()
    items = [names[item] for item in log.table["item"].to_list()]
    for row, before in enumerate(np.minimum(position_and_length(log)[0], HISTORY).tolist()):
        yield " ".join(items[row - before : row])


BENCHMARK = {"recbole": {"benchmark_filename": list(SPLITS), "alias_of_item_id": ["item_id_list"]}}
"""Sections that a comparison needs for the files of write_benchmark."""


def write_benchmark(folder: Path, name: str, log: RawLog, split: np.ndarray) -> dict[str, int]:
    """Write NAME.train.inter, NAME.valid.inter and NAME.test.inter; return the number of rows of each.

    An event without a history gets no row, because there is nothing to predict it from. Upstream skips it, too.
    """
    log = written_times(log)
    rating = ["rating"] if "rating" in log.table.columns else []
    columns = ["user_id:token", "item_id_list:token_seq", "item_id:token", *(f"{one}:float" for one in rating)]
    users, items = log.users.to_list(), log.items.to_list()
    rows = dict.fromkeys(SPLITS, 0)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / f"{name}.{part}.inter").open("wb")) for part in SPLITS]
        for file in files:
            file.write(_row([*columns, "timestamp:float"]))
        events = log.table.select("user", "item", *rating, "time").iter_rows()
        for (user, item, *rest), history, place in zip(events, histories(log), split.tolist(), strict=True):
            if history:
                files[place].write(_row([users[user], history, items[item], *map(str, rest)]))
                rows[SPLITS[place]] += 1
    return rows


def write_items(
    path: Path, rows: Iterator[dict[str, Any]], fields: Sequence[str], catalogue: Path | None = None
) -> int:
    """Write a RecBole .item file; return the number of items without text.

    In the file, runs of white space become single spaces. The optional catalogue has the same rows as JSON lines, where
    lists stay lists.
    """
    textless = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("wb"))
        lines = stack.enter_context(catalogue.open("wb")) if catalogue is not None else None
        file.write(_row(["item_id:token", *(f"{name}:token_seq" for name in fields)]))
        for row in rows:
            cells = [" ".join(flat(row[name]).replace("\0", " ").split()) for name in fields]
            textless += not any(cells)
            file.write(_row([row["item_id"], *map(quoted, cells)]))
            if lines is not None:
                lines.write(json.dumps(as_numbers(row)).encode() + b"\n")
    return textless


def _row(cells: Sequence[str]) -> bytes:
    return ("\t".join(cells) + "\n").encode()


def check_fields(fields: Sequence[str]) -> None:
    """
    Raises:
        SourceError: a field name that can't be written in the first line of an .item file.
    """
    for field in fields:
        if fields.count(field) > 1:
            raise SourceError(f"--fields names {field!r} twice; name each column once")
        if not field or field == "item_id" or any(sign in field for sign in ":\t\r\n"):
            raise SourceError(f"the field {field!r} can't be a column of an .item file; change --fields")
