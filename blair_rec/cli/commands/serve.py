"""blair-rec refit | recommend: use the winner of a finished comparison."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blair_rec.cli.lists import comma_list
from blair_rec.cli.numbers import seed_list, whole
from blair_rec.cli.progress import Counters, add_quiet
from blair_rec.cli.terminal import Console, say
from blair_rec.errors import counted, shell_line


def add(commands: Any) -> None:
    """Register the commands."""
    command = commands.add_parser("refit", help="train the winner of a comparison again, on all events")
    command.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a comparison (its best variant on validation is used), or "
        "the folder of one run"
    )  # fmt: skip
    command.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="output folder of the refit")
    command.add_argument("--variant", metavar="NAME", help="use this variant instead of the best one")
    command.add_argument("--seeds", metavar="1,2", help="use only these seeds (default: all, averaged)")
    command.add_argument("--store", type=Path, metavar="DIR", help="the store of text vectors, if it was moved")
    add_quiet(command)
    command.set_defaults(command=_refit, goes_on=True)

    command = commands.add_parser("recommend", help="write the top items of many users into a file")
    command.add_argument("run", type=Path, metavar="RUN", help="a refit, or a run such as runs/mine/runs/text-1")
    users = command.add_mutually_exclusive_group(required=True)
    users.add_argument(
        "--histories",
        type=Path,
        metavar="FILE",
        help=".parquet, .csv or .jsonl with user_id, item_id and optionally timestamp, or with user_id and a list "
        "`history`",
    )
    users.add_argument(
        "--all-users", action="store_true", help="recommend to all users of the data set, from all their events"
    )
    command.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="output file, .parquet, .csv or .jsonl, "
        "with user_id, item_id, score, rank, by_popularity (true for users without a known item)"
    )  # fmt: skip
    command.add_argument("-k", type=whole, default=10, help="the number of items per user (default: 10)")
    command.add_argument("--titles", action="store_true", help="add a column with the items' titles")
    command.add_argument(
        "--only",
        type=Path,
        metavar="FILE",
        help="recommend only the items in FILE: a text file with one per line, or .parquet, .csv or .jsonl with a "
        "column item_id",
    )
    command.add_argument(
        "--except",
        dest="deny",
        type=Path,
        metavar="FILE",
        help="never recommend the items in FILE, a file as for --only",
    )
    command.add_argument(
        "--include-history", action="store_true", help="also recommend items that are in the user's history"
    )
    command.add_argument(
        "--unknown-items",
        choices=("error", "skip"),
        default="error",
        help="what to do with items that the model doesn't have: stop with an error (default), or skip and count them",
    )
    command.add_argument(
        "--extra-items", type=Path, metavar="STORE", help="a store of new items to add, for models that use text"
    )
    command.add_argument("--store", type=Path, metavar="DIR", help="the store of text vectors, if it was moved")
    add_quiet(command)
    command.set_defaults(command=_recommend)


def _refit(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.serve.refit import refit

    with Counters(console, options.quiet) as counters:

        def report(name: str, done: int, total: int) -> None:
            counters.update(name, done, total, f"{name}: {done:,} of {counted(total, 'training step')}")

        out = refit(
            options.run,
            options.out,
            variant=options.variant,
            seeds=None if options.seeds is None else seed_list(comma_list("--seeds", options.seeds)),
            store=options.store,
            progress=report,
        )
    if not options.quiet:
        say(
            console,
            f"the refit is in {out}; next: {shell_line('blair-rec', 'recommend', out, '--all-users', '-o', 'FILE')}",
        )


def _recommend(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.serve.batch.recommend import recommend_file

    with Counters(console, options.quiet) as counters:
        served = recommend_file(
            options.run,
            options.out,
            histories=options.histories,
            all_users=options.all_users,
            k=options.k,
            titles=options.titles,
            only=options.only,
            deny=options.deny,
            exclude_history=not options.include_history,
            unknown=options.unknown_items,
            extra_items=options.extra_items,
            store=options.store,
            progress=counters.update,
        )
    for note in served.notes(options.k):
        say(console, note)
    if not options.quiet:
        say(
            console,
            f"wrote {counted(served.rows, 'recommendation')} for {counted(served.users, 'user')} to {options.out}",
        )
