"""A log and item metadata as a RecBole data set, with a comparison file that is ready to run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blair_rec.atomic import quoted
from blair_rec.config import read_config
from blair_rec.errors import SourceError
from blair_rec.files import write_text
from blair_rec.prepare.blocks import Progress
from blair_rec.prepare.events import SPLITS, Log, exact_times, position_and_length
from blair_rec.prepare.records import JSON_LINES, kind_of, read_table
from blair_rec.rejected import Rejected
from blair_rec.sections import write_yaml

HISTORY = 50
"""Events of a history that a benchmark row holds, the last ones; as upstream's process_amazon_2023.py cuts them."""
ROWS = 1_000_000
"""Rows turned into text at once."""


@dataclass(frozen=True)
class ItemFile:
    """Where the metadata of items stands, and which of it is text to keep."""

    path: Path
    item_id: str
    """The column that names the item."""
    fields: tuple[str, ...]

    def names(self, rejected: Rejected, progress: Progress | None = None) -> set[str]:
        """All items of the file; lines without one go to `rejected`."""
        known: set[str] = set()
        for table, lines in read_table(self.path, [self.item_id], rejected, progress):
            names = table[self.item_id].to_list()
            for row in (row for row, name in enumerate(names) if not name):
                rejected.add(self.path, int(lines[row]), f"no {self.item_id}", "")
            known.update(filter(None, names))
        rejected.check()
        return known

    def rows(self, wanted: Collection[str], progress: Progress | None = None) -> Iterator[dict[str, Any]]:
        """The metadata of the wanted items: item_id and the fields, each a text, a list, a mapping or None.

        Of an item that stands there twice the first row counts; a wanted item that doesn't stand there has None alone.
        """
        missing = dict.fromkeys(wanted)
        silent = Rejected(Path(os.devnull), limit=1.0)  # names() has told of broken lines
        for table, _ in read_table(self.path, [self.item_id, *self.fields], silent, progress):
            found = [row for row, name in enumerate(table[self.item_id].to_list()) if name in missing]
            for name, *values in table[found].iter_rows():
                if name in missing:  # not twice in one chunk
                    del missing[name]
                    yield {"item_id": name, **dict(zip(self.fields, map(self._value, values), strict=True))}
        for name in missing:
            yield {"item_id": name, **dict.fromkeys(self.fields)}

    def _value(self, text: str | None) -> Any:
        if text and text[0] in "[{" and kind_of(self.path) in JSON_LINES:  # the reader gives lists as JSON
            with contextlib.suppress(ValueError):
                return json.loads(text)
        return text


def write_log(path: Path, log: Log) -> None:
    """One row per event, in the order of the log: user_id, item_id, rating if there is one, timestamp."""
    log = exact_times(log)
    rating = ["rating"] if "rating" in log.table.columns else []
    with path.open("wb") as file:
        file.write(_row(["user_id:token", "item_id:token", *(f"{name}:float" for name in rating), "timestamp:float"]))
        for part in log.table.iter_slices(ROWS):
            users, items = log.users.gather(part["user"]), log.items.gather(part["item"])
            named = part.with_columns(users.alias("user"), items.alias("item"))
            named.select("user", "item", *rating, "time").write_csv(
                file, include_header=False, separator="\t", quote_style="never"
            )


def histories(log: Log, longest: int) -> Iterator[str]:
    """For each event of a log in order: what its user took before, at most the last `longest`, joined by spaces."""
    names = log.items.to_list()
    items = [names[item] for item in log.table["item"].to_list()]
    for row, before in enumerate(np.minimum(position_and_length(log)[0], longest).tolist()):
        yield " ".join(items[row - before : row])


BENCHMARK = {"recbole": {"benchmark_filename": list(SPLITS), "alias_of_item_id": ["item_id_list"]}}
"""What a comparison has to say of the files that write_benchmark makes."""


def write_benchmark(folder: Path, name: str, log: Log, split: np.ndarray, longest: int = HISTORY) -> dict[str, int]:
    """NAME.train.inter, NAME.valid.inter and NAME.test.inter, and how many rows each has.

    An event without a history is no row: there is nothing to predict it from. Upstream drops it, too.
    """
    log = exact_times(log)
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
                lines.write(json.dumps(row).encode() + b"\n")
    return textless


def flat(value: Any) -> str:
    """A text, the texts of a list, or the "key: value" texts of a mapping, as one text."""
    if isinstance(value, list):
        return " ".join(map(flat, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {flat(one)}" for key, one in value.items() if one is not None)
    return "" if value is None else str(value)


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


def write_comparison(
    path: Path,
    folder: Path,
    text: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    comments: Sequence[str] = (),
) -> None:
    """A comparison file for the data set that will be `folder`: does item text help here?

    `text` says how the text section finds it, and is empty where there is none; `settings` are further sections.
    """
    variants: dict[str, Any] = {"id": {"items": "id"}}
    if text:
        variants |= {
            "text": {"items": "text", "transforms": ["whiten"]},
            "text_init": {"items": "text_init", "transforms": ["center"]},
            "shuffled": {"items": "text_init", "transforms": ["center"], "control": "shuffle"},
        }
    settings = dict(settings or {})
    comparison = {
        "dataset": str(folder),
        "text": {**text, "encoder": "hyp1231/blair-roberta-base", "missing_text": "mean"} if text else {},
        "recbole": {"MAX_ITEM_LIST_LENGTH": HISTORY, **settings.pop("recbole", {})},
        **settings,
        "model": "SASRec",
        "variants": variants,
        "baseline": "id",
        "seeds": [1, 2, 3],
    }
    read_config(comparison, path.name)  # nothing is written that compare would refuse
    write_text(path, "".join(f"# {line}\n" for line in comments) + write_yaml(comparison))
