"""blair-rec run: RecBole's quick start with our models; blair-rec models: which RecBole models can use item text."""

from __future__ import annotations

import argparse
from typing import Any

from rich.table import Column, Table

from blair_rec.cli.terminal import Console, say, show
from blair_rec.config.yaml.files import read_yaml
from blair_rec.errors import ConfigError

INTERVALS = ("user_inter_num_interval", "item_inter_num_interval")
"""RecBole's keys whose value is an interval, such as [5,inf), which is not YAML."""


def add(commands: Any) -> None:
    """Register the commands."""
    command = commands.add_parser(
        "run",
        help="run RecBole's quick start with one of our models",
        allow_abbrev=False,  # --mod is a key of RecBole, not short for --model
        epilog="--key=value sets any RecBole or blair_* key",
    )
    command.add_argument("--model", required=True, help="the model, such as BLaIRSASRec")
    command.add_argument(
        "--dataset", required=True, help="a folder of atomic files, or the name of a RecBole data set, such as ml-100k"
    )
    command.add_argument("--config-files", nargs="*", default=[], metavar="F", help="RecBole YAML files")
    command.set_defaults(command=_run, takes_keys=True)

    command = commands.add_parser("models", help="list RecBole's sequential models and which can use item text")
    command.set_defaults(command=_models)


def _run(options: argparse.Namespace, console: Console) -> None:
    settings: dict[str, Any] = {}
    for key in options.keys:
        name, equals, value = key.removeprefix("--").partition("=")
        if not key.startswith("--") or not equals:
            raise ConfigError(f"{key!r} is not written as --key=value, such as --epochs=20")
        if name in settings:
            raise ConfigError(f"--{name} is given twice; leave one of them out")
        # RecBole's own command line reads Python values and plain intervals.
        plain = name in INTERVALS and value[:1] in "[("
        settings[name] = None if value == "None" else value if plain else read_yaml(value, key)
    import blair_rec.recbole  # noqa: F401  (repairs RecBole before its first use)
    from blair_rec.training.quick_start import prepare, run

    start = prepare(options.model, options.dataset, options.config_files, settings)
    for note in start.notes:
        say(console, note)
    result = run(start)
    table = Table("metric", "valid", "test", title=f"{start.model} on {start.dataset}")
    valid, test = result["best_valid_result"] or {}, result["test_result"] or {}  # empty without such a split
    for metric in test or valid:
        table.add_row(metric, *(f"{split[metric]:.4f}" if metric in split else "" for split in (valid, test)))
    show(table)
    if not test:
        say(
            console,
            "the test split has no case, so nothing was measured there; check eval_args, and that users have "
            "at least three events",
        )


def _models(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.models.eligibility import recbole_models
    from blair_rec.recbole import eligibility

    reason = Column("item text", overflow="fold")
    table = Table("model", reason, "trained", "takes new items later", title="RecBole's sequential models and eSASRec")
    for name in recbole_models():
        found = eligibility(name)
        if isinstance(found, str):
            table.add_row(name, f"no: it {found}", "", "")
        else:
            trained = "every position, packed" if found.packed else "RecBole's way"
            table.add_row(name, "yes", trained, "yes" if found.cold_items else "no")
    show(table)
