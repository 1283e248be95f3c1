"""`blair_rec.recommend_file`: write the best items for every user of a file, or of the data set, to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blair_rec.config.comparison import load_config
from blair_rec.errors import ConfigError, SourceError, check_whole, counted, first_of, out_of
from blair_rec.evaluate.page.cards import CARDS_FILE, read_cards
from blair_rec.evaluate.runs.run_files import CONFIG_FILE
from blair_rec.experiment.planning.data_files import data_folder
from blair_rec.experiment.splits.reading import read_splits, with_all_items
from blair_rec.lines.rows import KINDS, read_columns
from blair_rec.lines.values import Ids
from blair_rec.serve.batch.histories import ITEM, Unknown, UserBlock, in_blocks, read_histories
from blair_rec.serve.batch.outputs import Output, Recommended, check_output, whole_file
from blair_rec.serve.items import KnownItems, OnUnknown, check_unknown
from blair_rec.serve.recommender import load
from blair_rec.serve.topk import HistoryIds, TopK
from blair_rec.text.titles import TITLE_FIELDS

SCORED = 1024
"""Users whose vectors are computed together."""

OnServed = Callable[[str, int, int], None]
"""Called with (what is counted, done, in all)."""


@dataclass
class Served:
    """The counts of a written file of recommendations."""

    users: int = 0
    rows: int = 0
    by_popularity: int = 0
    """Users without a known item, who got the most popular ones."""
    short: int = 0
    """Users for whom fewer than k items were left."""
    skipped: int = 0
    """Events of unknown items, and unknown items that were allowed or denied."""
    first_skipped: tuple[str, ...] = ()
    hidden_items: int = 0
    """Items that the comparison hid from the run (evaluate.new_items). The run can't recommend them."""
    hidden_events: int = 0
    """Events of these items, which are not in the histories."""

    def notes(self, k: int) -> list[str]:
        """Return sentences for readers of the file, on unusual counts; empty if there are none."""
        found = []
        if self.skipped:
            found.append(f"unknown items skipped: {self.skipped:,} (first: {first_of(self.first_skipped)})")
        if self.hidden_items:
            found.append(
                f"hidden from this run (evaluate.new_items): {counted(self.hidden_items, 'item')} with "
                f"{counted(self.hidden_events, 'event')}: not in the histories, and not recommended. `blair-rec refit` "
                "learns hidden items, and `extra_items` (--extra-items) adds those with a text vector"
            )
        if self.by_popularity:
            no_item = out_of(self.by_popularity, self.users, "user", "have")
            found.append(f"{no_item} no known item and got the most popular items; the column by_popularity says so")
        if self.short:
            few = out_of(self.short, self.users, "user", "have")
            found.append(f"{few} fewer than {counted(k, 'item')} left to recommend, so the file has fewer rows there")
        return found


def recommend_file(
    run: str | Path,
    out: str | Path,
    *,
    histories: str | Path | None = None,
    all_users: bool = False,
    k: int = 10,
    titles: bool = False,
    only: str | Path | None = None,
    deny: str | Path | None = None,
    exclude_history: bool = True,
    unknown: OnUnknown = "error",
    extra_items: str | Path | None = None,
    store: str | Path | None = None,
    progress: OnServed = lambda what, done, total: None,
) -> Served:
    """Write the k best items for many users to a Parquet, CSV or JSON lines file, which appears when it is complete.

    The columns are user_id, item_id, score, rank (from 1) and by_popularity. Scores can only be compared within one
    user. Users without a known item get the most popular items: for them by_popularity is true, and the score is the
    item's number of events. Users are in the order of their first rows.

        blair_rec.recommend_file("runs/mine/refit", "best.csv", histories="histories.csv", k=10)

    Args:
        run: a finished run, or a refit, which has seen the newest events.
        histories: a .parquet, .csv or .jsonl file with the columns user_id, item_id and optionally timestamp (one event
            per row), or user_id and history (a list of items per row; in CSV with spaces between the items).
        all_users: instead of `histories`, recommend to all users of the data set, from all their events. Items that the
            comparison hid from the run (evaluate.new_items) are unknown: their events are skipped and counted.
        k: the number of items per user; fewer where fewer are left.
        titles: add a column of the items' titles.
        only, deny: files that name items (a column item_id, or a text file with one item id per line). `only`
            allows no other items; `deny` excludes these.
        exclude_history: never recommend an item of the history again.
        unknown: whether unknown items are an error (error), or skipped and counted (skip).
        extra_items: a store of more items, by the same encoder from the same fields; they can be recommended, too.
        store: the store of the items' text vectors, if it was moved after the run.
        progress: called with (what is counted, the number done, the number in all).

    Returns:
        The counts of the file: users, rows, users without a known item, and skipped items.

    Raises:
        ConfigError: neither histories nor all_users, or both; k is below 1 or above the number of
            items that may be recommended; the data set has no titles; nothing is left to recommend.
        SourceError, UnknownItems: a file that can't be read or used.
        OutputError: `out` can't be written; FolderBusy: another process is writing it.
        CheckpointError, MissingEmbeddings, StoreError: the run can't be loaded, as in `load`.
        DatasetError, RecBoleError: the data set can't be read (only with `all_users`).
    """
    out, run = Path(out), Path(run)
    files = [None if path is None else Path(path) for path in (histories, only, deny)]
    if (histories is None) == (not all_users):
        raise ConfigError(
            "name either a file of histories (--histories FILE), or all users of the data set (--all-users)"
        )
    check_unknown(unknown)
    check_whole("k", k, least=1)
    check_output(out, files)
    recommender = load(run, store, extra_items)
    known, policy = recommender.known, Unknown(unknown)
    allowed, denied = (None if path is None else read_items(path) for path in files[1:])
    candidates, skipped = known.candidates(allowed, denied or [], unknown, named=(only, deny))
    named = _titles(run) if titles else None
    served = Served(skipped=len(skipped), first_skipped=tuple(skipped[:3]))

    def reading(done: int, total: int) -> None:
        progress(f"reading {Path(histories or '').name}", done, total)

    if files[0] is None:
        blocks = _of_the_data_set(run, known, policy, served)
    else:
        blocks = read_histories(files[0], known, policy, reading)
    with whole_file(out, known.tokens, named) as output, recommender.top(candidates).ready(len(known)) as top:
        for block in blocks:
            _serve(block, top, known, candidates, k, exclude_history, output, served)
            if block.total is not None:
                progress("users", block.done, block.total)
    served.skipped += policy.skipped
    served.first_skipped = served.first_skipped or tuple(policy.first)
    return served


def _serve(
    block: UserBlock,
    top: TopK,
    known: KnownItems,
    candidates: np.ndarray,
    k: int,
    exclude_history: bool,
    output: Output,
    served: Served,
) -> None:
    """Recommend to the users of a block, and count."""
    users, width = len(block.users), min(k, len(candidates))
    items, scores = np.zeros((users, width), dtype=np.int64), np.zeros((users, width), dtype=np.float32)
    read = np.flatnonzero(block.lengths)
    whole, place = HistoryIds(block.items, block.lengths[read]), 0
    for part in whole.split(SCORED):
        rows = read[place : place + len(part.lengths)]
        items[rows], scores[rows] = top.best(part, width, exclude_history)
        place += len(rows)
    nothing = block.lengths == 0
    if nothing.any():
        popular, events = known.most_popular(candidates)
        items[nothing], scores[nothing] = popular[:width], events[:width]
    row, column = np.nonzero(items)
    output.write(Recommended(block.users, row, items[row, column], scores[row, column], column + 1, nothing[row]))
    served.users += users
    served.rows += len(row)
    served.by_popularity += int(nothing.sum())
    served.short += int((np.count_nonzero(items, axis=1) < k).sum())


def read_items(path: Path) -> list[str]:
    """Read item tokens: the column item_id of a CSV, JSON lines or Parquet file, or the lines of another text file.

    Raises:
        SourceError: a file that can't be read, is empty, or holds something else.
    """
    if path.suffix.lower() in KINDS:
        ids, found = Ids(path, ITEM), []
        for columns in read_columns(path, (ITEM,)):
            found += ids(columns.values[ITEM], columns.lines)
        return found
    if not path.is_file():
        raise SourceError(f"{path} is not there, or not a file")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8") from None
    except OSError as error:
        raise SourceError(f"{path} can't be read ({error.strerror or error})") from None
    found = [line.removesuffix("\r") for line in lines if line.strip()]
    if not found:
        raise SourceError(f"{path} names no item")
    return found


def _comparison_of(run: Path) -> Path:
    """Return the folder with the comparison's own files: a refit has copies, a run is in a folder below them."""
    return run if (run / CONFIG_FILE).is_file() else run.resolve().parent.parent


def _titles(run: Path) -> dict[str, str]:
    """
    Raises:
        ConfigError: there are no titles. BadItemCards: they can't be read.
    """
    titles = dict(read_cards(_comparison_of(run)).titles)
    if not titles:
        raise ConfigError(
            f"no titles of the items are known: {_comparison_of(run)} has none in {CARDS_FILE}; a title comes from a "
            f"column of the items with one of these names: {', '.join(TITLE_FIELDS)}, or else from text.fields if a "
            "variant uses text; leave --titles out, or rename a column and run `compare` again"
        )
    return titles


def _of_the_data_set(run: Path, known: KnownItems, unknown: Unknown, served: Served) -> Iterator[UserBlock]:
    """Read all users of a run's data set, as it is now, with all their events in the order of time.

    Hidden items of the run are counted in `served`.
    """
    path = _comparison_of(run) / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"the data set of {run} is not known, because {path} is missing; give `histories` (--histories)"
        )
    config = load_config(path)
    folder = data_folder(config.dataset)
    data, _ = read_splits(with_all_items(config), folder)
    log = data.train.log
    if log is None:
        raise ConfigError("a data set of benchmark files holds no whole histories; give `histories` (--histories)")
    id_of_item, item_of_event = known.ids(data.item_tokens), log.item.numpy()
    used = np.bincount(item_of_event, minlength=len(data.item_tokens)) > 0
    missing = np.flatnonzero(used & (id_of_item == 0))
    missing = missing[missing > 0]
    if len(missing) and config.evaluate.new_items is not None:
        shown = set(read_splits(config, folder)[0].item_tokens)
        hidden = np.array([item for item in missing if data.item_tokens[item] not in shown], dtype=np.int64)
        missing = np.setdiff1d(missing, hidden)
        served.hidden_items, served.hidden_events = len(hidden), int(np.isin(item_of_event, hidden).sum())
    if len(missing):
        unknown.see([data.item_tokens[item] for item in missing], np.zeros(len(missing), np.int64), str(path))
        # Events are counted, as in a file.
        unknown.skipped += int(np.isin(item_of_event, missing).sum()) - len(missing)
    kept = id_of_item[item_of_event] > 0
    users = [str(token) for token in data.train.field2id_token[data.train.uid_field]][1:]
    item, user = id_of_item[item_of_event[kept]], log.user.numpy()[kept]
    lengths = np.bincount(user, minlength=len(users) + 1)[1:]
    yield from in_blocks(users, item, lengths, 0, len(users))
