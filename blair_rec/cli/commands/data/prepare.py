"""blair-rec prepare: turn raw files into a data set, pairs of texts, or a search benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import DownloadColumn

from blair_rec.cli.lists import split_list
from blair_rec.cli.numbers import number, whole
from blair_rec.cli.progress import Counters, add_quiet
from blair_rec.cli.terminal import Console, say
from blair_rec.cli.unused import refuse_unused
from blair_rec.errors import shell_line


def add(commands: Any) -> None:
    """Register the command and its kinds of source."""
    command = commands.add_parser("prepare", help="make a data set from your own files, or fetch a public one")
    kinds = command.add_subparsers(metavar="KIND", required=True)

    own = kinds.add_parser("csv", help="your own CSV, TSV, JSON lines or Parquet files")
    own.add_argument("--events", type=Path, required=True, metavar="FILE", help="the events, one per row")
    own.add_argument("--user", required=True, metavar="COL", help="the column of user ids in --events")
    own.add_argument("--item", required=True, metavar="COL", help="the column of item ids in --events")
    own.add_argument("--time", required=True, metavar="COL", help="the column of times in --events: numbers or dates")
    own.add_argument(
        "--time-format", help="whole, number, or a date pattern such as '%%d.%%m.%%Y' (default: detected from the file)"
    )
    own.add_argument("--items", type=Path, metavar="FILE", help="the item metadata, one item per row")
    own.add_argument("--item-id", metavar="COL", help="the column of item ids in --items (default: the name of --item)")
    own.add_argument(
        "--fields",
        default="",
        metavar="A,B",
        help="the columns of --items that form the text for the encoder, such as title,brand",
    )
    own.add_argument(
        "--core",
        type=whole,
        default=0,
        metavar="K",
        help="remove users and items with fewer than K events (default: 0)",
    )
    own.add_argument(
        "--repeats",
        choices=("keep", "first"),
        default="keep",
        help="if a user has several events with the same item: keep all (default) or only the first",
    )
    own.add_argument(
        "--unknown",
        choices=("keep", "drop"),
        help="events with items that are not in --items: keep (default) or drop",
    )
    own.add_argument("--dry-run", action="store_true", help="show what the files contain, then exit")
    _add_common(own, _own)

    amazon = kinds.add_parser("amazon-2023", help="a category of Amazon Reviews 2023")
    amazon.add_argument("--category", required=True, help="such as All_Beauty")
    amazon.add_argument("--core", type=whole, metavar="K", help="0 or 5 as published, or another number (default: 5)")
    amazon.add_argument(
        "--split",
        choices=("last_out", "timestamp"),
        help="the test split: each user's last event (last_out, default), or all events after a date (timestamp)",
    )
    amazon.add_argument("--source", type=Path, metavar="DIR", help="a local folder with the files (default: the hub)")
    amazon.add_argument("--raw", action="store_true", help="read the raw reviews instead of the prepared files")
    amazon.add_argument(
        "--benchmark", action="store_true", help="write RecBole's benchmark files: train, valid and test"
    )
    amazon.add_argument(
        "--pairs", action="store_true", help="write pairs of review and item text, to pre-train an encoder"
    )
    amazon.add_argument("--share", type=number, help="with --pairs: the share of reviews to use (default: 0.1)")
    amazon.add_argument("--seed", type=whole, help="with --pairs: the seed for choosing reviews (default: 0)")
    _add_common(amazon, _amazon)

    named = kinds.add_parser(
        "fetch", help="a public data set by its name, such as amazon-2014/Beauty or movielens/ml-1m"
    )
    named.add_argument("name", metavar="NAME", help="FAMILY/NAME; FAMILY alone lists its names")
    named.add_argument(
        "--source",
        metavar="DIR|URL",
        help="a local folder with the files, or the https address of a mirror (default: the public home)",
    )
    named.add_argument(
        "--core",
        type=whole,
        metavar="K",
        help="remove users and items with fewer than K events (default: 5 for Amazon, 0 for MovieLens)",
    )
    _add_common(named, _named, out="data/NAME")

    for name in ("amazon-c4", "esci"):
        search = kinds.add_parser(name, help=f"queries, items and relevance grades of {name}, for search-eval")
        search.add_argument("--source", type=Path, metavar="DIR", help="a local folder with the files")
        search.set_defaults(name=name)
        _add_common(search, _search)


def _add_common(command: Any, handler: Callable[[argparse.Namespace, Console], None], out: str | None = None) -> None:
    """Add the options of all kinds; `out` describes the default output folder, if there is one."""
    command.add_argument(
        "-o",
        "--out",
        type=Path,
        required=out is None,
        metavar="DIR",
        help="output folder; its name becomes that of the data set" + (f" (default: {out})" if out else ""),
    )
    command.add_argument(
        "--max-rejected",
        type=number,
        default=0.01,
        metavar="SHARE",
        help="the largest share of unusable lines to accept (default: 0.01)",
    )
    command.add_argument("--fresh", action="store_true", help="replace data that was prepared there before")
    add_quiet(command, "show no progress, only the summary and warnings")
    command.set_defaults(command=handler, goes_on=True)


def _own(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.prepare.own import OwnData, prepare_own

    if options.items is None:
        refuse_unused(options, {"item_id": "--item-id", "unknown": "--unknown"}, "without --items")
    asked = OwnData(
        options.events,
        options.user,
        options.item,
        options.time,
        options.time_format,
        options.items,
        options.item_id,
        tuple(split_list(options.fields)),
        options.core,
        options.repeats == "keep",
        options.unknown != "drop",
        options.max_rejected,
    )
    with Reading(console, options.quiet) as reading:
        made = prepare_own(asked, options.out, reading.tell, reading.progress, fresh=options.fresh, dry=options.dry_run)
    if not options.dry_run:
        _say_made(options.out, made, console)
        _say_what_next(options.out, console)


def _amazon(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.prepare.public.pairs import Pairs, prepare_pairs
    from blair_rec.prepare.public.reviews import Amazon, prepare_amazon

    with Reading(console, options.quiet) as reading:
        if options.pairs:
            names = {"core": "--core", "split": "--split", "raw": "--raw", "benchmark": "--benchmark"}
            refuse_unused(options, names, "with --pairs")
            share = 0.1 if options.share is None else options.share
            pairs = Pairs(options.category, options.source, share, options.seed or 0, options.max_rejected)
            made = prepare_pairs(pairs, options.out, reading.tell, reading.progress, fresh=options.fresh)
        else:
            refuse_unused(options, {"share": "--share", "seed": "--seed"}, "without --pairs")
            asked = Amazon(
                options.category,
                5 if options.core is None else options.core,
                options.split or "last_out",
                options.source,
                options.raw,
                options.benchmark,
                options.max_rejected,
            )
            made = prepare_amazon(asked, options.out, reading.tell, reading.progress, fresh=options.fresh)
    _say_made(options.out, made, console)
    if not options.pairs:
        _say_what_next(options.out, console)


def _named(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.prepare.public.fetch import Fetch, prepare_named

    asked = Fetch(options.name, options.source, options.core, options.max_rejected)
    out = options.out or Path("data") / asked.data.name
    with Reading(console, options.quiet) as reading:
        made = prepare_named(asked, out, reading.tell, reading.progress, fresh=options.fresh)
    _say_made(out, made, console)
    if asked.data.family == "recbole":
        say(console, f"next: name it in a comparison file: dataset: {out}")
    else:
        _say_what_next(out, console)


def _search(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.prepare.public.search import SearchData, prepare_search

    asked = SearchData(options.name, options.source, options.max_rejected)
    with Reading(console, options.quiet) as reading:
        made = prepare_search(asked, options.out, reading.tell, reading.progress, fresh=options.fresh)
    _say_made(options.out, made, console)


def _say_made(out: Path, made: bool, console: Console) -> None:
    say(console, f"{out} {'is ready' if made else 'exists already, written by the same command from the same files'}")


def _say_what_next(out: Path, console: Console) -> None:
    say(console, f"next: {shell_line('blair-rec', 'compare', out / f'{out.name}.yaml')}")


class Reading:
    """Shows how much of each file is read, and the lines of the summary."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.counters = Counters(console, quiet, columns=[DownloadColumn()])

    def __enter__(self) -> Reading:
        self.counters.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.counters.__exit__()

    def tell(self, line: str) -> None:
        """Print one line of the summary."""
        say(self.console, line)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes of a file are read. Some files are read twice."""
        self.counters.update(what, done, total, f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
