"""A log and item metadata as the files of a RecBole data set."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.errors import SourceError
from blair_rec.lines.atomic import quoted
from blair_rec.prepare.events import SPLITS, RawLog, position_and_length, written_times
from blair_rec.prepare.items import flat
from blair_rec.prepare.reading.jsonlines import as_numbers

HISTORY = 50
"""Events of a history that a benchmark row holds, the last ones; as upstream's process_amazon_2023.py cuts them."""
ROWS = 1_000_000
"""Rows turned into text at once."""


def write_log(path: Path, log: RawLog) -> None:
    """One row per event, in the order of the log: user_id, item_id, rating if there is one, timestamp."""
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


def histories(log: RawLog, longest: int) -> Iterator[str]:
    """For each event of a log in order: what its user took before, at most the last `longest`, joined by spaces."""
    names = log.items.to_list()
    items = [names[item] for item in log.table["item"].to_list()]
    for row, before in enumerate(np.minimum(position_and_length(log)[0], longest).tolist()):
        yield " ".join(items[row - before : row])


BENCHMARK = {"recbole": {"benchmark_filename": list(SPLITS), "alias_of_item_id": ["item_id_list"]}}
"""What a comparison has to say of the files that write_benchmark makes."""


def write_benchmark(folder: Path, name: str, log: RawLog, split: np.ndarray, longest: int = HISTORY) -> dict[str, int]:
    """NAME.train.inter, NAME.valid.inter and NAME.test.inter, and how many rows each has.

    An event without a history is no row: there is nothing to predict it from. Upstream drops it, too.
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
        for (user, item, *rest), history, place in zip(events, histories(log, longest), split.tolist(), strict=True):
            if history:
                files[place].write(_row([users[user], history, items[item], *map(str, rest)]))
                rows[SPLITS[place]] += 1
    return rows


def write_items(
    path: Path, rows: Iterator[dict[str, Any]], fields: Sequence[str], catalogue: Path | None = None
) -> int:
    """A RecBole .item file, where runs of white space become single spaces, and how many items have no text in it.

    The catalogue, if asked for, has the same as JSON lines, lists as lists.
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
                lines.write(json.dumps(_catalogued(row)).encode() + b"\n")
    return textless


def _catalogued(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: numbers inside of lists and mappings are numbers."""
    return {name: as_numbers(value) for name, value in row.items()}


def _row(cells: Sequence[str]) -> bytes:
    return ("\t".join(cells) + "\n").encode()


def check_fields(fields: Sequence[str]) -> None:
    """
    Raises:
        SourceError: a field whose name can't stand in the first line of an .item file.
    """
    for field in fields:
        if not field or field == "item_id" or any(sign in field for sign in ":\t\r\n") or fields.count(field) > 1:
            raise SourceError(f"the field {field!r} can't be a column of an .item file; name others with --fields")
