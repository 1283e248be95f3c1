"""A split as RecBole's benchmark files, with a config, so that stock RecBole trains on the very same cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blair_rec.config.yaml.files import to_yaml
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import agreed, counted
from blair_rec.experiment.elsewhere.cases import tokens_of
from blair_rec.experiment.elsewhere.lists import ITEM
from blair_rec.lines.atomic import quoted

RECBOLE = "recbole"
"""The folder with RecBole's files."""
BLOCK = 1 << 14
"""Rows that are written together."""


def write_recbole_files(
    partial: Path,
    name: str,
    items: Mapping[str, Sequence[str]],
    splits: Mapping[str, TextSequentialDataset],
) -> str:
    """Write NAME.train.inter, NAME.valid.inter, NAME.test.inter, NAME.item and NAME.yaml into recbole/NAME.

    Histories are cut to MAX_ITEM_LIST_LENGTH, as RecBole's own rows are.

    Args:
        items: the catalogue: item_id and columns of texts.
        splits: train, valid and test.

    Returns why they can't be written, or "".
    """
    test = splits["test"]
    tokens = [token for field in (test.uid_field, test.iid_field) for token in tokens_of(test, field)[1:]]
    if odd := [token for token in tokens if re.search(r"\s", token)]:
        return (
            f"not written: {counted(len(odd), 'id')} {agreed(len(odd), 'contain')} white space (first: {odd[0]!r}), "
            "which separates items there"
        )
    folder = partial / RECBOLE / name
    folder.mkdir(parents=True)
    for part, split in splits.items():
        _write_rows(folder / f"{name}.{part}.inter", split)
    columns = {column: values for column, values in items.items() if column != ITEM and not re.search(r"[:\t]", column)}
    with (folder / f"{name}.item").open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join([f"{ITEM}:token", *(f"{column}:token_seq" for column in columns)]) + "\n")
        for token, *cells in zip(items[ITEM], *columns.values(), strict=True):
            file.write("\t".join([token, *(quoted(cell.replace("\0", " ")) for cell in cells)]) + "\n")
    settings: dict[str, Any] = {
        "benchmark_filename": list(splits),
        "alias_of_item_id": ["item_id_list"],
        "MAX_ITEM_LIST_LENGTH": int(test.max_item_list_len),
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": ITEM,
    }
    (folder / f"{name}.yaml").write_text(to_yaml(settings), encoding="utf-8")
    return ""


def _write_rows(path: Path, split: TextSequentialDataset) -> None:
    """A row for each case: user, the last items of the history, and the target."""
    users, items = tokens_of(split, split.uid_field), tokens_of(split, split.iid_field)
    lists = split.iid_field + split.config["LIST_SUFFIX"]
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("user_id:token\titem_id_list:token_seq\titem_id:token\n")
        for begin in range(0, len(split), BLOCK):
            rows = split.inter_feat[slice(begin, begin + BLOCK)]
            lengths = rows[split.item_list_length_field].tolist()
            columns = (users[rows[split.uid_field].numpy()], items[rows[split.iid_field].numpy()], rows[lists].numpy())
            for user, item, history, length in zip(*columns, lengths, strict=True):
                file.write(f"{quoted(user)}\t{quoted(' '.join(items[history[:length]]))}\t{quoted(item)}\n")
