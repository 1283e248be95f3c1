"""blair-rec schema: describe the keys of comparison files, for editors and for readers."""

from __future__ import annotations

import argparse
from typing import Any

from blair_rec.cli.terminal import Console, show, show_json


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser("schema", help="print the JSON Schema of comparison files, for editors")
    command.add_argument("--markdown", action="store_true", help="print a table of all keys instead")
    command.set_defaults(command=_schema)


def _schema(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.config.schema import key_table, schema_text

    if options.markdown:
        show(key_table().rstrip())
    else:
        show_json(schema_text().rstrip())
