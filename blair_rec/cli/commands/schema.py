"""blair-rec schema: describe the keys of a YAML file of ours, for editors and for readers."""

from __future__ import annotations

import argparse
from typing import Any

from blair_rec.cli.terminal import Console, show, show_json


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser("schema", help="print the JSON Schema of a kind of YAML file, for editors")
    command.add_argument(
        "kind", nargs="?", choices=["comparison", "pretraining"], default="comparison", help="default: comparison"
    )
    command.add_argument("--markdown", action="store_true", help="print a table of all keys instead")
    command.set_defaults(command=_schema)


def _schema(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.config.comparison import CompareConfig
    from blair_rec.config.schema import key_table, schema_text
    from blair_rec.config.section import Section
    from blair_rec.pretrain.settings import PretrainConfig

    kinds: dict[str, type[Section]] = {"comparison": CompareConfig, "pretraining": PretrainConfig}
    kind = kinds[options.kind]
    if options.markdown:
        show(key_table(kind).rstrip())
    else:
        show_json(schema_text(kind).rstrip())
