"""blair-rec compare | leaderboard: run a comparison, and show its results again."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from blair_rec.cli.lists import comma_list
from blair_rec.cli.numbers import seed_list
from blair_rec.cli.progress import Live, add_quiet
from blair_rec.cli.terminal import Console, say, set_up_logging, show, show_json, width_of_results
from blair_rec.cli.unused import refuse_unused
from blair_rec.config.yaml.files import Option, changed_by
from blair_rec.device import choose_device, process_count
from blair_rec.errors import BlairRecError, ConfigError, RecBoleError, counted, first_of, shell_line

if TYPE_CHECKING:  # imported when the command runs, so that --help is quick
    from blair_rec.config.comparison import CompareConfig
    from blair_rec.config.variant import VariantConfig
    from blair_rec.evaluate.leaderboard import Leaderboard
    from blair_rec.experiment.elsewhere.cases import PartName
    from blair_rec.experiment.planning.subset import Plan


def add(commands: Any) -> None:
    """Register both commands."""
    command = commands.add_parser("compare", help="train, evaluate and rank all variants of a comparison file")
    command.add_argument("config", type=Path, metavar="CONFIG", help="a comparison file (YAML)")
    command.add_argument(
        "-o",
        "--out",
        type=Path,
        help="output folder (may hold other files; none of them is replaced); default: runs/my for my.yaml",
    )
    command.add_argument(
        "--seeds",
        metavar="1,2",
        help="run only these seeds; a later call runs the rest. If one is not in CONFIG, they replace CONFIG's seeds",
    )
    command.add_argument(
        "--variants",
        metavar="A,B",
        help="run only these variants now; finished runs of the others stay on the leaderboard",
    )
    command.add_argument(
        "--shard", metavar="I/N", help="train only part I of N of the runs (I from 0), for example in a job array"
    )
    command.add_argument("--encode-only", action="store_true", help="make the text vectors, then exit")
    add_changes(command)
    command.add_argument("--dry-run", action="store_true", help="list planned and finished runs, then exit")
    command.add_argument("--fresh", action="store_true", help="train finished runs again")
    command.add_argument(
        "--accept-code",
        action="store_true",
        help="keep finished runs even if code that affects results has changed; the leaderboard notes it",
    )
    command.add_argument(
        "--check",
        type=Path,
        metavar="DIR",
        help="compare the results with the comparison in DIR; exit status 1 if they differ by more than noise",
    )
    add_quiet(command)
    command.add_argument("--json", action="store_true", help="print only leaderboard.json, on standard output")
    command.add_argument("--tensorboard", action="store_true", help="write event files into OUT/tensorboard")
    _add_notes(command)
    command.set_defaults(command=_compare, takes_processes=True, goes_on=True)

    command = commands.add_parser("leaderboard", help="show the results of finished comparisons again")
    command.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders that compare wrote")
    _add_notes(command)
    command.add_argument(
        "--export",
        metavar="KIND",
        help="also write the top lists of all runs into DIR/lists: trec, parquet or csv (docs/other_systems.md)",
    )
    command.add_argument(
        "--cases",
        choices=("test", "valid"),
        help="the cases that --export writes lists for (default: test)",
    )
    command.set_defaults(command=_leaderboard)


def _add_notes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--notes", action="store_true", help="show all notes, not only the five most important")


def _compare(options: argparse.Namespace, console: Console) -> int:
    if process_count() > 1 and not options.dry_run:
        return _compare_together(options, console)
    return _compare_alone(options, console)


def _compare_together(options: argparse.Namespace, console: Console) -> int:
    """Compare under torchrun: the first process runs the comparison, the others only help to train."""
    from blair_rec.training import parallel

    config = config_of(options)
    with parallel.group(config.computed_on):
        if parallel.rank() > 0:
            from blair_rec.experiment.planning.data_files import data_folder
            from blair_rec.experiment.run import follow

            try:
                follow(config, data_folder(config.dataset))
            except BlairRecError:  # the first process doesn't know of it
                console.quiet = False
                raise
            return 0
        try:
            status = _compare_alone(options, console)
        except RecBoleError:  # the others may be within a step and wait for this process, so torchrun has to stop them
            raise
        except BlairRecError:  # after any other error torchrun stops the other processes
            parallel.from_first(lambda: None)
            raise
        parallel.from_first(lambda: None)
        return status


def _compare_alone(options: argparse.Namespace, console: Console) -> int:
    from blair_rec.evaluate.report import to_json
    from blair_rec.evaluate.runs.results import load_runs
    from blair_rec.experiment.compare import check_out, compare, planned
    from blair_rec.experiment.planning.shards import shard_names
    from blair_rec.files.places import refuse_file
    from blair_rec.text.store.shards import parse_shard

    config = config_of(options)
    out = options.out or Path("runs") / options.config.stem
    variants, seeds = _asked(options, config)
    shard = None if options.shard is None else parse_shard(options.shard)
    # Other options may stay when --dry-run or --encode-only is added to a command. A dry run checks them, too.
    if options.check is not None:
        load_runs(options.check)  # report problems there before the training, not after it
    if options.tensorboard:
        refuse_file(out / "tensorboard")
    if options.dry_run:
        refuse_unused(options, {"json": "--json", "encode_only": "--encode-only"}, "with --dry-run, which lists runs")
        check_out(out)
        if config.computed_on.startswith("cuda"):  # torch takes seconds to load, so it is not loaded for others
            try:
                choose_device(config.computed_on)
            except ConfigError as error:  # a job array may be planned on a machine without a GPU
                say(console, f"this comparison can't run on this machine: {error}")
        found = planned(config, out, variants, seeds)
        if shard is not None:
            names = shard_names(found.config, variants or config.variants, seeds or config.seeds, shard)
            found = replace(found, asked=[run for run in found.asked if run.name in names])
        _show_plan(found, out, console, options.fresh)
        return 0
    if options.encode_only:
        refuse_unused(options, {"json": "--json"}, "with --encode-only, which trains nothing")
    quiet = options.quiet or options.json
    if quiet:
        set_up_logging(console, quiet)
    with Live(console, quiet, out / "tensorboard" if options.tensorboard else None) as live:
        board = compare(
            config,
            out,
            variants=variants,
            seeds=seeds,
            fresh=options.fresh,
            accept_code=options.accept_code,
            shard=shard,
            encode_only=options.encode_only,
            listener=live,
        )
    if options.encode_only:
        asked = config.only(variants) if variants else config
        there = _encoded(asked) and (out / "stores").is_dir()
        where = f"the text vectors are in {out / 'stores'}" if there else "no variant needs new text vectors"
        say(console, f"{where}; start again without --encode-only to train")
        return 0
    unchecked = "" if options.check is None else f", so nothing was compared with {options.check}"
    if board is None:  # only a shard leaves runs to other processes
        what = f"shard {options.shard} has ended; there is no leaderboard yet{unchecked}"
        say(console, f"{what}. When all shards have ended:")
        say(console, shell_line("blair-rec", "compare", options.config, "-o", out, *_same_settings(options)))
        return 0
    if options.json:
        show_json(to_json(board).rstrip())
    else:
        _show_board(board, options.notes)
    if not quiet:
        say(console, f"leaderboard.html, .md, .csv, .json and the runs are in {out}")
    return 0 if options.check is None else _check(out, options.check, console)


def add_changes(command: argparse.ArgumentParser) -> None:
    """Add the options by which `config_of` changes a comparison file."""
    command.add_argument("--encoder", help="use this encoder instead of text.encoder in CONFIG")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of CONFIG, such as train.epochs=5; may be repeated",
    )
    command.add_argument("--device", help="auto, cpu, cuda or cuda:1, instead of device in CONFIG")


def _same_settings(options: argparse.Namespace) -> list[str]:
    """The options of a shard that the command for its leaderboard needs, too."""
    named = [f"--{name}" for name in ("seeds", "variants", "encoder", "device", "check")]
    given = [[name, str(value)] for name in named if (value := getattr(options, name[2:])) is not None]
    given += [["--set", setting] for setting in options.set]
    return [word for words in given for word in words] + ["--accept-code"] * options.accept_code


def config_of(options: argparse.Namespace) -> CompareConfig:
    """Read the comparison file and apply --encoder, --device and --set.

    Raises:
        ConfigError: the file can't be used, or --encoder has no effect.
    """
    from blair_rec.experiment.planning.own_config import own_config

    overrides = []
    if options.encoder is not None:  # the file's settings belong to its own encoder
        own = {"revision": None, "pooling": "auto", "prompt": None, "query_prompt": None, "store": None}
        written = shell_line("--encoder", options.encoder)
        overrides += [
            Option(f"text.{key}={json.dumps(value)}", written)
            for key, value in {"encoder": options.encoder, **own}.items()
        ]
    if options.device is not None:
        overrides.append(changed_by("--device", "device", options.device))
    overrides += options.set
    config = own_config(options.config, overrides)
    if all("encoder" in variant.text for variant in _encoded(config)):
        refuse_unused(options, {"encoder": "--encoder"}, "without a variant that uses the shared encoder")
    return config


def _encoded(config: CompareConfig) -> list[VariantConfig]:
    """The variants whose text is encoded; the others use no text, or a store that is there."""
    return [one for one in config.variants.values() if one.uses_text and config.text_of(one).store is None]


def _asked(options: argparse.Namespace, config: CompareConfig) -> tuple[list[str] | None, list[int] | None]:
    """The variants and seeds of --variants and --seeds; None means all.

    Raises:
        ConfigError: a seed is not a whole number, or is given twice; a list has spaces instead of commas.
    """
    variants = None if options.variants is None else comma_list("--variants", options.variants) or [""]
    if options.seeds is None:
        return variants, None
    seeds = seed_list(comma_list("--seeds", options.seeds))
    try:
        return variants, list(config.changed(seeds=seeds).seeds)
    except ConfigError as error:
        raise ConfigError("\n".join(f"--seeds {options.seeds}: {line}" for line in str(error).splitlines())) from None


def _check(out: Path, other: Path, console: Console) -> int:
    """Show how every metric moved. The exit status is 1 if one moved beyond noise, or if that can't be decided."""
    from blair_rec.experiment.board import check

    found = check(out, other)
    for move in found:
        say(console, str(move), "" if move.agrees else "red")
    disagree = sum(not move.agrees for move in found)
    say(console, f"{disagree} of {counted(len(found), 'metric')} moved" if disagree else f"agrees with {other}")
    return int(disagree > 0)


def _show_board(board: Leaderboard, all_notes: bool) -> None:
    from blair_rec.evaluate.answer import answer
    from blair_rec.evaluate.report import to_terminal

    show(to_terminal(board, all_notes, width_of_results()))
    show(answer(board))


def _show_plan(found: Plan, out: Path, console: Console, fresh: bool) -> None:
    from blair_rec.experiment.item_vectors import Encoding
    from blair_rec.experiment.planning.still_valid import changes
    from blair_rec.text.template import catalogue_texts

    config = found.config
    where = f"{Path(config.dataset).name}, {', '.join(config.models)}: {counted(len(found.asked), 'run')} in {out}"
    table = Table("run", "items", "state", title=where)
    for run in found.asked:
        if not run.done:
            state = "to do"
        elif fresh:
            state = "done, will run again (--fresh)"
        else:
            state = f"done, but changed since: {'; '.join(changed)}" if (changed := changes(run)) else "done"
        table.add_row(run.folder.name, config.variants[run.variant].kind, state)
    show(table)
    for warning in found.warnings:
        say(console, warning)
    for encoding in dict.fromkeys(found.encodings.values()):
        if not isinstance(encoding, Encoding):
            say(console, f"vectors of {encoding.encoder} from {encoding.path}")
        else:
            state = "to do" if encoding.known_sha256() is None else "done"
            texts = set(catalogue_texts(encoding.catalogue, encoding.template)) - {""}  # each is encoded once
            say(console, f"encoding {counted(len(texts), 'text')} with {encoding.encoder}: {state}")


def _export(folder: Path, kind: str, part: PartName, console: Console) -> None:
    from blair_rec.experiment.elsewhere.written.export import export_lists

    found = export_lists(folder, kind, part)
    say(console, f"{counted(len(found), 'file')} of top lists in {next(iter(found)).parent}")
    for path, across in found.items():
        if across:
            cases = counted(across, "test case" if part == "test" else "validation case")
            say(
                console,
                f"{path.name}: in {cases} the target is tied with items beyond the end, so its rank is not exact",
            )


def _leaderboard(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.evaluate.report import to_terminal_across
    from blair_rec.experiment.board import leaderboard

    if options.cases is not None and options.export is None:
        raise ConfigError("--cases says what --export writes; give --export, too")
    folders: list[Path] = options.folders
    if twice := [str(one) for one, times in Counter(path.resolve() for path in folders).items() if times > 1]:
        raise ConfigError(f"DIR: {first_of(twice)} is given more than once; name each folder once")
    boards = []
    for folder in folders:
        boards.append(leaderboard(folder))
        _show_board(boards[-1], options.notes)
        if options.export is not None:
            _export(folder, options.export, options.cases or "test", console)
    if len(boards) > 1:
        show(to_terminal_across(boards, folders))
