"""blair-rec split | verify: the cases of a data set for other systems, and a check of what they recommend."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blair_rec.cli.numbers import whole
from blair_rec.cli.terminal import Console, say
from blair_rec.errors import ConfigError, agreed, counted, shell_line

if TYPE_CHECKING:  # imported when the command runs, so that --help is quick
    from blair_rec.config.comparison import CompareConfig


def add(commands: Any) -> None:
    """Register both commands."""
    command = commands.add_parser("split", help="write the training, validation and test cases for other systems")
    command.add_argument("data", metavar="DATA|CONFIG", help="a data set (leave-one-out), or a comparison file (YAML)")
    command.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="output folder")
    command.add_argument("--fresh", action="store_true", help="replace another split that was written there")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of CONFIG, such as ties=shuffled; may be repeated",
    )
    command.set_defaults(command=_split)

    command = commands.add_parser("verify", help="check the top lists or score matrix of another system")
    command.add_argument("file", type=Path, metavar="FILE", help="Parquet, CSV, JSON lines, a TREC run, .npz or .npy")
    command.add_argument("--split", type=Path, required=True, metavar="DIR", help="the folder that `split` wrote")
    command.add_argument(
        "--valid",
        dest="part",
        action="store_const",
        const="valid",
        default="test",
        help="FILE is for the validation cases (from_valid, from_valid_masked)",
    )
    command.add_argument(
        "--masked", action="store_true", help="FILE has no items of the histories (from_masked, from_valid_masked)"
    )
    command.add_argument("-k", type=whole, default=10, help="the largest cutoff of the metrics (default: 10)")
    command.set_defaults(command=_verify)


def _split(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.experiment.elsewhere.written.split import write_split

    manifest = write_split(_config(options.data, options.set), options.out, options.fresh)
    counts = manifest["counts"]
    nouns = {"users": "user", "items": "item", "training_events": "training event"}
    nouns |= {"validation_cases": "validation case", "test_cases": "test case"}
    words = ", ".join(counted(counts[name], noun) for name, noun in nouns.items())
    say(console, f"{options.out}: {words}")
    if tied := counts["successive_events_with_tied_times"]:
        pairs = (
            f"{tied:,} of {counted(counts['successive_events'], 'pair')} of successive events {agreed(tied, 'have')} "
            "tied timestamps"
        )
        say(console, f"{pairs}; keep the order of the files (ties: {manifest['ties']})")
    if why := manifest.get("recbole"):
        say(console, f"RecBole's files were {why}")
    verify = shell_line("blair-rec", "verify", "FILE", "--split", options.out)
    say(console, f"next: check the lists of another system with `{verify}`")


def _config(data: str, changes: Sequence[str]) -> CompareConfig:
    """A comparison file with changed keys, or a data set with the default settings.

    Raises:
        ConfigError: there are changes, but no file to change.
    """
    from blair_rec.config.comparison import load_config, read_config
    from blair_rec.config.yaml.paths import with_paths

    if Path(data).suffix.lower() in (".yaml", ".yml"):
        return load_config(data, changes)
    if changes:
        raise ConfigError(f"--set changes keys of a comparison file, but {data} is a data set; name a .yaml file")
    # Metrics don't change a split; a cutoff of 1 fits the smallest catalogue.
    raw = {"dataset": data, "variants": {"id": {}}, "evaluate": {"metrics": ["NDCG@1"]}}
    return read_config(with_paths(raw, Path.cwd()), "split")


def _verify(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.experiment.elsewhere.verify import verify

    for line in verify(options.file, options.split, options.part, options.masked, options.k):
        say(console, line)
