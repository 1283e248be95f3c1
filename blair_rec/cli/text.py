"""blair-rec encode: the text side alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from blair_rec.cli.terminal import Live, say
from blair_rec.config import TextConfig
from blair_rec.sections import read_section


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser("encode", help="precompute the text vectors of a catalogue")
    command.add_argument("--items", required=True, metavar="FILE", help="a RecBole .item file or JSON lines")
    command.add_argument("--fields", required=True, help="metadata fields that make up the text: title,brand")
    command.add_argument("--encoder", default=TextConfig().encoder, help="hub name, local folder or offline package")
    command.add_argument("--pooling", default="auto", help="auto, cls or mean")
    command.add_argument("--max-length", type=int, default=TextConfig().max_length, help="tokens read per item")
    command.add_argument("-o", "--out", type=Path, required=True, metavar="STORE", help="folder of the store")
    command.set_defaults(command=_encode)


def _encode(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.item_vectors import find_encoder
    from blair_rec.text.catalogue import read_catalogue
    from blair_rec.text.encode import encode_catalogue

    fields = [name.strip() for name in options.fields.split(",")]
    raw = {"fields": fields, "encoder": options.encoder, "pooling": options.pooling, "max_length": options.max_length}
    text = read_section(TextConfig, raw, "encode")
    source = find_encoder(text)
    with Live(console) as live:
        store = encode_catalogue(
            read_catalogue(options.items),
            text.fields,
            source,
            options.out,
            progress=lambda done, total: live.encoding(source.name, done, total),
        )
    say(Console(), f"{len(store)} vectors of width {store.text_dim} by {source.name} in {options.out}")
