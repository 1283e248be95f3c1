"""blair-rec pretrain: train an encoder on your own pairs, as BLaIR was trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from blair_rec.cli.progress import Counters, add_quiet
from blair_rec.cli.terminal import Console, say, show
from blair_rec.config.yaml.files import changed_by, load_given
from blair_rec.errors import ConfigError, counted, shell_line
from blair_rec.extras import need


def add(commands: Any) -> None:
    """Register the command."""
    command = commands.add_parser("pretrain", help="continue the training of an encoder on pairs of texts")
    command.add_argument("config", type=Path, metavar="CONFIG", help="a pre-training file (YAML)")
    command.add_argument("-o", "--out", type=Path, required=True, help="folder for the trained encoder")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of CONFIG, such as epochs=3"
    )
    command.add_argument("--device", help="auto, cpu, cuda or cuda:1, instead of device in CONFIG")
    command.add_argument("--fresh", action="store_true", help="start again instead of resuming")
    add_quiet(command)
    command.set_defaults(command=_pretrain, takes_processes=True)


def _pretrain(options: argparse.Namespace, console: Console) -> None:
    need("accelerate", "pretrain", "pre-training")
    from blair_rec.pretrain.resuming import is_first
    from blair_rec.pretrain.settings import read_pretrain_config
    from blair_rec.pretrain.train import pretrain
    from blair_rec.text.encoding.modules import STATIC
    from blair_rec.text.encoding.source import resolve_encoder

    device = [] if options.device is None else [changed_by("--device", "device", options.device)]
    config = read_pretrain_config(*load_given(options.config, device + options.set))
    source = resolve_encoder(
        config.encoder, revision=config.revision, pooling=config.pooling, max_length=config.max_length
    )
    if source.outside:
        raise ConfigError(
            f"the encoder {source.name} is code of another package; only Hugging Face models can be pre-trained"
        )
    if source.pooling not in ("cls", "mean") or STATIC in source.modules:
        raise ConfigError(
            f"{source.name} can't be pre-trained: only a Transformer with pooling cls or mean can, but this one has "
            f"pooling {source.pooling}, modules {', '.join(source.modules) or 'none'}; set `pooling: cls`, or choose "
            "another encoder"
        )
    with Counters(console, options.quiet or not is_first()) as counters:

        def progress(done: int, total: int, loss: float) -> None:
            note = f"contrastive loss {loss:.3f}"
            counters.update(source.name, done, total, f"{source.name}, step {done:,} of {total:,}: {note}", note)

        record = pretrain(config, source.path, source.pooling, options.out, fresh=options.fresh, progress=progress)
    if not is_first():
        return
    if record["before"] is not None:
        contexts, items = record["before"]["contexts"], record["before"]["items"]
        held_out = f"{counted(contexts, 'context')}, {counted(items, 'item')}"
        table = Table("held out", "before", "after", title=held_out)
        for name in ("recall@10", "mrr"):
            table.add_row(name, f"{record['before'][name]:.4f}", f"{record['after'][name]:.4f}")
        show(table)
    say(console, f"the encoder is in {options.out}; use it with {shell_line('--encoder', options.out)}")
