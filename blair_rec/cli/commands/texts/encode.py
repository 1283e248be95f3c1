"""blair-rec encode and blair-rec store: make and manage stores of text vectors."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blair_rec.cli.lists import split_list
from blair_rec.cli.numbers import whole
from blair_rec.cli.progress import Live, add_quiet
from blair_rec.cli.terminal import Console, say
from blair_rec.cli.unused import refuse_unused
from blair_rec.config.names import DTYPES, ENCODER, MAX_LENGTH, POOLINGS, TEMPLATES
from blair_rec.errors import ConfigError, counted

if TYPE_CHECKING:
    from blair_rec.config.sections import TextConfig
    from blair_rec.text.store.embeddings import EmbeddingStore
    from blair_rec.text.template import Template


TEXT_KEYS = (
    "template", "encoder", "pooling", "max_length", "dtype", "prompt", "query_prompt", "truncate_dim", "normalize",
)  # fmt: skip
"""Options of `encode` that are keys of the text section, too."""


def add(commands: Any) -> None:
    """Register the commands."""
    _add_encode(commands)
    _add_store(commands)


def _add_encode(commands: Any) -> None:
    command = commands.add_parser("encode", help="compute the text vectors of a catalogue and store them")
    command.add_argument("--items", required=True, metavar="FILE", help="a RecBole .item file, JSON lines, CSV or TSV")
    command.add_argument(
        "--item-id", metavar="FIELD", help="the field that holds the item ids (default: item_id or parent_asin)"
    )
    command.add_argument(
        "--fields", default="", metavar="A,B", help="the metadata fields that form the text, such as title,brand"
    )
    command.add_argument(
        "--template",
        default=TEMPLATES[0],
        help="fields (default: the values of --fields), or without --fields: blair (the text that BLaIR's authors "
        "encode for recommendation), blair_unicode (the same, with all characters beyond ASCII), blair_pretrain (the "
        "text that BLaIR was pre-trained on)",
    )
    command.add_argument(
        "--encoder", default=ENCODER, help=f"a hub name, a local folder or a pip package (default: {ENCODER})"
    )
    command.add_argument(
        "--pooling", default="auto", help=f"auto (default, as the model's files say), {', '.join(POOLINGS)}"
    )
    command.add_argument(
        "--prompt",
        help="text in front of every item: the name of one of the model's prompts, or the text itself (default: as the "
        "model's files say)",
    )
    command.add_argument("--query-prompt", help="the same for search queries")
    command.add_argument(
        "--truncate-dim", type=whole, metavar="N", help="keep only the first N dimensions (Matryoshka models)"
    )
    command.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale vectors to length 1, or not (default: as the model's files say)",
    )
    command.add_argument(
        "--max-length", type=whole, default=MAX_LENGTH, help=f"the most tokens read per item (default: {MAX_LENGTH})"
    )
    command.add_argument(
        "--dtype", default=DTYPES[0], help=f"precision of the encoder: {', '.join(DTYPES)} (on a GPU); default: float32"
    )
    command.add_argument(
        "--store-dtype", default="float32", help=f"precision on disk: {', '.join(DTYPES)} (default: float32)"
    )
    command.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto, a GPU if there is one)")
    command.add_argument(
        "--shard",
        metavar="I/N",
        help="encode only part I of N (I from 0; default: RANK and WORLD_SIZE, if these are set)",
    )
    command.add_argument(
        "--ray-workers",
        type=whole,
        metavar="N",
        help="encode on a Ray cluster in parts, one worker per part; N workers",
    )
    command.add_argument(
        "--parts", type=whole, metavar="N", help="with --ray-workers: the number of parts (default: one per worker)"
    )
    command.add_argument("-o", "--out", type=Path, required=True, metavar="STORE", help="folder of the store")
    command.add_argument(
        "--fresh", action="store_true", help="replace a store that was made with another encoder or other settings"
    )
    add_quiet(command)
    command.set_defaults(command=_encode, takes_processes=True, takes_parts=True, goes_on=True)


def _encode(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.config.section import read_section
    from blair_rec.config.sections import TextConfig
    from blair_rec.registry import trusting
    from blair_rec.text.catalogue import iter_catalogue
    from blair_rec.text.template import Template

    raw = {"fields": split_list(options.fields), **{key: getattr(options, key) for key in TEXT_KEYS}}
    text = read_section(TextConfig, raw, "encode")
    if text.template == TEMPLATES[0] and not text.fields:
        _, record = next(iter_catalogue(options.items, options.item_id), ("", {}))
        raise ConfigError(
            f"--fields is missing; name the fields of {options.items} that form the text. It has: {', '.join(record)}"
        )
    template = Template(text.template, text.fields)
    if options.ray_workers is None:
        refuse_unused(options, {"parts": "--parts"}, "without --ray-workers")
        named = {text.encoder, *([text.fallback.encoder] if text.fallback else [])}
        with trusting(named):  # the user named them on the command line
            _encode_here(options, text, template, console)
    else:
        _encode_with_ray(options, text, template, console)


def _encode_with_ray(options: argparse.Namespace, text: TextConfig, template: Template, console: Console) -> None:
    from blair_rec.experiment.item_vectors import find_encoder
    from blair_rec.text.encoding.ray_encode import encode_with_ray

    parts = options.ray_workers if options.parts is None else options.parts
    if options.ray_workers < 1 or parts < 1:
        raise ConfigError(f"--ray-workers is {options.ray_workers}, --parts is {parts}; give at least 1 of each")
    shared = {"device": "--device", "shard": "--shard"}
    refuse_unused(options, shared, "with --ray-workers, whose workers share the work")
    with Live(console, options.quiet) as live:
        stores = encode_with_ray(
            [options.items],
            template,
            partial(find_encoder, text),
            options.out,
            parts=parts,
            workers=options.ray_workers,
            item_id=options.item_id,
            store_dtype=options.store_dtype,
            fresh=options.fresh,
            progress=lambda done, total: live.encoding("Ray", done, total),
        )
    say(Console(), f"wrote {counted(len(stores), 'part')}, from {stores[0]} on; join them with `blair-rec store merge`")


def _encode_here(options: argparse.Namespace, text: TextConfig, template: Template, console: Console) -> None:
    from blair_rec.experiment.item_vectors import find_encoder
    from blair_rec.experiment.provenance import vectors_code
    from blair_rec.text.catalogue import read_catalogue
    from blair_rec.text.encoding.encode import encode_catalogue
    from blair_rec.text.notes import repeat_notes, store_notes
    from blair_rec.text.store.shards import parse_shard, shard_from_environment

    shard = shard_from_environment() if options.shard is None else parse_shard(options.shard)
    source = find_encoder(text)
    catalogue = read_catalogue(options.items, options.item_id)
    with Live(console, options.quiet) as live:
        store = encode_catalogue(
            catalogue,
            template,
            source,
            options.out,
            store_dtype=options.store_dtype,
            shard=shard,
            fresh=options.fresh,
            code=vectors_code(),
            renew=options.fresh,
            device=options.device,
            progress=lambda done, total: live.encoding(source.name, done, total),
        )
    say(Console(), f"{_vectors(store)} by {source.name} in {store.path}")
    for note in [*store_notes(store), *repeat_notes(catalogue)]:
        say(Console(), note)
    if far := store.encoder.get("from_float32"):
        cosines = f"at least {far['cosine_min']:.6f}, on average {far['cosine_mean']:.6f}"
        if "neighbours_10" in far:
            cosines += f"; {far['neighbours_10']:.1%} of the ten nearest texts stay the same"
        say(Console(), f"cosine of {source.dtype} and float32 vectors of {counted(far['texts'], 'text')}: {cosines}")


A_STORE = "a folder that `encode`, `store import` or `compare` (OUT/stores/...) wrote"


def _add_store(commands: Any) -> None:
    store = commands.add_parser("store", help="inspect, check, join and convert stores of text vectors")
    jobs = store.add_subparsers(metavar="JOB", required=True)
    info = jobs.add_parser("info", help="show what a store contains")
    info.add_argument("store", type=Path, metavar="STORE", help=A_STORE)
    info.set_defaults(command=_info)
    verify = jobs.add_parser("verify", help="read every byte of a store and check it")
    verify.add_argument("stores", type=Path, nargs="+", metavar="STORE", help=A_STORE)
    verify.set_defaults(command=_verify)
    merge = jobs.add_parser("merge", help="join several stores, such as the parts that encode --shard wrote")
    merge.add_argument("parts", type=Path, nargs="+", metavar="STORE", help="the stores to join, without common items")
    merge.add_argument("-o", "--out", type=Path, required=True, metavar="STORE", help="folder of the joined store")
    merge.add_argument("--fresh", action="store_true", help="replace an existing store")
    merge.set_defaults(command=_merge)
    export = jobs.add_parser(
        "export", help="write a store as .npy, .parquet, .feature or .itememb; the ending of FILE decides"
    )
    export.add_argument("store", type=Path, metavar="STORE", help=A_STORE)
    export.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="a new file, such as vectors.npy")
    export.set_defaults(command=_export)
    take = jobs.add_parser("import", help="make a store from a .npy, .parquet, .feature or .itememb file")
    take.add_argument("file", type=Path, metavar="FILE", help="the vectors, a row for each item")
    take.add_argument(
        "--ids",
        type=Path,
        help="the item ids, if not next to the file: a JSON list, a text file with one id per line, or .data_maps",
    )
    take.add_argument("--encoder", default="unknown", help="the encoder that made the vectors (default: unknown)")
    take.add_argument(
        "--store-dtype", default="float32", help=f"precision on disk: {', '.join(DTYPES)} (default: float32)"
    )
    take.add_argument("-o", "--out", type=Path, required=True, metavar="STORE", help="folder of the new store")
    take.add_argument("--fresh", action="store_true", help="replace an existing store")
    take.set_defaults(command=_import)


def _info(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.store.embeddings import open_store

    store = open_store(options.store, verify=False)
    said = {
        "vectors": f"{len(store)} of width {store.text_dim}, {store.dtype}",
        "items without text": len(store.tokens) - len(store),
        "truncated texts": store.cut and f"{store.cut['items']} of {len(store)}",
        "requested max_length": _asked(store),
        "part": f"{store.shard[0]} of {store.shard[1]}, counted from 0" if store.shard else None,
        "whole catalogue": counted(store.whole["items"], "item") if store.whole else None,
        "first items": ", ".join(store.tokens.at(range(min(3, len(store))))),
        **{f"encoder {key}": value for key, value in store.encoder.items()},
        **{f"template {key}": value for key, value in store.template.items()},
        "text_sha256": store.text_sha256,
        "store_sha256": store.store_sha256,
    }
    for key, value in said.items():
        if value not in (None, ""):
            say(Console(), f"{key}: {value}")


def _asked(store: EmbeddingStore) -> str | None:
    """The requested number of tokens, if the encoder reads fewer."""
    asked, read = store.read.get("asked_length"), store.encoder.get("max_length")
    return f"{asked}, reduced to {read}: {store.read['capped_by']}" if asked and read and asked > read else None


def _verify(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.store.embeddings import open_store

    for path in options.stores:
        say(Console(), f"{path}: {counted(len(open_store(path)), 'vector')}, every byte as written")


def _merge(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.store.shards import merge_stores

    store = merge_stores(options.parts, options.out, fresh=options.fresh)
    parts = counted(len(options.parts), "store")
    say(Console(), f"joined {counted(len(store), 'vector')} of {parts} in {options.out}")


def _export(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.store.embeddings import open_store
    from blair_rec.text.store.exchange import export_store

    store = open_store(options.store)
    files = export_store(store, options.out)
    say(Console(), f"{_vectors(store)} in {', '.join(map(str, files))}")


def _import(options: argparse.Namespace, console: Console) -> None:
    from blair_rec.text.store.importing import import_store

    store = import_store(
        options.file,
        options.out,
        encoder=options.encoder,
        ids=options.ids,
        dtype=options.store_dtype,
        fresh=options.fresh,
    )
    say(Console(), f"{_vectors(store)} in {options.out}")


def _vectors(store: EmbeddingStore) -> str:
    """'2,000 vectors of width 768'."""
    return f"{counted(len(store), 'vector')} of width {store.text_dim}"
