"""A RecBole SequentialDataset with exact time order, histories built on demand, and item vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from blair_rec.config.split import SplitConfig
from blair_rec.data.cutoffs import PARTS, part_of
from blair_rec.data.hidden import drawn_items
from blair_rec.data.log import LOG_POSITION, EventLog, LogRows
from blair_rec.data.packing import places_in
from blair_rec.data.reading import QuicklyRead
from blair_rec.errors import DatasetError, counted

logger = logging.getLogger("blair_rec")

LEFT_OUT = {"valid_and_test": (1, 2), "valid_only": (1,), "test_only": (2,)}
"""RecBole's name of a leave-one-out split -> the parts (1 validation, 2 test) that get one of a user's last events."""


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """The text vectors of a data set's items, by item_id."""

    table: np.ndarray
    """[N, E] float32 over item ids; row 0, the padding, is zero."""
    store_sha256: str
    """SHA-256 of the store that the vectors come from."""
    fitted: Mapping[str, np.ndarray] | None = None
    """Parameters of transforms fitted earlier (FittedTransforms.arrays); None: transforms are fitted again."""


class TextSequentialDataset(QuicklyRead):
    """RecBole's SequentialDataset with four differences.

    1. Events are ordered by their float64 times, before RecBole rounds times to float32 (128 s for epoch seconds). Ties
       stay in file order, or are shuffled with the seed (`blair_ties`).
    2. The log is held once. `item_id_list` is built for the requested rows instead of being stored for every prefix.
    3. With `blair_split` the log is split at two points in time.
    4. `item_vectors` holds the vectors of the items from a store.

    Filtering, numbering and all other splits give the same result as RecBole's, without a loop over events or users.
    Benchmark files, which contain the histories themselves, are used as RecBole reads them.
    """

    inter_feat: Any
    item_vectors: ItemVectors | None = None
    log: EventLog | None = None
    event_times: np.ndarray | None = None
    """[M] float64, the times of the log's events; None for benchmark files."""
    neighbours = 0
    """Pairs of consecutive events of a user; 0 for benchmark files, which have no times."""
    tied_neighbours = 0
    """Pairs of these with tied times. They keep file order, or get a random order with `blair_ties: shuffled`."""
    without_history = 0
    """Events of this part of a `blair_split` that are their user's first and so have no history to predict from."""
    new_items: float | str | None = None
    """The items that are hidden with all their events: evaluate.new_items."""

    def __init__(self, config: Any, new_items: float | str | None = None) -> None:
        """
        Raises:
            DatasetError: no event is left without the new items; and as reading the files does.
        """
        self.new_items = new_items
        super().__init__(config)

    def _filter_by_inter_num(self) -> None:
        super()._filter_by_inter_num()
        if self.new_items is not None:  # what follows is as if the files had no line about them
            self._leave_out(self._chosen_items(self.new_items))

    def _chosen_items(self, which: float | str) -> Any:
        """The new items: a share of all, or those that have no event before `valid_from`."""
        items = self.inter_feat[self.iid_field]
        if not isinstance(which, str):
            return drawn_items([str(item) for item in items.unique()], which)
        assert self._cutoffs is not None  # the config asks for both
        part = part_of(self.inter_feat[self.time_field].to_numpy(np.float64), self._cutoffs, self.dataset_name)
        return np.setdiff1d(items[part > 0].unique().astype(str), items[part == 0].unique().astype(str))

    def _leave_out(self, items: Any) -> None:
        for feat in (self.inter_feat, self.item_feat):
            if feat is not None:
                feat.drop(feat.index[feat[self.iid_field].isin(items)], inplace=True)
        if self.inter_feat.empty or len(items) == 0:
            what = "no item is new" if len(items) == 0 else "no event is left without them"
            raise DatasetError(
                f"data set {self.dataset_name!r}: evaluate.new_items is {self.new_items}, and {what}; choose another "
                "share or cut-off"
            )

    def _benchmark_presets(self) -> None:
        # RecBole looks for the histories under this name, whatever ITEM_ID_FIELD is.
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        super()._benchmark_presets()

    def _remove_duplication(self) -> None:
        super()._remove_duplication()
        self.inter_feat.sort_index(inplace=True)  # RecBole sorts by time here and loses the order of ties

    def _change_feat_format(self) -> None:
        if self.config["benchmark_filename"] is None:
            self._order_by_exact_time()
            super()._change_feat_format()
            return
        name = self.iid_field + self.config["LIST_SUFFIX"]
        if name not in (self.config["alias_of_item_id"] or []):
            raise DatasetError(_NO_ALIAS.format(name=name))
        if self._cutoffs is not None:
            raise DatasetError(
                f"data set {self.dataset_name!r} consists of benchmark files, which are already split; "
                "remove the cut-off times"
            )
        super()._change_feat_format()
        if (longest := self.inter_feat[name].shape[1]) > self.max_item_list_len:
            raise DatasetError(
                f"the histories in {name!r} have up to {counted(longest, 'item')}, but MAX_ITEM_LIST_LENGTH is "
                f"{self.max_item_list_len}; set it to {longest}, or shorten the histories to their last items"
            )

    @property
    def _cutoffs(self) -> SplitConfig | None:
        split = self.config["blair_split"]
        return SplitConfig(**split) if split else None

    def _order_by_exact_time(self) -> None:
        if self.time_field not in self.inter_feat:
            raise DatasetError(
                f"data set {self.dataset_name!r}: no column {self.time_field!r} was loaded from .inter, "
                "so the order of events is unknown; add it to load_col, or name the time column with TIME_FIELD "
                f"(columns: {', '.join(self.inter_feat)})"
            )
        order = np.arange(len(self.inter_feat))  # ties in all keys stay in file order
        if self.config["blair_ties"] == "shuffled":
            order = np.random.default_rng(self.config["seed"]).random(len(order)).argsort()
        for field in (self.time_field, self.uid_field):
            key = torch.from_numpy(self.inter_feat[field].to_numpy()[order])
            order = order[torch.argsort(key, stable=True).numpy()]
        frame, self.inter_feat = self.inter_feat, None  # column by column, so there are never two logs in memory
        self.inter_feat = pd.DataFrame({field: frame.pop(field).to_numpy()[order] for field in list(frame)}, copy=False)
        time, user = self.inter_feat[self.time_field].to_numpy(), self.inter_feat[self.uid_field].to_numpy()
        same_user = user[1:] == user[:-1]
        self.event_times = time.astype(np.float64, copy=False)
        self.neighbours = int(same_user.sum())
        self.tied_neighbours = int((same_user & (time[1:] == time[:-1])).sum())

    def data_augmentation(self) -> None:
        """Make one row per event that has a history; the history is built when the row is requested."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        fields = {field: self.inter_feat[field] for field in self.inter_feat}
        offsets = torch.searchsorted(fields[self.uid_field], torch.arange(self.user_num + 1, device="cpu"))
        self.log = EventLog(fields, self.uid_field, self.iid_field, offsets)
        position = torch.arange(len(self.log.user), device="cpu")
        rows = position[self.log.before(position) > 0]
        if len(rows) == 0:
            raise DatasetError(f"data set {self.dataset_name!r}: no user has two events, so nothing can be predicted")
        lists = {getattr(self, f"{field}_list_field"): field for field in fields if field != self.uid_field}
        self.inter_feat = LogRows(self.log, rows, lists, self.item_list_length_field, self.max_item_list_len)

    def build(self) -> list[Any]:
        """Return the training, validation and test split: RecBole's `eval_args`, or cut-off times with `blair_split`.

        With `blair_split` an event before `valid_from` is a training target, an event before `test_from` a validation
        target, and any other event a test target. The history of each target is all earlier events of its user.

        Raises:
            DatasetError: cut-off times leave a part empty, or are dates and the unit of the times is unknown.
        """
        if self._cutoffs is None:
            return super().build()
        self._change_feat_format()
        assert self.event_times is not None
        of_event = part_of(self.event_times, self._cutoffs, self.dataset_name)
        of_row = of_event[self.inter_feat.position]
        splits = self._split_rows([np.flatnonzero(of_row == number) for number in range(3)])
        for number, split in enumerate(splits):
            split.without_history = int((of_event == number).sum()) - len(split)
        lost = ", ".join(f"{split.without_history:,} of {name}" for split, name in zip(splits, PARTS, strict=True))
        logger.info("skipped events that are their user's first and have no history: %s", lost)
        return splits

    def leave_one_out(self, group_by: str | None, leave_one_mode: str) -> list[Any]:
        """Split like RecBole: hold out the last events of every user that has other events."""
        if group_by is None or leave_one_mode not in LEFT_OUT:
            return super().leave_one_out(group_by, leave_one_mode)  # raises RecBole's error
        parts = LEFT_OUT[leave_one_mode]

        def cuts(size: np.ndarray) -> list[np.ndarray]:
            # If a user has too few events, the earlier part gets none: with two events the last one is for testing.
            left_out = [np.minimum(size - 1, sum(part >= number for part in parts)) for number in (1, 2)]
            return [size - count for count in left_out]

        return self._split_groups(self.inter_feat[group_by].numpy(), cuts)

    def split_by_ratio(self, ratios: Sequence[float], group_by: str | None = None) -> list[Any]:
        """Split like RecBole: by shares of all rows, or of each user's rows."""
        shares = [ratio / sum(ratios) for ratio in ratios]
        group = np.zeros(len(self), dtype=np.int64) if group_by is None else self.inter_feat[group_by].numpy()

        def cuts(size: np.ndarray) -> list[np.ndarray]:
            known, of_group = np.unique(size, return_inverse=True)  # groups of the same size are split the same way
            return list(np.array([self._calcu_split_ids(int(tot), shares) for tot in known])[of_group].T)

        return self._split_groups(group, cuts)

    def time_based_split(self, ratios: Sequence[float], group_by: str | None) -> list[Any]:
        """Split like RecBole 1.2.1: the latest share of events for testing, the rest by shares per user."""
        if group_by is None:
            return super().time_based_split(ratios, group_by)
        shares = [ratio / sum(ratios) for ratio in ratios]
        time, group = self.inter_feat[self.time_field].numpy(), self.inter_feat[group_by].numpy()
        early = time <= np.percentile(time, 100 * (1 - shares[-1]))
        codes = pd.factorize(group)[0]
        size = np.bincount(codes, weights=early).astype(np.int64)
        return self._split_groups(group, lambda _: [(size * (shares[0] / (1 - shares[2]))).astype(np.int64), size])

    def _split_groups(self, group: np.ndarray, cuts: Callable[[np.ndarray], Sequence[np.ndarray]]) -> list[Any]:
        """Split rows by their position in their group; groups stay in the order of their first rows.

        `cuts` gets the group sizes [G] and returns the bounds between the parts: one [G] array per bound.
        """
        codes = pd.factorize(group)[0]
        order = np.argsort(codes, kind="stable")
        size = np.bincount(codes)
        _, nth = places_in(size)
        bounds = cuts(size)
        part = sum((nth >= np.repeat(bound, size)).astype(np.int8) for bound in bounds)
        return self._split_rows([order[part == number] for number in range(len(bounds) + 1)])

    def _split_rows(self, parts: Sequence[np.ndarray]) -> list[Any]:
        self._drop_unused_col()
        return [self.copy(self.inter_feat.select(rows)) for rows in parts]

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return [user_num, item_num] sparse counts of each user's events up to the user's last row in this split."""
        if self.log is None or value_field is not None:
            return super().inter_matrix(form=form, value_field=value_field)
        seen = self.events_up_to_last_row()
        user, item = self.log.user[seen].numpy(), self.log.item[seen].numpy()
        shape = (self.user_num, self.item_num)
        return sparse.coo_matrix((np.ones(len(user), np.float32), (user, item)), shape=shape).asformat(form)

    def histories(self, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return every event before each row's target, not only the window: (row [P], item_id [P]).

        `rows` selects some rows, which are then numbered from 0.
        """
        if self.log is None:  # benchmark files contain only the window
            items = self.inter_feat[self.iid_field + self.config["LIST_SUFFIX"]][rows]
            row, column = torch.nonzero(items, as_tuple=True)
            return row, items[row, column]
        row, event = self.log.earlier(self.inter_feat[LOG_POSITION][rows])
        return row, self.log.item[event]

    def targets_in_history(self) -> np.ndarray:
        """Return [rows] bool: whether the target is in its own history, and so not a candidate under masking."""
        row, item = self.histories()
        found = np.zeros(len(self), dtype=bool)
        found[row[item == self.inter_feat[self.iid_field][row]].numpy()] = True
        return found

    def events_up_to_last_row(self) -> Tensor:
        """Return [M] bool: events up to and including the last row of their user in this split."""
        assert self.log is not None
        last = torch.full((self.user_num,), -1, device="cpu")
        last.scatter_reduce_(0, self.inter_feat[self.uid_field], self.inter_feat[LOG_POSITION], "amax")
        return torch.arange(len(self.log.item), device=last.device) <= last[self.log.user]


_NO_ALIAS = (
    "benchmark files have the histories in {name!r}, but alias_of_item_id doesn't name it, "
    "so RecBole would give its items other ids than the targets; add `alias_of_item_id: [{name}]`"
)
