"""blair-rec export: write a finished run as a folder that works without torch, RecBole and this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from blair_rec.cli.numbers import whole
from blair_rec.cli.terminal import Console, say, show
from blair_rec.errors import ConfigError, shell_line

if TYPE_CHECKING:
    from blair_rec.serve.export.folder import ExportedRun


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser(
        "export", help="write a finished run as ONNX, with item vectors, a model card and a program that recommends"
    )
    command.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a run or a refit, such as runs/mine/runs/text-1"
    )
    command.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="the folder to write (required, unless --dry-run)"
    )
    command.add_argument("--store", type=Path, metavar="STORE", help="the store of text vectors, if it was moved")
    command.add_argument("--index", choices=["faiss"], help="add a search index of the item vectors")
    command.add_argument(
        "--rules-rank",
        type=whole,
        metavar="R",
        help="write rules between items as vectors of rank R, such as 512: an index can search them, but their scores "
        "are approximate",
    )
    command.add_argument(
        "--push",
        metavar="NAME",
        help="upload the folder to the Hugging Face hub: owner/name, or the name of a repository of your own",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="show the model card and the files, but write and upload nothing"
    )
    command.set_defaults(command=_export)


def _export(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.serve.export.folder import CARD, export_run
    from blair_rec.serve.export.hub import check_account, check_name, push

    if options.out is None and not options.dry_run:
        raise ConfigError("-o is missing; name the folder to write with -o DIR")
    if options.push is not None:
        check_name(options.push)
    if options.dry_run:
        with TemporaryDirectory() as folder:
            made = export_run(options.run, Path(folder) / "export", options.store, options.index, options.rules_rank)
            show((made.folder / CARD).read_text(encoding="utf-8"))
        _tell(made)
        where = [str(options.out)] * (options.out is not None) + [f"{options.push} on the hub"] * bool(options.push)
        say(Console(), f"nothing was written{' to ' + ' or '.join(where) if where else ''} (--dry-run)")
        return
    if options.push is not None:
        check_account(options.push)
    made = export_run(options.run, options.out, options.store, options.index, options.rules_rank)
    _tell(made)
    say(
        Console(),
        f"{made.folder}: try `{shell_line('python', made.folder / 'recommend.py', 'histories.jsonl', '-k', 10)}`",
    )
    if options.push is not None:
        say(Console(), f"uploaded to {push(made.folder, options.push)}")


def _tell(made: ExportedRun) -> None:
    for name, size in made.files.items():
        say(Console(), f"{size:>12,}  {name}")
    for name in made.left_out:
        say(Console(), f"{name} has weight 0 in the average, so it was not exported")
    if made.approximation is not None:
        say(Console(), str(made.approximation))
    elif made.difference:
        most = f"{made.difference:.1g} standard deviations"
        say(Console(), f"checked on random histories: scores differ from the run's own by {most} at most")
    else:
        say(Console(), "scores equal the run's own on random histories")
