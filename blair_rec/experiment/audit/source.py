"""Read what an audit looks at: a folder of data or a comparison file, its splits, and the texts of its items."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blair_rec.config.comparison import CompareConfig, load_config, read_config
from blair_rec.config.names import ProtocolName
from blair_rec.config.sections import TextConfig
from blair_rec.data.dataset import TextSequentialDataset
from blair_rec.errors import DatasetError
from blair_rec.evaluate.metrics import check_k
from blair_rec.experiment.item_vectors import ITEM_FIELD, item_id_fields, items_reader
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.splits.leakage import Leaks, leaks_of
from blair_rec.experiment.splits.reading import TrainingData, read_splits
from blair_rec.lines.atomic import AtomicFile
from blair_rec.text.catalogue import Catalogue
from blair_rec.text.template import Template, catalogue_texts

logger = logging.getLogger("blair_rec")

PARTS = ("train", "valid", "test")
"""The benchmark files that a folder may have instead of one file of events."""
TIMES = "timestamp"
"""The default of RecBole's TIME_FIELD."""
REPEATS = 0.01
"""If fewer test targets than this share are in their history, a folder is audited with masked histories."""
NO_TIMES = (
    "the events have no time column, so file order is taken as their order; ties, leaks over time, item ages and "
    "cut-off times were left out"
)


@dataclass(frozen=True)
class Asked:
    """The data set to audit, and the settings of its comparison that an audit uses."""

    config: CompareConfig
    """A comparison of the same data set with training-free scorers alone."""
    folder: Path
    protocol: ProtocolName | None
    """The protocol of a comparison file; None for a folder."""
    metrics: tuple[str, ...]
    text: TextConfig | None
    """The text section of a comparison file; None for a folder, or if the file names no text."""
    has_times: bool
    """Whether the events have a time column, or are benchmark files, which need none."""


def find_source(given: str | Path) -> Asked:
    """Find the data of a comparison file, of a folder of atomic files, or of a data set that RecBole ships.

    Raises:
        ConfigError: the comparison file is invalid. DatasetError: there is no such data set.
        AtomicFileError: the header of the events can't be used.
    """
    path = Path(given)
    if path.is_file():
        config = load_config(path)
        texts = [config.text_of(variant) for variant in config.variants.values() if variant.uses_text]
        text = next((one for one in (*texts, config.text) if one.says_what), None)
        evaluate = config.evaluate
        config = config.changed(
            variants={"popularity": {"scorer": "popularity"}},
            baseline="popularity",
            evaluate=evaluate.changed(new_items=None, metrics=("NDCG@1",)),
            tune=None,
        )
        folder = data_folder(config.dataset)
        return Asked(config, folder, evaluate.protocol, evaluate.metrics, text, _has_times(folder, config.recbole))
    folder = data_folder(str(given))
    benchmark = not (folder / f"{folder.name}.inter").exists() and (folder / f"{folder.name}.train.inter").exists()
    settings: dict[str, Any] = {}
    if benchmark:
        settings = {
            "benchmark_filename": list(PARTS),
            "alias_of_item_id": ["item_id_list"],
            "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        }
    raw = {
        "dataset": str(folder),
        "variants": {"popularity": {"scorer": "popularity"}},
        "baseline": "popularity",
        "evaluate": {"metrics": ["NDCG@1"]},
        "recbole": settings,
    }
    metrics = ("NDCG@10", "Recall@10")
    return Asked(read_config(raw), folder, None, metrics, None, _has_times(folder, settings))


def _has_times(folder: Path, recbole: Mapping[str, Any]) -> bool:
    path = folder / f"{folder.name}.inter"
    if recbole.get("benchmark_filename") or not path.is_file():  # a missing file is reported when it is read
        return True
    file = AtomicFile(path, recbole.get("field_separator") or "\t", recbole.get("encoding") or "utf-8")
    return recbole.get("TIME_FIELD", TIMES) in {column.name for column in file.columns}


@dataclass(eq=False)
class AuditData:
    """The splits of a data set, and its events one by one.

    Shapes: M events, in the order of the log: user by user, oldest first. N item ids with the padding.
    """

    data: TrainingData
    test: TextSequentialDataset
    leaks: Leaks
    user: NDArray[np.int64]
    """[M]"""
    item: NDArray[np.int64]
    """[M]"""
    time: NDArray[np.float64] | None
    """[M] times that can be compared between users; None if there are none."""
    metrics: tuple[str, ...]
    """Metrics to report, with a cutoff of at most the number of items."""

    @property
    def tokens(self) -> list[str]:
        """Item tokens by item id, without the padding."""
        return self.data.item_tokens[1:]


def read_again(asked: Asked, config: CompareConfig) -> AuditData:
    """Read the same data with a changed config, without logging a second time what is wrong with its files.

    Raises:
        The errors of `read_data`.
    """
    disabled, logger.disabled = logger.disabled, True
    try:
        return read_data(dataclasses.replace(asked, config=config))
    finally:
        logger.disabled = disabled


def read_data(asked: Asked) -> AuditData:
    """Read the splits of a data set.

    Raises:
        DatasetError: there is no data set of this name, or a split is empty; the errors of reading files.
    """
    config = asked.config
    if asked.has_times:
        data, test = read_splits(config, asked.folder)
    else:
        if config.split is not None:
            raise DatasetError(
                f"{asked.folder} has no column of times, so there are no cut-off times; remove the config key `split`"
            )
        with tempfile.TemporaryDirectory() as work:
            data, test = read_splits(config, _with_order(asked.folder, config.recbole, Path(work)))
    leaks = leaks_of(data.train, data.valid, test)
    user, item = _events(data, test)
    comparable = leaks.tied is not None and asked.has_times
    metrics = asked.metrics
    if asked.protocol is None:
        k = min(10, len(data.item_tokens) - 1)
        metrics = (f"NDCG@{k}", f"Recall@{k}")
    check_k(metrics, len(data.item_tokens) - 1)
    return AuditData(data, test, leaks, user, item, data.train.event_times if comparable else None, metrics)


def _events(data: TrainingData, test: TextSequentialDataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The users and items of all events; for benchmark files those of each user's longest row."""
    if data.train.log is not None:
        return data.train.log.user.numpy(), data.train.log.item.numpy()
    uid, iid = test.uid_field, test.iid_field
    parts = [split.inter_feat for split in (data.train, data.valid, test)]
    lists = [part[iid + test.config["LIST_SUFFIX"]].numpy() for part in parts]
    width = max(part.shape[1] for part in lists)
    history = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in lists])
    user, target, length = (
        np.concatenate([part[name].numpy() for part in parts]) for name in (uid, iid, test.item_list_length_field)
    )
    place = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.lexsort((length, place, user))  # a test row holds all earlier events of its user, as far as files do
    last = order[np.append(np.diff(user[order]) != 0, True)]
    rows = np.concatenate([history[last], np.zeros((len(last), 1), dtype=np.int64)], axis=1)
    rows[np.arange(len(last)), length[last]] = target[last]
    return np.repeat(user[last], length[last] + 1), rows[rows > 0]


def _with_order(folder: Path, recbole: Mapping[str, Any], work: Path) -> Path:
    """A copy of the files whose events have a time: the number of earlier lines of the same user."""
    copy, name = work / folder.name, f"{folder.name}.inter"
    copy.mkdir()
    for path in folder.iterdir():
        if path.name.startswith(f"{folder.name}.") and path.name != name and path.is_file():
            (copy / path.name).symlink_to(path.resolve())
    separator, encoding = recbole.get("field_separator") or "\t", recbole.get("encoding") or "utf-8"
    columns = [column.name for column in AtomicFile(folder / name, separator, encoding).columns]
    user_field = recbole.get("USER_ID_FIELD", "user_id")
    place = columns.index(user_field) if user_field in columns else 0
    seen: dict[str, int] = {}
    with (
        (folder / name).open(encoding=encoding, errors="surrogateescape", newline="") as file,
        (copy / name).open("w", encoding=encoding, errors="surrogateescape", newline="") as out,
    ):
        for number, line in enumerate(file):
            text = line.rstrip("\r\n")
            cells = text.split(separator)
            if number == 0:
                out.write(f"{text}{separator}{recbole.get('TIME_FIELD', TIMES)}:float\n")
            elif text:
                user = cells[place] if place < len(cells) else ""
                seen[user] = seen.get(user, -1) + 1
                out.write(f"{text}{separator}{seen[user]}\n")
    return copy


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a data set's items."""

    catalogue: Catalogue
    fields: tuple[str, ...]
    by_token: Mapping[str, str]
    """Every item of the catalogue; "" for one without text."""

    def of(self, tokens: Sequence[str]) -> list[str]:
        """[len(tokens)] the text of each item; "" for one without text, or without a line in the catalogue."""
        return [self.by_token.get(token, "") for token in tokens]


def read_texts(asked: Asked) -> tuple[Texts | None, str]:
    """Read the items' texts. Without any, return None and a note on what is missing.

    A folder's text is made of the columns of its .item file that hold text (`token_seq`).

    Raises:
        CatalogueError: the item file can't be read; MissingField: it lacks a text field.
    """
    recbole, text = asked.config.recbole, asked.text
    path = Path(text.items) if text is not None and text.items else asked.folder / f"{asked.folder.name}.item"
    if not path.is_file() and (text is None or not text.items):
        return None, f"there is no {path.name}, so what text could add was not measured"
    id_fields = item_id_fields(recbole.get("ITEM_ID_FIELD", ITEM_FIELD))
    template = None
    if text is not None and (text.fields or text.template != "fields"):
        template = Template(text.template, text.fields)
    elif path.name.endswith(".item"):
        file = AtomicFile(path, recbole.get("field_separator") or "\t", recbole.get("encoding") or "utf-8")
        fields = [one.name for one in file.columns if one.kind == "token_seq" and one.name not in id_fields]
        template = Template("fields", tuple(fields)) if fields else None
    if template is None:
        return None, (
            f"{path.name} has no column of text (NAME:token_seq), so what text could add was not measured; give a "
            "comparison file with text.fields"
        )
    catalogue = items_reader(recbole)(path, id_fields)
    lines = dict(zip(catalogue.item_tokens, catalogue_texts(catalogue, template), strict=True))
    return Texts(catalogue, template.fields, lines), ""
