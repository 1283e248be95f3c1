"""The command line: blair-rec compare | encode | leaderboard | run. The only place that prints."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import blair_rec
from blair_rec.compare import Listener, compare, leaderboard, planned
from blair_rec.config import CompareConfig, TextConfig, load_config
from blair_rec.errors import BlairRecError, ConfigError
from blair_rec.evaluate.report import to_terminal
from blair_rec.plan import Run, changes
from blair_rec.sections import read_section, read_yaml

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 (an error, told in one message), 2 (usage) or 130 (interrupted)."""
    console = Console(stderr=True)
    options = _parser().parse_args(arguments)
    _set_up_logging(console)
    try:
        options.command(options, console)
    except BlairRecError as error:
        console.print("[bold red]error:[/]", end=" ")
        _say(console, str(error))
        return EXIT_ERROR
    except KeyboardInterrupt:
        _say(console, "interrupted; what is finished is kept: start the same command again to go on")
        return EXIT_INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blair-rec", description="Does item text help a sequential recommender?")
    parser.add_argument("--version", action="version", version=f"blair-rec {blair_rec.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("compare", help="encode, train and rank all variants of a comparison file")
    command.add_argument("config", type=Path, metavar="CONFIG", help="a comparison file (YAML)")
    command.add_argument("-o", "--out", type=Path, help="output folder (default: runs/ and the name of CONFIG)")
    command.add_argument("--seeds", help="1,2,3 instead of the seeds in CONFIG")
    command.add_argument("--variants", help="a,b: only these, and the baseline if named")
    command.add_argument("--encoder", help="instead of text.encoder in CONFIG")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as train.epochs=5")
    command.add_argument("--dry-run", action="store_true", help="tell the runs and which are done, and stop")
    command.add_argument("--fresh", action="store_true", help="train finished runs again")
    command.set_defaults(command=_compare)

    command = commands.add_parser("encode", help="precompute the text vectors of a catalogue")
    command.add_argument("--items", required=True, metavar="FILE", help="a RecBole .item file or JSON lines")
    command.add_argument("--fields", required=True, help="metadata fields that make up the text: title,brand")
    command.add_argument("--encoder", default=TextConfig().encoder, help="hub name, local folder or offline package")
    command.add_argument("--pooling", default="auto", help="auto, cls or mean")
    command.add_argument("--max-length", type=int, default=TextConfig().max_length, help="tokens read per item")
    command.add_argument("-o", "--out", type=Path, required=True, metavar="STORE", help="folder of the store")
    command.set_defaults(command=_encode)

    command = commands.add_parser("leaderboard", help="render the results of a comparison again")
    command.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders that compare wrote")
    command.set_defaults(command=_leaderboard)

    command = commands.add_parser(
        "run",
        help="RecBole's quick start with the plugin in place",
        allow_abbrev=False,  # --mod is some key of RecBole, not --model
        epilog="--key=value sets any RecBole or blair_* key",
    )
    command.add_argument("--model", required=True, help="such as BLaIRSASRec")
    command.add_argument("--dataset", required=True, help="as RecBole finds it, such as ml-100k")
    command.add_argument("--config-files", nargs="*", default=[], metavar="F", help="RecBole YAML files")
    command.set_defaults(command=_run, takes_keys=True)
    parser.parse_args = _with_keys(parser)  # type: ignore[method-assign]
    return parser


def _with_keys(parser: argparse.ArgumentParser) -> Any:
    """parse_args where only `run` may be given keys that argparse doesn't know."""

    def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
        options, unknown = parser.parse_known_args(arguments)
        if unknown and not getattr(options, "takes_keys", False):
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        options.keys = unknown
        return options

    return parse


def _say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: no markup, and no breaks that a log or a search would stumble over."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _show(table: Table) -> None:
    """A result, on standard output; wide enough for a leaderboard where no terminal says how wide it is."""
    Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100).print(table)


class _Lines(logging.Handler):
    """What the package logs, as lines that a progress bar makes room for."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        _say(self.console, f"{record.levelname.lower()}: " * warns + record.getMessage(), "yellow" if warns else "")


def _set_up_logging(console: Console) -> None:
    log = logging.getLogger("blair_rec")
    log.handlers = [_Lines(console)]
    log.setLevel(logging.INFO)
    log.propagate = False
    # A table of weights that a checkpoint has or lacks; where it matters, the encoder raises an error itself.
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_load_report)
    # RecBole fills missing values in a way that pandas announces to change; the declared pandas still does it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")


def _is_no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _compare(options: argparse.Namespace, console: Console) -> None:
    overrides = []
    if options.encoder is not None:  # how the other encoder is read is not how this one is
        overrides += [f"text.encoder={json.dumps(options.encoder)}", "text.revision=null", "text.pooling=auto"]
    overrides += options.set
    if options.seeds is not None:
        overrides.append(f"seeds=[{options.seeds}]")
    config = load_config(options.config, overrides)
    if options.variants is not None:
        config = config.only([name.strip() for name in options.variants.split(",")])
    out = options.out or Path("runs") / options.config.stem
    if options.dry_run:
        _show_plan(config, out, console, options.fresh)
        return
    with _Live(console) as live:
        board = compare(config, out, fresh=options.fresh, listener=live)
    if board is None:
        _say(console, f"no leaderboard yet: the baseline {config.baseline!r} has no finished run in {out}")
        return
    _show(to_terminal(board))
    _say(console, f"leaderboard.md, .csv, .json and the runs are in {out}")


def _show_plan(config: CompareConfig, out: Path, console: Console, fresh: bool) -> None:
    encodings, runs = planned(config, out)
    table = Table("run", "items", "state", title=f"{config.dataset}, {config.model}: {len(runs)} runs in {out}")
    for run in runs:
        if not run.done:
            state = "to do"
        elif fresh:
            state = "done, to do again (--fresh)"
        else:
            state = f"done, but changed since: {'; '.join(changed)}" if (changed := changes(run)) else "done"
        table.add_row(run.folder.name, config.variants[run.variant].items, state)
    _show(table)
    for encoding in dict.fromkeys(encodings.values()):
        state = "to do" if encoding.known_sha256() is None else "done"
        _say(console, f"encoding {len(encoding.catalogue)} items with {encoding.source.name}: {state}")


def _encode(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.item_vectors import find_encoder
    from blair_rec.text.catalogue import read_catalogue
    from blair_rec.text.encode import encode_catalogue

    fields = [name.strip() for name in options.fields.split(",")]
    raw = {"fields": fields, "encoder": options.encoder, "pooling": options.pooling, "max_length": options.max_length}
    text = read_section(TextConfig, raw, "encode")
    source = find_encoder(text)
    with _Live(console) as live:
        store = encode_catalogue(
            read_catalogue(options.items),
            text.fields,
            source,
            options.out,
            progress=lambda done, total: live.encoding(source.name, done, total),
        )
    _say(Console(), f"{len(store)} vectors of width {store.text_dim} by {source.name} in {options.out}")


def _leaderboard(options: argparse.Namespace, console: Console) -> None:
    for folder in options.folders:
        board = leaderboard(folder)
        if board is None:
            _say(console, f"{folder}: the baseline has no finished run yet")
        else:
            _show(to_terminal(board))


def _run(options: argparse.Namespace, console: Console) -> None:
    settings = {}
    for key in options.keys:
        name, equals, value = key.removeprefix("--").partition("=")
        if not key.startswith("--") or not equals:
            raise ConfigError(f"{key!r} is not --key=value")
        settings[name] = read_yaml(value, key)
    from blair_rec.recbole import run_recbole, with_text
    from blair_rec.recommend.models import model_class

    if options.model.startswith("BLaIR"):  # of whichever model of RecBole it is made
        with_text(model_class(options.model.removeprefix("BLaIR")).recbole_base)
    known, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads the command line by itself
    try:
        result = run_recbole(
            model=options.model, dataset=options.dataset, config_file_list=options.config_files, config_dict=settings
        )
    finally:
        sys.argv = known
    table = Table("metric", "valid", "test", title=f"{options.model} on {options.dataset}")
    for metric, value in result["test_result"].items():
        table.add_row(metric, f"{result['best_valid_result'][metric]:.4f}", f"{value:.4f}")
    _show(table)


class _Live(Listener):
    """Progress on the terminal: encoding, then runs, each with its epoch, loss and best metric so far."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.runs: TaskID | None = None
        self.encodings: dict[str, TaskID] = {}
        self.best = float("-inf")

    def __enter__(self) -> _Live:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def encoding(self, encoder: str, done: int, total: int) -> None:
        if encoder not in self.encodings:
            _say(self.console, f"encoding {total} texts with {encoder}")
            self.encodings[encoder] = self.progress.add_task("encoding", total=total, note="")
        self.progress.update(self.encodings[encoder], completed=done, total=total, visible=done < total)

    def planned(self, runs: list[Run]) -> None:
        done = sum(run.done for run in runs)
        if done:
            _say(self.console, f"{done} of {len(runs)} runs are done already")
        self.runs = self.progress.add_task("runs", total=len(runs), completed=done, note="")

    def started(self, run: Run) -> None:
        self.best = float("-inf")
        self._note(f"{run.folder.name}")

    def epoch(self, run: Run, epoch: Any) -> None:
        if epoch.valid:
            self.best = max(self.best, next(iter(epoch.valid.values())))
        self._note(f"{run.folder.name}: epoch {epoch.epoch}, loss {epoch.loss:.3f}, best {self.best:.4f}")

    def finished(self, run: Run, value: float, seconds: float) -> None:
        _say(self.console, f"{run.folder.name}: {value:.4f} on validation, {seconds:.0f} s")
        if self.runs is not None:
            self.progress.advance(self.runs)

    def _note(self, text: str) -> None:
        if self.runs is not None:
            self.progress.update(self.runs, note=text)


if __name__ == "__main__":
    sys.exit(main())
