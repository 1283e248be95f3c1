"""The catalogue of a split: the metadata of every item, and the line of text that an encoder reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from blair_rec.config.comparison import CompareConfig
from blair_rec.experiment.elsewhere.lists import ITEM
from blair_rec.experiment.item_vectors import ITEM_FIELD, item_id_fields, items_reader
from blair_rec.text.catalogue import Catalogue, Record, texts_in
from blair_rec.text.template import Template, catalogue_texts

TEXT = "item_text"
"""The column with the line that `text.fields` or `text.template` makes."""


def items_table(config: CompareConfig, folder: Path, item_tokens: Sequence[str]) -> dict[str, list[str]]:
    """Columns of texts by name, one row per item in the order of `item_tokens`; empty where an item lacks a field.

    The fields come from `text.items`, or from the data set's .item file; without such a file there are only item ids.
    Several texts in a field are joined by spaces.

    Raises:
        CatalogueError: the file can't be read. MissingField: a field of the text section that no item has.
    """
    table = {ITEM: list(item_tokens)}
    catalogue = _catalogue(config, folder)
    if catalogue is None:
        return table
    records: Mapping[str, Record] = dict(zip(catalogue.item_tokens, catalogue.records, strict=True))
    for name in catalogue.fields:
        if name != ITEM:
            table[name] = [_one_line(records.get(token, {}), name) for token in item_tokens]
    if config.text.says_what and config.text.store is None:
        lines = catalogue_texts(catalogue, Template(config.text.template, config.text.fields))
        text = dict(zip(catalogue.item_tokens, lines, strict=True))
        table[TEXT] = [text.get(token, "") for token in item_tokens]
    return table


def _catalogue(config: CompareConfig, folder: Path) -> Catalogue | None:
    path = Path(config.text.items) if config.text.items else folder / f"{folder.name}.item"
    if not config.text.items and not path.is_file():
        return None
    return items_reader(config.recbole)(path, item_id_fields(config.recbole.get("ITEM_ID_FIELD", ITEM_FIELD)))


def _one_line(record: Record, name: str) -> str:
    return " ".join(" ".join(texts_in(record.get(name))).split())
