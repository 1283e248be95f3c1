"""Atomic files to numbered columns: what RecBole makes of them, without a loop over rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from blair_rec.errors import DatasetError
from blair_rec.recommend.log import gather_windows

from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

logger = logging.getLogger("blair_rec")

SEQUENCES = {FeatureType.TOKEN_SEQ: torch.int64, FeatureType.FLOAT_SEQ: torch.float32}
"""Kinds of columns that hold lists, and what the lists become."""


class QuicklyRead(SequentialDataset):
    """RecBole's SequentialDataset, whose reading, filtering and numbering give the same without a loop over rows."""

    inter_feat: Any

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        wanted, unwanted = self._get_load_and_unload_col(source)
        if wanted == set():
            return None
        with open(filepath, encoding=self.config["encoding"]) as file:
            titles = file.readline().rstrip("\n").split(self.config["field_separator"])
        kinds: dict[str, FeatureType] = {}
        for title in titles:
            field, kind = _field_and_kind(title, filepath)
            if (wanted is None or field in wanted) and field not in (unwanted or ()):
                kinds[title] = kind
                if isinstance(source, FeatureSource) or source != "link":
                    self.set_field_property(field, kind, source, 1)
                    if kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                        self.field2bucketnum[field] = 2
        if not kinds:
            logger.warning("no column of %s is loaded", filepath)
            return None
        separators = self.config["field_separator"], self.config["seq_separator"]
        frame = read_columns(filepath, kinds, *separators, self.config["encoding"])
        frame.columns = [title.partition(":")[0] for title in frame.columns]
        limits = self.config["seq_len"] or {}
        for field, kind in zip(frame, kinds.values(), strict=True):
            if kind in SEQUENCES:
                longest = max(map(len, frame[field]), default=0)
                self.field2seqlen[field] = min(longest, limits.get(field, longest))
                if self.field2seqlen[field] < longest:
                    frame[field] = [cell[: limits[field]] for cell in frame[field]]
        return frame

    def _filter_by_inter_num(self) -> None:
        features = {self.uid_field: "user", self.iid_field: "item"}
        limits = {
            field: self._parse_intervals_str(self.config[f"{name}_inter_num_interval"])
            for field, name in features.items()
            if field is not None
        }
        while True:
            banned = {field: self._outside(field, features[field], limit) for field, limit in limits.items() if limit}
            if not any(map(len, banned.values())):
                return
            dropped = np.zeros(len(self.inter_feat), dtype=bool)
            for field, ids in banned.items():
                dropped |= self.inter_feat[field].isin(ids).to_numpy()
                if (feat := getattr(self, f"{features[field]}_feat")) is not None:
                    feat.drop(feat.index[feat[field].isin(ids)], inplace=True)
            self.inter_feat.drop(self.inter_feat.index[dropped], inplace=True)

    def _outside(self, field: str, name: str, intervals: Any) -> pd.Index:
        """Users or items with a number of events outside the intervals; of those without any, the ones in .user or
        .item where the first interval begins above 0."""
        count = self.inter_feat[field].value_counts()
        count.index = count.index.astype(object)
        count = count[count > 0]
        outside = count.index[~self._within_intervals(count.to_numpy(), intervals)]
        if (feat := getattr(self, f"{name}_feat")) is not None:
            ids = pd.Index(feat[field].astype(object))
            outside = outside.union(ids[count.reindex(ids, fill_value=0).to_numpy() < intervals[0][1]], sort=False)
        return outside

    def _remap(self, remap_list: Sequence[tuple[pd.DataFrame, str, FeatureType]]) -> None:
        """As RecBole's: tokens are numbered from 1 by where they first stand, alike in all columns of the list."""
        if not remap_list:
            return
        if len(remap_list) == 1 and remap_list[0][2] == FeatureType.TOKEN:
            tokens, starts = remap_list[0][0][remap_list[0][1]], []  # categories, numbered without their texts
        else:
            several, starts = self._concat_remaped_tokens(remap_list)
            tokens = np.asarray(several, dtype=object)
        ids, known = pd.factorize(tokens)
        names = np.array(["[PAD]", *known])
        for (feat, field, kind), numbers in zip(remap_list, np.split(ids + 1, starts), strict=True):
            self.field2id_token.setdefault(field, names)
            self.field2token_id.setdefault(field, TokenIds(names))
            ends = np.cumsum([len(cell) for cell in feat[field]])[:-1] if kind == FeatureType.TOKEN_SEQ else None
            feat[field] = numbers if ends is None else np.split(numbers, ends)

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Interaction:
        """As RecBole's; lists are padded all at once."""
        numerical = self.config["numerical_features"]
        lists = [name for name in data if self.field2type[name] in SEQUENCES and name not in numerical]
        columns = super()._dataframe_to_interaction(data.drop(columns=lists))
        for name in lists:
            dtype = SEQUENCES[self.field2type[name]]
            columns[name] = _padded(data[name].to_numpy(), self.field2seqlen[name]).to(dtype)
        columns.length = len(data)
        return columns


def read_columns(
    path: str, kinds: Mapping[str, FeatureType], separator: str, within: str, encoding: str
) -> pd.DataFrame:
    """The columns of an atomic file that `kinds` names.

    `kinds` goes by the whole title of a column, such as `item_id:token`. Tokens come as a categorical column in the
    order in which they appear, numbers as float64 (the nearest to what is written, up to 15 digits), and sequences as
    a column of arrays, split at `within`.

    Raises:
        ValueError: a line with too many columns, a number that is none, or bytes that are no text.
    """
    frame = pd.read_csv(
        path,
        sep=separator,
        usecols=list(kinds),
        dtype={title: np.float64 if kind == FeatureType.FLOAT else str for title, kind in kinds.items()},
        encoding=encoding,
        **({"engine": "c", "float_precision": "high"} if len(separator) == 1 else {"engine": "python"}),
    )
    columns = {title: frame.pop(title) for title in list(frame)}  # one by one, so that each text column can go
    for title, kind in kinds.items():
        if kind == FeatureType.TOKEN:
            codes, tokens = pd.factorize(columns[title])
            columns[title] = pd.Categorical.from_codes(codes, tokens)
        elif kind != FeatureType.FLOAT:
            dtype = np.float64 if kind == FeatureType.FLOAT_SEQ else object
            columns[title] = split_cells(columns[title], within, dtype)
    return pd.DataFrame(columns, copy=False)


def split_cells(texts: pd.Series, within: str, dtype: type) -> pd.Series:
    """Each text cut at `within` into an array of its pieces, empty ones left out: all cells are cut in one go."""
    padded = (texts.fillna("") + within).to_list()  # so that the pieces of neighbours stay apart
    flat = np.array("".join(padded).split(within)[:-1], dtype=object)
    kept = flat != ""
    pieces = np.fromiter((text.count(within) for text in padded), dtype=np.int64, count=len(padded))
    ends = np.concatenate([[0], np.cumsum(kept)])[np.cumsum(pieces)]
    return pd.Series(np.split(flat[kept].astype(dtype), ends[:-1])[: len(padded)], texts.index, dtype=object)


class TokenIds(Mapping[str, int]):
    """Token -> id, as RecBole's `field2token_id` holds it; the dict is made when the first token is looked up."""

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens = tokens

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {str(token): number for number, token in enumerate(self._tokens)}

    def __getitem__(self, token: str) -> int:
        return self._ids[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._tokens)


def _field_and_kind(title: str, path: str) -> tuple[str, FeatureType]:
    """`item_id:token` taken apart.

    Raises:
        DatasetError: no such kind of column.
    """
    field, _, kind = title.partition(":")
    known = [kind.value for kind in FeatureType]
    if kind not in known:
        raise DatasetError(
            f"{path}: the column {title!r} is none of RecBole's; write its kind behind a colon, as in {field}:token "
            f"(known: {', '.join(known)})"
        )
    return field, FeatureType(kind)


def _padded(cells: np.ndarray, width: int) -> Tensor:
    """[R] arrays, each cut to `width`, -> [R, longest], padded with zeros."""
    length = np.fromiter(map(len, cells), dtype=np.int64, count=len(cells))
    flat = torch.from_numpy(np.append(np.concatenate(cells), 0))  # so that there is something where all is empty
    kept = torch.from_numpy(np.minimum(length, width))
    return gather_windows(flat, torch.from_numpy(np.cumsum(length) - length), kept, int(kept.max()))
