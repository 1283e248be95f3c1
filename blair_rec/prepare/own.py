"""Convert a user's own event log and optional items file to a RecBole data set: `blair-rec prepare csv`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from blair_rec.errors import ConfigError, SourceError, agreed, counted, first_of
from blair_rec.lines.dates import outside_unit
from blair_rec.lines.rejected import REJECTED, Rejected
from blair_rec.prepare.collect import collect
from blair_rec.prepare.comparison import write_comparison
from blair_rec.prepare.dataset import check_fields, write_items, write_log
from blair_rec.prepare.events import RawLog, first_of_each_pair, in_order, k_core, tied_by_rounding, without_doubles
from blair_rec.prepare.folder import Hashes, Tell, check_limits, is_done, need_room, new_folder, write_record
from blair_rec.prepare.items import ItemFile, Names, check_matches, check_texts
from blair_rec.prepare.reading.blocks import Progress
from blair_rec.prepare.reading.records import columns_of, need_columns, read_table
from blair_rec.prepare.times import describe

NOWHERE = Path(os.devnull)


@dataclass(frozen=True)
class OwnData:
    """A request: the columns of the files, and what to filter out."""

    events: Path
    """CSV, TSV, JSON lines or Parquet with one row per event."""
    user: str
    item: str
    time: str
    time_format: str | None = None
    """`whole`, `number`, or a pattern of strptime. If not given, it is found in the first thousand rows; later rows may
    use a similar format."""
    items: Path | None = None
    """The same kinds of file, with one row per item."""
    item_id: str | None = None
    """The column of `items` that names the item; by default the name in `item`."""
    fields: tuple[str, ...] = ()
    """The text columns of `items`."""
    core: int = 0
    """Users and items with fewer events are removed until none is left."""
    repeats: bool = True
    """Whether a user may have several events with one item; if False, only the first is kept."""
    unknown: bool = True
    """Whether to keep events whose items are not in `items`; these items then have no text."""
    max_rejected: float = 0.01
    """The share of lines that may be rejected."""

    def __post_init__(self) -> None:
        if empty := [name for name in ("time_format", "item_id") if getattr(self, name) == ""]:
            raise ConfigError(f"{empty[0]} is empty; give a value, or leave it out")
        if self.fields and self.items is None:
            raise ConfigError("--fields needs --items: it names text columns of the items file")
        if self.items is not None and not self.fields:
            known = ", ".join(columns_of(self.items))
            raise ConfigError(f"--fields is missing: which columns of {self.items} are text? It has: {known}")
        if len({self.user, self.item, self.time}) < 3:
            raise ConfigError("user, item and time must be three different columns; check --user, --item and --time")
        check_fields(self.fields)
        check_limits(self.core, self.max_rejected)

    @property
    def item_file(self) -> ItemFile | None:
        """The items file, if there is one."""
        return ItemFile(self.items, self.item_id or self.item, self.fields) if self.items is not None else None

    @property
    def sources(self) -> list[Path]:
        """The files to read."""
        return [self.events, *([self.items] if self.items is not None else [])]


def prepare_own(
    asked: OwnData,
    folder: Path,
    tell: Tell,
    progress: Progress | None = None,
    *,
    fresh: bool = False,
    dry: bool = False,
) -> bool:
    """Write the data set to `folder`, whose name it takes; return False if the same command already made it.

    The folder gets NAME.inter, NAME.item, NAME.yaml with its schema, and prepared.json. Rejected lines are in
    rejected.jsonl. Events are sorted by user and time; tied times keep file order. `tell` gets a summary before
    anything is written; `dry` stops there.

    Raises:
        SourceError: a file can't be read or lacks a column, the time format is unknown, or no event is left.
        RejectedLines: too many lines can't be used.
        OutputError: the folder can't be written, or has other content.
    """
    if dry:
        _read(asked, Rejected(NOWHERE, asked.max_rejected), tell, progress)
        return True
    if is_done(folder, asdict(asked), asked.sources, fresh):
        return False
    with new_folder(folder) as partial:
        log, names, found = _read(asked, Rejected(partial / REJECTED, asked.max_rejected), tell, progress)
        hashes = Hashes(asked.sources)
        hashes.begin()
        need_room(folder, 60 * log.table.height + (asked.items.stat().st_size if asked.items else 0), tell)
        write_log(partial / f"{folder.name}.inter", log)
        textless = 0
        if asked.item_file is not None and names is not None:
            wanted = log.item_names()
            rows = asked.item_file.rows(wanted, progress, names.repeated)
            textless = write_items(partial / f"{folder.name}.item", rows, asked.fields)
            tell(f"items without text: {textless:,} of {len(wanted):,}")
            check_texts(textless, len(wanted), asked.item_file)
        text = {"fields": asked.fields} if asked.fields else {}
        write_comparison(partial / f"{folder.name}.yaml", folder, log, text, asked.fields)
        write_record(partial, asdict(asked), hashes, {**found, "textless_items": textless})
    return True


def _read(
    asked: OwnData, rejected: Rejected, tell: Tell, progress: Progress | None
) -> tuple[RawLog, Names | None, dict[str, Any]]:
    """Return the filtered log, the items of the items file, and the findings for the record."""
    columns = [asked.user, asked.item, asked.time]
    need_columns(asked.events, columns)
    if asked.item_file is not None:
        asked.item_file.check()  # before a long log is read
    chunks = ((asked.events, chunk) for chunk in read_table(asked.events, columns, rejected, progress))
    log, time_format = collect(chunks, columns, rejected, asked.time_format, asked.events)
    names = asked.item_file.names(rejected, progress) if asked.item_file is not None else None
    if names is not None and asked.items is not None:
        check_matches(log.item_names(), names, asked.events, asked.items)
    counts: dict[str, dict[str, int]] = {}

    def step(name: str, log: RawLog) -> RawLog:
        counts[name] = log.counts
        tell(f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts[name].items()))
        return log

    log = step("without duplicate events", without_doubles(in_order(step("read", log))))
    if not asked.repeats:
        log = step("first of each user and item", first_of_each_pair(log))
    unknown = sorted(log.item_names() - names.known) if names is not None else []
    if unknown and not asked.unknown:
        log = step("with known items", log.without_items(unknown))
    if asked.core > 1:
        log = step(f"{asked.core}-core", k_core(log, asked.core))
    if not log.table.height:
        raise SourceError(
            f"no event is left of {counts['read']['events']:,}; see the summary for the step that removed them"
        )
    tell(f"times: {describe(log.table['time'], time_format)}")
    if not log.dates and (odd := outside_unit(log.table["time"].cast(pl.Float64).to_numpy())):
        tell(f"times: {odd}")
    if log.counts["users"] == log.table.height:
        tell(f"warning: no user has two events, so there is nothing to predict; is {asked.user!r} the column of users?")
    if ties := tied_by_rounding(log):
        tell(
            f"times: after rounding, {counted(ties, 'event')} {agreed(ties, 'have')} the same time as the event "
            "before; the order is kept"
        )
    if unknown:
        what = "they stay, without text" if asked.unknown else "their events were removed"
        tell(f"items that {asked.items} doesn't have: {len(unknown):,} (first: {first_of(unknown)}); {what}")
    if names is not None and names.surplus and asked.items is not None:
        tell(names.repeats(asked.items))
    if rejected.count:
        tell(rejected.summary(dry=rejected.path == NOWHERE))
    found = {
        "steps": counts,
        "time_format": time_format,
        "unknown_items": len(unknown),
        "item_rows_repeated": names.surplus if names is not None else 0,
        "rejected_lines": rejected.count,
    }
    return log, names, found
